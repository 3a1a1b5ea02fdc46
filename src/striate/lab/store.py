"""Keeps what trials measured, a file a trial, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .claim import Claim
from .fingerprint import fingerprint, machine
from .verdict import Outcome, Result

__all__ = ["Store"]


@dataclass(frozen=True)
class Store:
    """A folder of results of one kind: quick or not, and on whose data and model.

    >>> Store(Path("lab")).folder, Store(Path("lab"), quick=True, data="folder:photos").folder
    (PosixPath('lab/full'), PosixPath('lab/quick-folder-photos'))
    """

    root: Path
    quick: bool = False
    data: str | None = None
    model: str | None = None

    @property
    def folder(self) -> Path:
        """Where the results lie."""
        words = ["quick" if self.quick else "full", *(word for word in (self.data, self.model) if word is not None)]
        return self.root / "-".join(re.sub(r"[^A-Za-z0-9]+", "-", word).strip("-") for word in words)

    def save(self, claim: Claim, outcome: Outcome) -> None:
        """Writes what a trial measured, with what that depends on: the code and the machine."""
        self.folder.mkdir(parents=True, exist_ok=True)
        told = {"name": claim.name, "depends_on": self._depends_on(claim), **outcome.to_dict()}
        write_atomically(self._path(claim, outcome.seed), json.dumps(told, indent=1))

    def load(self, claim: Claim, seed: int) -> Outcome | None:
        """What this code on this machine has measured before; None if there is none, or if it raised an error."""
        told = self._read(claim, seed)
        return None if told is None else Outcome.from_dict(told)

    def result(self, claim: Claim) -> Result | None:
        """The result of all seeds of a claim; None if one is missing."""
        told = [one for one in (self._read(claim, seed) for seed in claim.seeds_of(self.quick)) if one is not None]
        if len(told) < len(claim.seeds_of(self.quick)):
            return None
        outcomes = [Outcome.from_dict(one) for one in told]
        return Result(claim, outcomes, self.quick, self.data, self.model, machine())

    def _path(self, claim: Claim, seed: int) -> Path:
        return self.folder / f"{claim.name}-{seed}.json"

    def _depends_on(self, claim: Claim) -> dict[str, Any]:
        asked = {"quick": self.quick, "data": self.data, "model": self.model}
        return {"code": fingerprint(claim), "machine": machine(), **asked}

    def _read(self, claim: Claim, seed: int) -> dict[str, Any] | None:
        try:
            told: dict[str, Any] = json.loads(self._path(claim, seed).read_text(encoding="utf-8"))
            is_this = told["depends_on"] == self._depends_on(claim) and told["seed"] == seed and told["error"] is None
            Outcome.from_dict(told)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # what is no result is measured anew
            return None
        return told if is_this else None
