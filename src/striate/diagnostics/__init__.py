"""Measurements on a live model: profile, fields, gradients, activations, curvature, Lipschitz constants, scales."""

from .._renamed import accept_old_names
from .activations import ActivationRow, ActivationStatistics, DeadUnits, activation_statistics, dead_units
from .curvature import Curvature, CurvatureByMode, Density, curvature
from .diagnose import Diagnosis, diagnose
from .flow import FlowRow, GradientFlow, gradient_flow
from .landscape import (
    Plane,
    Predictiveness,
    Slice,
    Smoothness,
    effective_smoothness,
    gradient_predictiveness,
    loss_plane,
    loss_slice,
)
from .lipschitz import Factor, LipschitzBounds, OperatorNorm, lipschitz, operator_norm
from .norms import (
    MismatchRow,
    NoiseRow,
    NormMismatch,
    RecomputedStatistics,
    StatisticsNoise,
    StatisticsRow,
    norm_mismatch,
    recompute_statistics,
    statistics_noise,
)
from .profile import LayerTime, Profile, profile
from .scale import (
    EffectiveRates,
    RateRow,
    ScaleInvariance,
    ScaleRecord,
    ScaleReport,
    ScaleRow,
    ScaleWatch,
    WeightRow,
    angle,
    effective_rates,
    equilibrium_angle,
    scale_invariant,
)
from .symptoms import Symptom

__all__ = [
    "ActivationRow",
    "ActivationStatistics",
    "Curvature",
    "CurvatureByMode",
    "DeadUnits",
    "Density",
    "Diagnosis",
    "EffectiveRates",
    "Factor",
    "FlowRow",
    "GradientFlow",
    "LayerTime",
    "LipschitzBounds",
    "MismatchRow",
    "NoiseRow",
    "NormMismatch",
    "OperatorNorm",
    "Plane",
    "Predictiveness",
    "Profile",
    "RateRow",
    "RecomputedStatistics",
    "ScaleInvariance",
    "ScaleRecord",
    "ScaleReport",
    "ScaleRow",
    "ScaleWatch",
    "Slice",
    "Smoothness",
    "StatisticsNoise",
    "StatisticsRow",
    "Symptom",
    "WeightRow",
    "activation_statistics",
    "angle",
    "curvature",
    "dead_units",
    "diagnose",
    "effective_rates",
    "effective_smoothness",
    "equilibrium_angle",
    "gradient_flow",
    "gradient_predictiveness",
    "lipschitz",
    "loss_plane",
    "loss_slice",
    "norm_mismatch",
    "operator_norm",
    "profile",
    "recompute_statistics",
    "scale_invariant",
    "statistics_noise",
]

accept_old_names(__name__)
