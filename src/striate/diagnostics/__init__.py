"""Probes on a live model."""

from .profile import Layer, Profile, profile

__all__ = ["Layer", "Profile", "profile"]
