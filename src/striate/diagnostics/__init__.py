"""Probes on a live model."""

from .profile import LayerTime, Profile, profile

__all__ = ["LayerTime", "Profile", "profile"]
