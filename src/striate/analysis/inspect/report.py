"""The result of inspecting a network, with its output formats."""

from __future__ import annotations

from torch.nn import Module

from ..lint.fix import fix
from .markdown import markdown
from .result import Result
from .table import table

__all__ = ["Report"]


class Report(Result):
    """The result of :func:`striate.inspect`. ``print(report)`` shows it as a table."""

    def fix(self) -> tuple[Module, str]:
        """Returns a copy of the model in which all findings with an automatic fix are fixed, and the changes as a
        unified diff.

        The model itself does not change. If the optimizer's groups are wrong, the diff also shows how they differ from
        those that :func:`striate.training.parameter_groups` makes for the copy.

        >>> from striate import inspect
        >>> from torch import nn
        >>> report = inspect(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval(), (1, 3, 8, 8))
        >>> print("\\n".join(report.fix()[1].splitlines()[4:6]))
        -  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        +  (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), bias=False)
        """
        return fix(self)

    def table(self, width: int = 100, color: bool = False) -> str:
        """Formats the report as text, in lines of ``width`` characters, at least 40."""
        return table(self, width, color)

    def markdown(self) -> str:
        """Formats the report as Markdown, for a README or an issue."""
        return markdown(self)

    def html(self) -> str:
        """Renders the report as one self-contained HTML page."""
        from .page import page  # imports jinja2, which only pages need

        return page(self)

    def __str__(self) -> str:
        return self.table()
