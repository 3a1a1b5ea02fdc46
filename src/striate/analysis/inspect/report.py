"""What inspecting a network found, with the forms it is told in."""

from __future__ import annotations

from torch.nn import Module

from ..lint.fix import fix
from .markdown import markdown
from .result import Result
from .table import table

__all__ = ["Report"]


class Report(Result):
    """What :func:`striate.inspect` found. ``print(report)`` shows it as a table."""

    def fix(self) -> tuple[Module, str]:
        """A copy of the model without those findings that can be mended mechanically, and what changed, as a unified
        diff.

        The model itself stays as it is. Where the optimizer's groups are wrong, the diff goes on with them: what they
        hold, and what
        :func:`striate.training.parameter_groups` gives for the copy.

        >>> from striate import inspect
        >>> from torch import nn
        >>> report = inspect(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval(), (1, 3, 8, 8))
        >>> print("\\n".join(report.fix()[1].splitlines()[4:6]))
        -  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        +  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), bias=False)
        """
        return fix(self)

    def table(self, width: int = 100, color: bool = False) -> str:
        """As text, in lines of ``width`` characters, at least 40."""
        return table(self, width, color)

    def markdown(self) -> str:
        """As a table for a README or an issue."""
        return markdown(self)

    def html(self) -> str:
        """As a page that needs nothing else."""
        from .page import page  # jinja2 is imported where a page is made

        return page(self)

    def __str__(self) -> str:
        return self.table()
