"""Measurements on a live model: its profile, its receptive fields, and what its gradients and activations do."""

from .._renamed import accept_old_names
from .activations import ActivationRow, ActivationStatistics, DeadUnits, activation_statistics, dead_units
from .flow import FlowRow, GradientFlow, gradient_flow
from .profile import LayerTime, Profile, profile

__all__ = [
    "ActivationRow",
    "ActivationStatistics",
    "DeadUnits",
    "FlowRow",
    "GradientFlow",
    "LayerTime",
    "Profile",
    "activation_statistics",
    "dead_units",
    "gradient_flow",
    "profile",
]

accept_old_names(__name__)
