"""Pages to look at: one look for all of them, without a script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["bars", "boxes", "document"]

STYLE = """
:root { color-scheme: light dark; --ink: #1c2227; --soft: #66717b; --line: #e3e7ea; --paper: #fff; --strong: #23618e;
  --pale: #8db9d8; --track: #f1f4f6; --note: #9a5b00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8eb; --soft: #96a1ab; --line: #2d343a; --paper: #15191c; --strong: #5ba3d6;
  --pale: #2f5f80; --track: #1f252a; --note: #e0a84e } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  font-variant-numeric: tabular-nums }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 56px }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 6px; overflow-wrap: anywhere }
h2 { font-size: 17px; margin: 40px 0 2px }
p { margin: 0; color: var(--soft) }
p.note { color: var(--note); margin-top: 8px }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 1px; margin: 24px 0 0; background: var(--line);
  border: 1px solid var(--line); border-radius: 8px; overflow: hidden }
dl div { background: var(--paper); padding: 10px 14px }
dt { color: var(--soft); font-size: 13px }
dd { margin: 0; font-size: 20px }
dd small { font-size: 13px; color: var(--soft) }
table { width: 100%; border-collapse: collapse; margin-top: 12px }
th { text-align: left; font-weight: 500; font-size: 13px; color: var(--soft) }
th, td { padding: 5px 0 5px 18px; border-bottom: 1px solid var(--line); vertical-align: middle }
th:first-child, td:first-child { padding-left: 0; overflow-wrap: anywhere }
td.n, th.n { text-align: right; white-space: nowrap }
td small { display: block; color: var(--soft); font-size: 12.5px; line-height: 1.3 }
td.bar i { display: block; position: relative; height: 12px; border-radius: 2px; background: var(--track); font-size: 0;
  white-space: nowrap }
i b { display: inline-block; height: 100% }
i u { position: absolute; top: -3px; bottom: -3px; width: 2px; background: var(--ink) }
b.f { background: var(--strong) }
b.b { background: var(--pale) }
@media (max-width: 640px) {
  body { font-size: 14px }
  main { padding: 20px 14px 40px }
  thead { display: none }
  table, tbody { display: block }
  tr { display: grid; column-gap: 8px; padding: 8px 0; border-bottom: 1px solid var(--line) }
  td, td.n { display: block; padding: 0; border: 0 }
  td.bar { order: 9; grid-column: 1 / -1; padding: 5px 0 3px }
  td.bar:empty { display: none }
}
"""


def document(title: str, style: str, content: str) -> str:
    """A page that needs nothing else. title: as text; style: of this page, behind what all have; content: as HTML."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
{content}
</main>
</body>
</html>
"""


def boxes(facts: Sequence[tuple[str, str, str]]) -> str:
    """Numbers side by side, each with its name before and its unit behind."""
    return (
        "<dl>"
        + "".join(f"<div><dt>{name}</dt><dd>{number} <small>{unit}</small></dd></div>" for name, number, unit in facts)
        + "</dl>"
    )


def bars(parts: Sequence[tuple[str, float]], most: float, mark: float | None = None) -> str:
    """Lengths beside each other, each of a class, as parts of ``most``, and a mark.

    >>> bars([("f", 3.0), ("b", 1.0)], 8.0)
    '<i><b class="f" style="width:37.50%"></b><b class="b" style="width:12.50%"></b></i>'
    """
    told = "".join(
        f'<b class="{name}" style="width:{100 * max(0.0, length) / most:.2f}%"></b>' for name, length in parts
    )
    line = "" if not mark else f'<u style="left:{min(100.0, 100 * mark / most):.2f}%"></u>'
    return f"<i>{told}{line}</i>"
