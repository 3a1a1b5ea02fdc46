"""The experiments, a file a claim: each has ``CLAIM``, and a function that measures one trial. A new file in this
folder is found by itself.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ...errors import ArgumentError, build, did_you_mean
from ..claim import Claim

__all__ = ["all_claims", "claim_of"]


def all_claims() -> list[Claim]:
    """All claims, in the order of the notes' sections, then by name.

    Raises ArgumentError for a claim that has another name than its file.
    """
    found = [_claim_in(module.name) for module in iter_modules(__path__)]
    return sorted(found, key=lambda claim: ([int(part) for part in claim.section.split(".")], claim.name))


def claim_of(name: str) -> Claim:
    """The claim of a name.

    Raises ArgumentError for a name that none has, with those that are near.
    """
    names = [module.name.replace("_", "-") for module in iter_modules(__path__)]
    if name not in names:
        hint = f"List them: striate lab list.{did_you_mean(name, names)}"
        raise ArgumentError(build("lab", "the name of an experiment", repr(name), hint=hint))
    return _claim_in(name.replace("-", "_"))


def _claim_in(module: str) -> Claim:
    claim: Claim = import_module(f"{__name__}.{module}").CLAIM
    if claim.name != module.replace("_", "-"):
        hint = "Rename the file or the claim."
        raise ArgumentError(build(f"the experiment {module}.py", "a claim of its name", repr(claim.name), hint=hint))
    return claim
