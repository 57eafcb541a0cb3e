"""Render a Markdown page as one self-contained HTML file: embedded figures and scripts, no external resources.

markdown-it-py renders it as CommonMark with tables. Untrusted text was escaped when the Markdown was written, see
`bench.reporting.markdown.escape`, and stays text here. With the numbers of its figures a page also gets scripts: d3 and
Observable Plot draw them, DataTables sorts and filters the tables, `page_scripts/report.js` joins the three. Without
JavaScript the page shows plain tables and pictures.
"""

import base64
import hashlib
import html
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from bench.errors import DataError
from bench.reporting.figures import style
from bench.utils import files

if TYPE_CHECKING:
    from markdown_it.token import Token

SCRIPTS = Path(__file__).parent / "page_scripts"
# In the order in which they are loaded; licences lie beside them.
SCRIPT_FILES = ("vendored/d3.min.js", "vendored/plot.umd.min.js", "vendored/dataTables.min.js", "report.js")
# The first line of GitHub's alerts, which CommonMark does not know; in untrusted text the bracket is escaped.
_ALERT = re.compile(r"^> \[!([A-Z]+)\]$", re.MULTILINE)
# Links in the contents.
MOST_LINKS = 60
# Only the page's own scripts run, each by its hash, and nothing is fetched or sent, even if untrusted text escaped from
# its element.
POLICY = "{scripts}style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
# The beginning of every page, by which one of an earlier call is known.
BEGINNING = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';"""
STYLE = (SCRIPTS / "report.css").read_text(encoding="utf-8").strip()


def refuse_foreign(path: Path) -> None:
    """Raise DataError where another file than a page of this tool would be replaced."""
    try:
        with files.open_regular(path) as stream:
            is_own = stream.read(len(BEGINNING)) == BEGINNING.encode("ascii")
    except (FileNotFoundError, NotADirectoryError):
        return
    if not is_own:
        raise DataError(f"{path} is not a page of this tool; pass another --html, or --overwrite to replace it")


def page(markdown: str, folder: Path, charts: Mapping[str, Any] | None = None) -> str:
    """Return the HTML of a page whose figures lie in `folder`. The same input gives the same text.

    charts: address of a figure -> its numbers, see `figures.charts`; None writes a page without scripts. Raises OSError
    for a figure that can't be read, and ValueError for one outside the folder.
    """
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": True, "xhtmlOut": False}).enable("table")
    # A wide table scrolls on its own; the page is never wider than the screen.
    renderer.add_render_rule("table_open", _table_open)
    renderer.add_render_rule("table_close", _table_close)
    tokens = renderer.parse(_ALERT.sub(lambda found: f"> **{found[1].capitalize()}:**", markdown))
    for token in (child for block in tokens for child in block.children or ()):
        if token.type == "image":
            address = str(token.attrGet("src"))
            token.attrSet("src", _embedded(folder, address))
            token.attrSet("data-name", Path(unquote(address)).stem)
    _mark_figures(tokens)
    headings = _headings(tokens)
    body = renderer.renderer.render(tokens, renderer.options, {})
    # The contents follow the title and what stands below it: the finding is read first.
    lead, heading, rest = body.partition("<h2")
    scripts = [] if charts is None else [_script(name) for name in SCRIPT_FILES]
    allowed = f"script-src {' '.join(map(_source, scripts))}; " if scripts else ""
    return f"""{BEGINNING} {POLICY.format(scripts=allowed)}">
<title>{next((html.escape(text) for level, _, text in headings if level == "h1"), "Report")}</title>
<style>
{STYLE}
</style>
</head>
<body>
{lead}{_contents(headings)}{heading}{rest}{_data(charts)}{_elements(scripts)}</body>
</html>
"""


def _elements(scripts: Sequence[str]) -> str:
    return "".join(f"<script>{text}</script>\n" for text in scripts)


def _script(name: str) -> str:
    """Return a script of the package. Raises ValueError for one that would end its element."""
    text = (SCRIPTS / name).read_text(encoding="utf-8")
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError(f"{name} holds the end of a script element or the beginning of a comment")
    return text


def _source(script: str) -> str:
    """Return the source expression that lets a browser run this very text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"


def _data(charts: Mapping[str, Any] | None) -> str:
    """Return the numbers of the figures as JSON, in which no text can end the element."""
    if charts is None:
        return ""
    content = {"colours": style.SERIES, "figures": {Path(name).stem: charts[name] for name in sorted(charts)}}
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    return f'<script type="application/json" id="charts">{text}</script>\n'


def _mark_figures(tokens: Sequence["Token"]) -> None:
    """Make a figure of each paragraph that holds an image alone."""
    for opening, inline, closing in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if opening.type == "paragraph_open" and [child.type for child in inline.children or ()] == ["image"]:
            opening.tag = closing.tag = "figure"


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
    """Return links to the second-level headings; to the third-level ones too where a page has a few."""
    shown = [one for one in headings if one[0] in ("h2", "h3")]
    shown = shown if len(shown) <= MOST_LINKS else [one for one in headings if one[0] == "h2"]
    lines = [f'<li class="{tag}"><a href="#{anchor}">{html.escape(text)}</a></li>' for tag, anchor, text in shown]
    return "<nav>\n<ul>\n" + "\n".join(lines) + "\n</ul>\n</nav>\n" if lines else ""
