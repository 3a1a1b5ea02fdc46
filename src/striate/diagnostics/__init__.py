"""Measurements on a live model: its profile, receptive fields, what its gradients and activations do, and curvature."""

from .._renamed import accept_old_names
from .activations import ActivationRow, ActivationStatistics, DeadUnits, activation_statistics, dead_units
from .curvature import Curvature, CurvatureByMode, Density, curvature
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
from .profile import LayerTime, Profile, profile

__all__ = [
    "ActivationRow",
    "ActivationStatistics",
    "Curvature",
    "CurvatureByMode",
    "DeadUnits",
    "Density",
    "FlowRow",
    "GradientFlow",
    "LayerTime",
    "Plane",
    "Predictiveness",
    "Profile",
    "Slice",
    "Smoothness",
    "activation_statistics",
    "curvature",
    "dead_units",
    "effective_smoothness",
    "gradient_flow",
    "gradient_predictiveness",
    "loss_plane",
    "loss_slice",
    "profile",
]

accept_old_names(__name__)
