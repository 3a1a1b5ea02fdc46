"""Measurements on a live model: its profile, fields, gradients, activations, Lipschitz constants, scales and norms."""

from .._renamed import accept_old_names
from .activations import ActivationRow, ActivationStatistics, DeadUnits, activation_statistics, dead_units
from .flow import FlowRow, GradientFlow, gradient_flow
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

__all__ = [
    "ActivationRow",
    "ActivationStatistics",
    "DeadUnits",
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
    "Profile",
    "RateRow",
    "RecomputedStatistics",
    "ScaleInvariance",
    "ScaleRecord",
    "ScaleReport",
    "ScaleRow",
    "ScaleWatch",
    "StatisticsNoise",
    "StatisticsRow",
    "WeightRow",
    "activation_statistics",
    "angle",
    "dead_units",
    "effective_rates",
    "equilibrium_angle",
    "gradient_flow",
    "lipschitz",
    "norm_mismatch",
    "operator_norm",
    "profile",
    "recompute_statistics",
    "scale_invariant",
    "statistics_noise",
]

accept_old_names(__name__)
