"""Criteria: comparisons of measured numbers, as text: what was written before a run is what decides after it."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ..errors import ArgumentError, build

__all__ = ["is_met", "names_in"]

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
CALLS: dict[str, Callable[..., Any]] = {"abs": abs, "max": max, "min": min}
HINT = "Write it like: plain < 0.2 and batch_norm > 0.9."


def names_in(text: str) -> frozenset[str]:
    """The statistics that a criterion compares.

    Raises ArgumentError for a text that is no comparison of names and numbers by + - * / ** < <= > >= and, or, not,
    abs, max and min.

    >>> sorted(names_in("abs(plain - 0.25) < 0.02 and batch_norm > 2 * plain"))
    ['batch_norm', 'plain']
    """
    tree = _parsed(text)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called)


def is_met(text: str, values: Mapping[str, float]) -> bool | None:
    """Whether the numbers meet a criterion; None, unknown, if one that it names is missing or not finite, or if its
    arithmetic has no result, as a division by 0.

    Raises ArgumentError as :func:`names_in` does.

    >>> is_met("low < 0.2 < high", {"low": 0.1, "high": 0.9}), is_met("low < 0.2", {"low": float("nan")})
    (True, None)
    """
    tree = _parsed(text)
    if not all(name in values and math.isfinite(values[name]) for name in names_in(text)):
        return None
    try:
        return bool(_value(tree, values))
    except (ArithmeticError, TypeError):  # TypeError: an order of complex numbers, as a root of a negative one is
        return None


@lru_cache(maxsize=256)
def _parsed(text: str) -> ast.expr:
    """The tree of a criterion whose every part is known, and which compares something."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        raise _error("a comparison in Python's notation", repr(text)) from None
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and not _is_known(node):
            raise _error("names, numbers, + - * / ** < <= > >=, and, or, not, abs, max, min", repr(ast.unparse(node)))
    if not _is_comparison(tree):
        raise _error("a comparison", repr(text))
    return tree


def _is_known(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float)
    if isinstance(node, ast.BinOp):
        return type(node.op) in BINARY
    if isinstance(node, ast.UnaryOp):
        return type(node.op) in UNARY
    if isinstance(node, ast.Compare):
        return all(type(one) in COMPARISONS for one in node.ops)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in CALLS and bool(node.args) and not node.keywords
    return isinstance(node, ast.Name | ast.BoolOp)


def _is_comparison(node: ast.expr) -> bool:
    """Whether an expression is true or false, and not a number."""
    if isinstance(node, ast.BoolOp):
        return all(map(_is_comparison, node.values))
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not) and _is_comparison(node.operand)
    return isinstance(node, ast.Compare)


def _value(node: ast.expr, values: Mapping[str, float]) -> Any:
    """The value of an expression that :func:`_parsed` has checked."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.BinOp):
        return BINARY[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.UnaryOp):
        return UNARY[type(node.op)](_value(node.operand, values))
    if isinstance(node, ast.BoolOp):
        combine = all if isinstance(node.op, ast.And) else any
        return combine(_value(one, values) for one in node.values)
    if isinstance(node, ast.Compare):
        numbers = [_value(one, values) for one in (node.left, *node.comparators)]
        pairs = zip(node.ops, numbers, numbers[1:], strict=False)
        return all(COMPARISONS[type(op)](left, right) for op, left, right in pairs)
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return CALLS[node.func.id](*(_value(one, values) for one in node.args))


def _error(expects: str, got: str) -> ArgumentError:
    return ArgumentError(build("criterion", expects, got, hint=HINT))
