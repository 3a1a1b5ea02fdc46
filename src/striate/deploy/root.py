"""A module that only calls a model, for traces that treat the outermost module specially."""

from __future__ import annotations

from typing import Any

from torch.nn import Module

__all__ = ["Root"]


class Root(Module):
    """Wraps the model as a submodule, so that its own hooks are traced and it may itself be a layer."""

    def __init__(self, model: Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Any:
        return self.model(*inputs)
