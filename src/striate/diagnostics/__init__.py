"""Probes on a live model."""

from .._renamed import accept_old_names
from .profile import LayerTime, Profile, profile

__all__ = ["LayerTime", "Profile", "profile"]

accept_old_names(__name__)
