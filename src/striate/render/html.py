"""Renders HTML pages by jinja2, from the templates in the folder beside this file, which escape every value."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["page"]


def page(template: str, **values: Any) -> str:
    """Renders a self-contained page, without scripts or external files. Its template extends ``page.html``.

    >>> "<title>a &lt;b&gt;</title>" in page("page.html", title="a <b>")
    True
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
