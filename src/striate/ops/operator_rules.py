"""Registers what torch's tools need of striate's operators in compiled code: a vmap rule and the number of FLOPs.

The fake kernels and gradients are registered by the operators' families.
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
# All operators but norm_update, which writes into its arguments: the calls of a batch cannot share them.
OPERATORS = (
    *("conv", "conv_bias", "conv_fused", "conv_backward_data", "conv_measured", "conv_pack", "conv_backward_weights"),
    *("linear", "linear_backward_data", "linear_backward_weights"),
    *("local", "local_backward_data", "local_backward_weights"),
    *("norm", "norm_backward", "norm_measure", "norm_sums", "local_response", "local_response_backward"),
    *("avg_pool", "avg_pool_backward", "max_pool_index", "max_pool_index_backward"),
    *("max_pool_offset", "max_pool_offset_backward", "offset_to_index"),
)


def one_by_one(op: Any) -> Any:
    """A vmap rule that calls the operator for each element of the batch and stacks the results."""

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


def _conv_backward_data(dy: Shape, weight: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return conv_flop_count(dy, weight, out_shape, transposed=True)


def _conv_backward_weights(dy: Shape, x: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    geometry = (None, None, None, None, False, None, None)
    return conv_backward_flop(dy, x, out_shape, *geometry, [False, True, False], [None, out_shape, None])


def _linear(x: Shape, weight: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(x) * weight[0]


def _linear_backward_data(dy: Shape, weight: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(dy) * weight[1]


def _linear_backward_weights(dy: Shape, x: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(dy) * x[-1]


def _local(x: Shape, weight: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * x[0] * prod(weight)


def _local_backward_weights(dy: Shape, x: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * x[0] * prod(out_shape)


if native.core:
    _ops = torch.ops.striate
    _FLOPS: dict[str, Any] = {
        **{"conv": _conv, "conv_fused": _conv, "conv_measured": _conv_measured},
        **{"conv_backward_data": _conv_backward_data, "conv_backward_weights": _conv_backward_weights},
        **{"linear": _linear, "linear_backward_data": _linear_backward_data},
        "linear_backward_weights": _linear_backward_weights,
        **{"local": _local, "local_backward_data": _local, "local_backward_weights": _local_backward_weights},
    }
    for _name, _formula in _FLOPS.items():
        register_flop_formula(getattr(_ops, _name))(_formula)
    for _name in OPERATORS:
        torch.library.register_vmap(f"striate::{_name}", one_by_one(getattr(_ops, _name).default))
