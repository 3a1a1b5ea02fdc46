"""Where a model's time goes, layer by layer."""

from .report import Profile
from .result import LayerTime, StepTimes
from .run import profile

__all__ = ["LayerTime", "Profile", "StepTimes", "profile"]
