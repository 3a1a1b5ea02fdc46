"""Experiments that test what the course notes claim: a file a claim, a verdict from several seeds."""

from .claim import Claim, Trial

__all__ = ["Claim", "Trial"]
