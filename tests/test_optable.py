"""The op table: each column has a value for every row, rows are existing operators, and no other file lists operators.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import torch

import striate
from striate.graph import optable
from striate.graph.optable import COLUMNS, TABLE, is_pointwise, kind_of, row_of
from striate.ops import operator_rules

ROOT = Path(striate.__file__).parent
NO_OPERATORS = {"written", "aten.locally_connected", "locally_connected", "getitem"}  # that only striate knows
# The files of rows and columns, of torch's private names, and of activations as arguments of layers.
OWNERS = {"graph/operators.py", "graph/cost.py", "_torch.py", "reference/norm.py"}
OWNERS |= {"ops/norm/__init__.py", "ops/norm/functions.py"}  # functions that are named as operators
# The parts that still list operators' names, with the number of lists: this only shrinks.
LEFT = {"deploy": 1}  # names of functions for messages of fold


def owners() -> None:
    """Imports every part that registers a column."""
    for path in ROOT.rglob("*.py"):
        if "Column" in path.read_text():
            importlib.import_module(".".join(("striate", *path.relative_to(ROOT).with_suffix("").parts)))


def test_each_column_answers_for_every_row() -> None:
    owners()
    assert len(COLUMNS) >= 3
    missing = {c.title: names for c in COLUMNS if (names := [r.name for r in TABLE.values() if not c.answers(r)])}
    assert missing == {}, "say what it is for these, or column.none(kind)"


def test_each_column_names_only_operators_that_have_rows() -> None:
    owners()
    assert {column.title: column.unknown() for column in COLUMNS if column.unknown()} == {}


def test_rows_are_of_operators_that_exist() -> None:
    missing = []
    for name in TABLE:
        namespace, _, base = name.partition(".")
        known = not base or name.endswith("*") or hasattr(getattr(torch.ops, namespace), base)
        missing += [] if known or name in NO_OPERATORS else [name]
    # operators of other torch builds and of other devices
    assert set(missing) <= {"aten.slow_conv2d_forward", *(n for n in TABLE if n.startswith("aten._adaptive_"))}


def test_the_columns_of_the_table_have_the_values_that_they_may_have() -> None:
    for row in TABLE.values():
        assert row.result in ("new", "view", "input", "?"), row
        assert row.size in ("keeps", "clamps", "unit", "sum", "product", "-"), row
        assert row.program in ("runs", "refused", "-"), row
    assert optable.KINDS.issuperset(optable.FUSES) and optable.KINDS.issuperset(sum(optable.FUSES.values(), ()))


def test_results_that_are_new_memory_or_views_are_what_torch_says() -> None:
    """By the schema: what is said to be new has no alias, what is said to be a view has one."""
    for row in TABLE.values():
        namespace, _, base = row.name.partition(".")
        packet = getattr(getattr(torch.ops, namespace), base, None) if base and not row.name.endswith("*") else None
        if packet is None:
            continue
        returns = [r for name in packet.overloads() for r in getattr(packet, name)._schema.returns]
        outs = [name for name in packet.overloads() if "out" in name]
        if row.result == "new" and not outs:
            assert all(r.alias_info is None for r in returns), row
        if row.result == "view" and base not in ("narrow", "lift_fresh"):
            assert any(r.alias_info is not None for r in returns) or base in ("_unsafe_view", "unfold"), row


def test_operators_in_place_have_the_row_of_those_that_are_not() -> None:
    row = row_of("aten.leaky_relu_.default")
    assert row is not None and (row.name, row.kind, row.result) == ("aten.leaky_relu_", "activation", "input")
    assert row_of("aten.squeeze_") == TABLE["aten.squeeze_"]
    assert row_of("aten.no_such_") is None and kind_of("aten.no_such_") == "unknown"


def test_what_has_no_row_is_pointwise_or_unknown() -> None:
    assert is_pointwise("aten.exp.default") and kind_of("aten.exp.default") == "pointwise"
    assert kind_of("aten._linalg_solve_ex") == "uncounted_product"  # by a pattern


def lists_of_operators(path: Path) -> list[int]:
    """Lines with a collection or a text of two or more names of operators, but for a column's own."""
    tree = ast.parse(path.read_text())
    known = {name.removeprefix("aten.") for name in TABLE if "_" in name.removeprefix("aten.")} | set(TABLE)
    registered = {
        id(inner)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in ("of", "of_kinds")
        for inner in ast.walk(call)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in registered:
            continue
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            texts = [e.value for e in node.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)]
        elif isinstance(node, ast.Dict):
            texts = [k.value for k in node.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("\n"):
            texts = node.value.split()
        else:
            continue
        names = [t for t in texts if t in known or optable.packet_of(t) in known or t.partition(".")[0] == "aten"]
        if len(names) >= 2:
            found.append(node.lineno)
    return found


def test_lists_of_operators_are_in_the_table_alone() -> None:
    found: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT)
        if name.as_posix() not in OWNERS and not name.as_posix().startswith("graph/links/"):
            found.setdefault(name.parts[0], []).extend(f"{name}:{line}" for line in lists_of_operators(path))
    more = {part: lines for part, lines in found.items() if len(lines) > LEFT.get(part, 0)}
    assert more == {}, "make these queries of the op table, or columns of their owners"


def test_the_rules_for_vmap_are_of_every_operator_of_striates_that_changes_no_argument() -> None:
    own = {name.removeprefix("striate.") for name in TABLE if name.startswith("striate.")}
    assert own - {"norm_update"} == set(operator_rules.OPERATORS)
    names = torch._C._dispatch_get_all_op_names()
    registered = {name.partition("::")[2] for name in names if name.startswith("striate::")}
    without_tensors = {"activations", "conv_methods", "isa_available", "isa_choose", "isa_chosen"}
    without_tensors |= {"machine", "machine_choose", "multiply_adds"}
    assert registered - own <= without_tensors, "operators without a row"


if __name__ == "__main__":  # lists the remaining ones: python tests/test_optable.py
    for path in sorted(ROOT.rglob("*.py")):
        for line in lists_of_operators(path):
            print(f"{path.relative_to(ROOT)}:{line}")
