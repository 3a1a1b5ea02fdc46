"""What an explanation consists of: a title, facts by name, and parts of text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any

from ...render.numbers import sizes
from ...render.text import labelled

__all__ = ["BYTES", "VERSION", "WIDTH", "Explanation", "Part", "Row"]

Row = tuple[str | None, str]  # a label and its text; "": a sentence, no label; None: text that stands as it is
VERSION = 1  # of to_dict's form
WIDTH = 100
BYTES = 4  # of a float32


@dataclass(frozen=True)
class Part:
    """A heading and the rows below it."""

    title: str
    rows: tuple[Row, ...]

    def lines(self, width: int = WIDTH) -> list[str]:
        """The rows below the heading, labels in a column.

        >>> print("\\n".join(Part("Memory", (("x", "4 bytes"), ("weights", "8 bytes"))).lines()))
        x        4 bytes
        weights  8 bytes
        """
        gap = 1 if any(text[:1] in ("=", "←") for _, text in self.rows) else 2
        labels = [label for label, _ in self.rows if label]
        lines: list[str] = []
        for label, text in self.rows:
            if label is None or not text:
                lines += text.splitlines() or [""]
            elif label:
                lines += labelled([(label, text)], width, gap, labels)
            else:
                lines += textwrap.wrap(text, width, break_on_hyphens=False)
        return lines


@dataclass(frozen=True)
class Explanation:
    """What :func:`~striate.explain` found: ``print`` shows it.

    facts: numbers by name; parts: the text; values: the tensors of the worked example, if there is one.
    """

    title: str
    facts: dict[str, Any]
    parts: tuple[Part, ...]
    values: dict[str, Any] = field(default_factory=dict)

    def lines(self, width: int = WIDTH) -> list[str]:
        lines = textwrap.wrap(self.title, width)
        lines += [f"x {sizes(self.facts['input_shape'])} → y {sizes(self.facts['output_shape'])}"]
        for part in self.parts:
            lines += ["", *textwrap.wrap(part.title, width, subsequent_indent="  ")]
            lines += [f"  {line}".rstrip() for line in part.lines(width - 2)]
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON: the facts, the text of each part, and the worked example's tensors as nested lists."""
        parts = [{"title": part.title, "lines": part.lines()} for part in self.parts]
        values = {name: value.tolist() for name, value in self.values.items()}
        return {"version": VERSION, "title": self.title, **self.facts, "parts": parts, "values": values}
