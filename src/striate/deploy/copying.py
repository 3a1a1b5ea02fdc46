"""Copies models for deployment, which never changes the original."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import UninitializedBuffer

from ..errors import ArgumentError, build, describe_error

__all__ = ["copy_model"]

Model = TypeVar("Model", bound=Module)


def copy_model(model: Model, where: str) -> Model:
    """Makes a deep copy, including what copy.deepcopy rejects: tensors computed from parameters, which
    torch.nn.utils.weight_norm stores, and uninitialized buffers.

    Raises ArgumentError, in the name of the function ``where``, if some other part of the model cannot be copied.
    """
    held = (value for module in model.modules() for value in vars(module).values())
    memo: dict[int, Any] = {
        id(value): value.detach().clone() for value in held if isinstance(value, Tensor) and not value.is_leaf
    }
    shapeless: Any = UninitializedBuffer
    memo |= {id(x): shapeless(x.requires_grad, x.device, x.dtype) for x in model.buffers() if isinstance(x, shapeless)}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        hint = "Take out what keeps copy.deepcopy(model) from working."
        raise ArgumentError(build(where, "a model that can be copied", describe_error(error), hint=hint)) from error
