"""Tensors of a worked example as text: matrices side by side, and single values as the sums that they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor

from ...render.text import beside, columns
from .result import Row

__all__ = ["Index", "all_indices", "cell", "counting", "factor", "filled", "matrices", "number", "sampled", "sum_text"]

WIDTH = 96
Index = tuple[int, ...]
GAP = 3  # between matrices


def number(value: float) -> str:
    """Writes a number with at most four decimals and a true minus sign.

    >>> number(-2.0), number(0.1 + 0.2), number(-1e-9)
    ('−2', '0.3', '0')
    """
    rounded = round(value, 4) + 0.0  # + 0.0 turns −0 into 0
    return f"{rounded:.4f}".rstrip("0").rstrip(".").replace("-", "−")


def factor(value: float) -> str:
    """Writes a number as a factor or summand: in parentheses if it is negative."""
    text = number(value)
    return f"({text})" if text.startswith("−") else text


def cell(name: str, shape: Sequence[int], index: Index, lead: int = 2) -> str:
    """``x[0,2]``: names a value by its index; of the first ``lead`` axes those of size 1 are left out.

    >>> cell("x", (1, 3, 4, 4), (0, 2, 1, 0)), cell("b", (1,), (0,), 1)
    ('x[2,1,0]', 'b')
    """
    kept = [str(i) for d, i in enumerate(index) if d >= lead or shape[d] > 1]
    return f"{name}[{','.join(kept)}]" if kept else name


def _blocks(name: str, t: Tensor, lead: int = 2) -> list[tuple[str, list[str]]]:
    """Splits a tensor into matrices, each with its name and its lines of text."""
    shape = tuple(t.shape)
    if t.dim() < 2:
        t, shape = t.reshape(1, -1), (1, *shape)
    found = []
    for place in product(*(range(n) for n in shape[:-2])):
        rows = [[number(v) for v in row] for row in t[place].tolist()]
        lines = columns(rows, ">" * shape[-1], gap=1)
        kept = [str(i) for d, i in enumerate(place) if d >= lead or shape[d] > 1]
        found.append((f"{name}[{','.join(kept)}]" if kept else name, lines))
    return found


def matrices(*named: tuple[str, Tensor], lead: int = 2, width: int = WIDTH) -> Row:
    """Writes tensors as matrices side by side, as many as fit the width.

    >>> print(matrices(("x", torch.arange(4.0).reshape(1, 1, 2, 2)), ("b", torch.tensor([-1.0])))[1])
    x     b
    0 1   −1
    2 3
    """
    blocks = [[label, *lines] for name, t in named for label, lines in _blocks(name, t, lead)]
    return (None, "\n".join(beside(blocks, width, GAP)))


def sum_text(terms: Iterable[str], result: float) -> str:
    """``= 1·2 + 0·3 = 2``; an empty sum is 0, and a sum of one number is written as ``= 2``."""
    text, value = " + ".join(terms) or "0", number(result)
    return f"= {value}" if text in (value, f"({value})") else f"= {text} = {value}"


def sampled(shape: Sequence[int], most: int = 4) -> list[Index]:
    """All indices if there are at most ``most``, else the first, the middle one and the last."""
    middle = tuple(n // 2 for n in shape)
    few = [(0,) * len(shape), middle, tuple(n - 1 for n in shape)]
    return all_indices(shape) if prod(shape) <= most else list(dict.fromkeys(few))


def all_indices(shape: Sequence[int]) -> list[Index]:
    return list(product(*(range(n) for n in shape)))


def filled(shape: Sequence[int], cycle: Sequence[float]) -> Tensor:
    count = prod(shape)
    return torch.tensor([cycle[i % len(cycle)] for i in range(count)], dtype=torch.float64).reshape(tuple(shape))


def counting(shape: Sequence[int]) -> Tensor:
    return torch.arange(1, prod(shape) + 1, dtype=torch.float64).reshape(tuple(shape))
