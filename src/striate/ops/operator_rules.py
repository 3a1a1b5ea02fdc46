"""What torch's tools ask of our operators where they meet them, in compiled code: a rule for vmap, and how many FLOPs
they are.

Their fake kernels and gradients stand with the operators' families.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import conv_backward_flop, conv_flop_count, register_flop_formula

from .. import native

__all__ = ["OPERATORS", "one_by_one"]

Shape = list[int]
# All but norm_update, which changes its arguments: a batch of calls could not share them.
OPERATORS = (
    *("conv", "conv_bias", "conv_fused", "conv_input", "conv_measured", "conv_pack", "conv_weight"),
    *("local", "local_input", "local_weight"),
    *("norm", "norm_backward", "norm_measure", "norm_sums", "local_response", "local_response_backward"),
    *("avg_pool", "avg_pool_backward", "max_pool_index", "max_pool_index_backward"),
    *("max_pool_offset", "max_pool_offset_backward", "offset_to_index"),
)


def one_by_one(op: Any) -> Any:
    """A vmap rule: the operator for each of the batch, and the results as a batch."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        def part(value: Any, dim: Any, k: int) -> Any:
            return value.select(dim, k) if isinstance(value, Tensor) and dim is not None else value

        made = [op(*(part(a, d, k) for a, d in zip(args, in_dims, strict=True))) for k in range(info.batch_size)]
        if isinstance(made[0], Tensor):
            return torch.stack(made), 0
        return tuple(torch.stack(parts) for parts in zip(*made, strict=True)), (0,) * len(made[0])

    return rule


def _conv(x: Shape, weight: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return conv_flop_count(x, weight, out_shape)


def _conv_measured(x: Shape, weight: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return conv_flop_count(x, weight, out_shape[0])


def _conv_input(dy: Shape, weight: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return conv_flop_count(dy, weight, out_shape, transposed=True)


def _conv_weight(dy: Shape, x: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    geometry = (None, None, None, None, False, None, None)
    return conv_backward_flop(dy, x, out_shape, *geometry, [False, True, False], [None, out_shape, None])


def _local(x: Shape, weight: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * x[0] * prod(weight)


def _local_weight(dy: Shape, x: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * x[0] * prod(out_shape)


if native.core:
    _ops = torch.ops.striate
    _FLOPS: dict[str, Any] = {
        **{"conv": _conv, "conv_fused": _conv, "conv_measured": _conv_measured},
        **{"conv_input": _conv_input, "conv_weight": _conv_weight},
        **{"local": _local, "local_input": _local, "local_weight": _local_weight},
    }
    for _name, _formula in _FLOPS.items():
        register_flop_formula(getattr(_ops, _name))(_formula)
    for _name in OPERATORS:
        torch.library.register_vmap(f"striate::{_name}", one_by_one(getattr(_ops, _name).default))
