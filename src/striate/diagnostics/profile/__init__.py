"""Where a model's time goes, layer by layer."""

from ..._renamed import accept_old_names
from .report import Profile
from .result import LayerTime, StepTimes
from .run import profile

__all__ = ["LayerTime", "Profile", "StepTimes", "profile"]

accept_old_names(__name__)
