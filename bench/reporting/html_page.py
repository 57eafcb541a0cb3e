"""Render a Markdown page as one self-contained HTML file: embedded figures, no scripts, no external resources.

markdown-it-py renders it as CommonMark with tables. Untrusted text was escaped when the Markdown was written, see
`bench.reporting.markdown.escape`, and stays text here.
"""

import base64
import html
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from bench.utils import files

if TYPE_CHECKING:
    from markdown_it.token import Token

# No script can run and nothing is fetched, even if untrusted text escaped from its element.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { color-scheme: light dark;
  --ink: #1f2328; --paper: #ffffff; --line: #d1d9e0; --shade: #f6f8fa; --link: #0969da; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --line: #3d444d; --shade: #161b22; --link: #58a6ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1rem 4rem; max-width: 75rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif;
  overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 0.75rem; }
h1, h2 { border-bottom: 1px solid var(--line); padding-bottom: 0.3rem; }
nav { background: var(--shade); border: 1px solid var(--line); border-radius: 6px; padding: 0.25rem 1rem; }
a { color: var(--link); }
.scroll { overflow-x: auto; margin: 0 0 1rem; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: 0.35rem 0.65rem; vertical-align: top; overflow-wrap: normal; }
td { max-width: 32rem; overflow-wrap: break-word; }
td[style*="left"] { min-width: 9rem; }
td[style*="right"] { white-space: nowrap; }
th { background: var(--shade); white-space: nowrap; }
tr:nth-child(2n) td { background: var(--shade); }
code, pre { font: 0.85em/1.45 ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; }
code { background: var(--shade); border-radius: 4px; padding: 0.1em 0.3em; }
pre { background: var(--shade); padding: 0.75rem; overflow-x: auto; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; padding: 4px; }
details { margin: 0 0 1rem; }
summary { cursor: pointer; font-weight: 600; }
blockquote { margin: 0 0 1rem; padding: 0.25rem 1rem; border-left: 4px solid #d1242f; }
@media print { .scroll { overflow: visible; } details { display: block; } }
""".strip()


def page(markdown: str, folder: Path) -> str:
    """Return the HTML of a page whose figures lie in `folder`. The same input gives the same text.

    Raises OSError for a figure that can't be read, and ValueError for one outside the folder.
    """
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": True, "xhtmlOut": False}).enable("table")
    # A wide table scrolls on its own; the page is never wider than the screen.
    renderer.add_render_rule("table_open", _table_open)
    renderer.add_render_rule("table_close", _table_close)
    tokens = renderer.parse(markdown)
    for token in (child for block in tokens for child in block.children or ()):
        if token.type == "image":
            token.attrSet("src", _embedded(folder, str(token.attrGet("src"))))
    headings = _headings(tokens)
    body = renderer.renderer.render(tokens, renderer.options, {})
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{next((html.escape(text) for level, _, text in headings if level == "h1"), "Report")}</title>
<style>
{STYLE}
</style>
</head>
<body>
{_contents(headings)}{body}</body>
</html>
"""


def _table_open(*_: Any) -> str:
    # Focusable, so that it can be scrolled with the keyboard.
    return '<div class="scroll" tabindex="0">\n<table>\n'


def _table_close(*_: Any) -> str:
    return "</table>\n</div>\n"


def _embedded(folder: Path, address: str) -> str:
    path = (folder / unquote(address)).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"the figure {address!r} is outside of {folder}")
    return f"data:image/png;base64,{base64.b64encode(files.read_bytes(path)).decode('ascii')}"


def _headings(tokens: Sequence["Token"]) -> list[tuple[str, str, str]]:
    """Return (tag, anchor, text) of each heading, after setting its anchor: part-1, part-2, ..."""
    headings: list[tuple[str, str, str]] = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            anchor = f"part-{len(headings) + 1}"
            opening.attrSet("id", anchor)
            text = "".join(child.content for child in inline.children or () if child.type != "html_inline")
            headings.append((opening.tag, anchor, text))
    return headings


def _contents(headings: Sequence[tuple[str, str, str]]) -> str:
    """Return links to the second-level headings."""
    lines = [f'<li><a href="#{anchor}">{html.escape(text)}</a></li>' for tag, anchor, text in headings if tag == "h2"]
    return "<nav>\n<ul>\n" + "\n".join(lines) + "\n</ul>\n</nav>\n" if lines else ""
