"""GitHub Markdown that untrusted text can't break, and the number formats of reports."""

import html
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from bench.utils.numbers import finite

# Printed for a value that was not measured or is undefined, never 0.
DASH = "–"
# Characters of untrusted text in a cell; labels and reasons are shorter, a pasted document is not.
CELL_LIMIT = 200
# A deviation of so small a share of its mean is of adding up the same numbers.
ROUNDING = 1e-9
# Items of a list that a cell shows.
LIST_LIMIT = 20
# A longer table is folded.
FOLD_ROWS = 30
# Entities rather than backslashes: renderers disagree on a backslash before a pipe inside a table.
_ENTITIES = {ord(sign): f"&#{ord(sign)};" for sign in "|\\`*~[]$"}
_ENTITIES |= {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}
# `escape` replaces underscores that would begin or end emphasis by NUL, which `clean` never leaves in a text.
_ENTITIES |= {0: "&#95;"}
# Directional overrides and isolates: an unclosed one reverses the rest of the page.
_DIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# The beginnings of lines that make headings, list items and rules.
_BLOCK_START = re.compile(r"(?:#{1,6}|[+-]+|=+|[0-9]{1,9}[.)])(?: |$)")
# Underscores inside a word have no effect in GitHub Markdown and stay readable in the source.
_EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
# What cells of this package hold beside escaped text, which has none of these signs.
_MARKS = re.compile(r"</?(?:code|b|sup)>|\*\*")
_ALIGNMENTS = {"l": ":--", "r": "--:", "c": ":-:"}


def clean(text: str) -> str:
    """Return a single line: whitespace collapsed; control and unencodable characters replaced by U+FFFD."""
    shown = (
        "\ufffd" if sign in _DIRECTIONAL or unicodedata.category(sign) in ("Cc", "Cs") else sign
        for sign in " ".join(text.split())
    )
    return "".join(shown)


def escape(value: Any, limit: int = CELL_LIMIT) -> str:
    """Escape text so that it renders literally in a cell, a list item or a paragraph; None becomes a dash.

    Text is cut after `limit` characters, followed by the number of omitted characters.
    """
    if value is None:
        return DASH
    text = clean(str(value))
    left_out = len(text) - limit
    ending = f"… ({left_out:,} more characters)" if left_out > 0 else ""
    marked = _EMPHASIS.sub("\0", text[:limit])
    shown = marked.translate(_ENTITIES)
    if _BLOCK_START.match(marked):
        shown = f"&#{ord(shown[0])};{shown[1:]}"
    return shown + ending


def plain(markdown: str) -> str:
    """Return escaped text, with this module's own marks in it, as it renders: for a terminal."""
    return html.unescape(_MARKS.sub("", markdown))


def code(value: Any, limit: int = CELL_LIMIT) -> str:
    """Return escaped text in a fixed-width font; a dash for None."""
    return DASH if value is None else f"<code>{escape(value, limit)}</code>"


def table_of(lines: Sequence[Mapping[str, str]], left: Collection[str]) -> str:
    """Return a table headed by the keys of its first line; columns in `left` are aligned left, others right."""
    if not lines:
        return ""
    align = "".join("l" if name in left else "r" for name in lines[0])
    return table(list(lines[0]), [list(line.values()) for line in lines], align)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """Return a table of Markdown cells; empty without rows. align: one of l, r, c for each column.

    Untrusted text must be escaped before; pipes and line breaks in cells are replaced in any case.
    """
    assert len(align) == len(header), f"{len(align)} alignments for {len(header)} columns"
    for row in rows:
        assert len(row) == len(header), f"a row of {len(row)} cells under {len(header)} columns: {row}"
    ruler = [_ALIGNMENTS[sign] for sign in align]
    lines = [f"| {' | '.join(map(_one_cell, row))} |" for row in (header, ruler, *rows)]
    return "\n".join(lines) if rows else ""


def _one_cell(text: str) -> str:
    return " ".join(text.splitlines()).replace("|", "&#124;")


def pairs(heading: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of names and Markdown values, without those that are a dash; empty when none is left."""
    return table((heading, ""), [row for row in rows if row[1] != DASH], "ll")


def sections(bodies: Mapping[str, str]) -> str:
    """Return second-level headings with their bodies, without the empty ones."""
    return joined(f"## {heading}\n\n{body}" for heading, body in bodies.items() if body)


def alert(lines: Sequence[str], kind: str = "CAUTION") -> str:
    """Return Markdown paragraphs as a GitHub alert, e.g. of kind CAUTION or WARNING."""
    return f"> [!{kind}]\n" + "\n>\n".join(f"> {line}" for line in lines)


def verbatim(text: str, limit: int = 4000) -> str:
    """Return preformatted text, cut after `limit` characters, followed by the number of omitted characters."""
    lines = "\n".join(clean(line) if line.strip() else "" for line in text[:limit].split("\n"))
    more = f"\n... ({len(text) - limit:,} more characters)" if len(text) > limit else ""
    return f"<pre>\n{(lines + more).translate(_ENTITIES)}\n</pre>" if text else ""


def bullets(lines: Sequence[str]) -> str:
    """Return a bulleted list of Markdown lines."""
    return "\n".join(f"- {line}" for line in lines)


def counted(items: Sequence[str]) -> str:
    """Return distinct escaped items with their counts: '8 × NVIDIA H200, Tesla T4'."""
    counts = Counter(items).items()
    return ", ".join(f"{number} × {escape(item)}" if number > 1 else escape(item) for item, number in counts)


def details(summary: str, body: str) -> str:
    """Return a collapsed section; empty without a body. Blank lines let Markdown work inside."""
    return "" if not body else f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def folded(summary: str, body: str, rows: int) -> str:
    """Return the body, collapsed if it has more than FOLD_ROWS rows."""
    return details(f"{summary} ({rows} rows)", body) if rows > FOLD_ROWS else body


def joined(parts: Iterable[str]) -> str:
    """Join blocks by blank lines, without the empty ones."""
    return "\n\n".join(part for part in parts if part)


def fixed(value: Any, decimals: int = 3) -> str:
    """Return a number with fixed decimals: 0.843; a dash if it is not finite. Never -0.000."""
    number = finite(value)
    return DASH if number is None else f"{round(number, decimals) + 0.0:,.{decimals}f}"


def signed(value: float, decimals: int = 4) -> str:
    """Return a difference with its sign: +0.0123, −0.0123, 0.0000."""
    shown = fixed(value, decimals)
    return f"+{shown}" if round(value, decimals) > 0 else shown.replace("-", "−")


def score(value: Any, low: Any = None, high: Any = None) -> str:
    """Return 0.843 (0.818–0.866); the score alone without an interval or of width 0, a dash without a score."""
    if finite(value) is None or finite(low) is None or finite(high) is None or low == high:
        return fixed(value)
    return f"{fixed(value)} ({fixed(low)}–{fixed(high)})"


def score_at(index: int, values: Any, low: Any, high: Any) -> str:
    """Return `score` of one index of lists, each of which may be None or too short."""
    lists = [one if isinstance(one, list) and index < len(one) else None for one in (values, low, high)]
    return score(*(one[index] if one else None for one in lists))


def count(value: Any) -> str:
    """Return an integer with thousands separators: 12,345; a dash if it is not finite."""
    number = finite(value)
    return DASH if number is None else f"{number:,.0f}"


def significant(value: Any) -> str:
    """Return three significant digits below 1,000, thousands separators above: 0.0123, 1.23, 12.3, 12,345."""
    number = finite(value)
    if number is None:
        return DASH
    if number == 0:
        return "0"
    # Rounded first, so that 9.999 counts as having two digits before the point.
    rounded = float(f"{number:.3g}")
    decimals = 2 - math.floor(math.log10(abs(rounded)))
    # Five decimals suffice for rates and durations; a learning rate is shown as 5e-05.
    return f"{number:,.{max(decimals, 0)}f}" if decimals <= 5 else f"{number:.3g}"


def seconds(value: Any) -> str:
    """Return seconds as 0.0123, 12.3 or 4,321, without the unit."""
    return significant(value)


def mean_std(mean: Any, std: Any, shown: Callable[[Any], str] = significant) -> str:
    """Return a mean with its sample standard deviation over seeds: 45.6 ± 2.3; the mean alone where all are the same.

    The deviation has two significant digits, but no more decimals than the mean unless it would be 0 with these.
    """
    value, spread = finite(mean), finite(std)
    if value is None or not spread or spread <= ROUNDING * abs(value):
        return shown(mean)
    rounded = float(f"{spread:.2g}")
    decimals = max(0, 1 - math.floor(math.log10(rounded)))
    of_mean = len(shown(mean).partition(".")[2])
    decimals = of_mean if of_mean < decimals and round(spread, of_mean) > 0 else decimals
    return f"{shown(mean)} ± {f'{rounded:,.{decimals}f}' if decimals <= 6 else f'{rounded:g}'}"


def gib_range(values: Sequence[float]) -> str:
    """Return GiB of several seeds from the lowest to the highest, one number where these look the same."""
    return "–".join(dict.fromkeys(gib(end) for end in (min(values), max(values)))) if values else DASH


def gib(value: Any) -> str:
    """Return GiB with two decimals, without the unit; "<0.01" for a positive value that would round to 0.00."""
    number = finite(value)
    return "<0.01" if number is not None and 0 < number < 0.005 else fixed(value, 2)


def percent(share: Any) -> str:
    """Return a share (0 to 1) as 12.3 %."""
    number = finite(share)
    if number is None:
        return DASH
    return f"{100 * number:.1f} %" if abs(number) >= 0.01 else f"{float(f'{100 * number:.2g}'):g} %"


def percent_of(number: Any, total: Any) -> str:
    """Return a number's share of a total as 12.3 %; a dash if undefined."""
    return percent(number / total) if finite(number) is not None and finite(total) else DASH


def count_of(number: Any, total: Any) -> str:
    """Return a number with its share of a total: 1,234 (12.3 %); a dash if it is not finite."""
    share = percent_of(number, total)
    return count(number) if share == DASH else f"{count(number)} ({share})"


def title(name: str) -> str:
    """Return a field's name as a heading: real_tokens_per_s as "real tokens/s", rss_gib as "rss, GiB"."""
    for ending, shown in (("_per_s", "/s"), ("_s", ", s"), ("_gib", ", GiB")):
        if name.endswith(ending):
            return escape(name.removesuffix(ending).replace("_", " ") + shown)
    return escape(name.replace("_", " "))


def quantity(name: str, value: Any) -> str:
    """Format a field's value by the unit in its name; a dash for None and empty values."""
    if isinstance(value, dict):
        known = {key: item for key, item in value.items() if item is not None}
        shown = {key: quantity(key, item) for key, item in known.items()}
        shown |= {key: f"({shown[key]})" for key, item in known.items() if isinstance(item, dict)}
        return ", ".join(f"{escape(key)} {text}" for key, text in shown.items()) or DASH
    if isinstance(value, list):
        more = f" and {len(value) - LIST_LIMIT:,} more" if len(value) > LIST_LIMIT else ""
        parts = [item for item in value[:LIST_LIMIT] if isinstance(item, dict)]
        if parts:
            return "; ".join(quantity(name, item) for item in parts) + more
        return (counted([str(item) for item in value[:LIST_LIMIT]]) or DASH) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return escape(value)
    if name.endswith("flops_per_s"):
        number = finite(value)
        return DASH if number is None else f"{significant(number / 1e12)} × 10<sup>12</sup>"
    if name.endswith("_share") or name in ("mfu", "error"):
        return percent(value)
    if name.endswith("_gib"):
        return gib(value)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return count(value) if whole else significant(value)


def fields(heading: str, values: Mapping[str, Any], skip: Collection[str] = ()) -> str:
    """Return a table of a mapping's names and quantities, without unknown values."""
    known = [(name, item) for name, item in values.items() if name not in skip]
    return pairs(heading, [(title(name), quantity(name, item)) for name, item in known])


def grid(heading: str, rows: Mapping[str, Mapping[str, Any]], skip: Collection[str] = ()) -> str:
    """Return a table with a row per name and a column per quantity known for any of them; empty without one."""
    keys = dict.fromkeys(key for row in rows.values() for key, item in row.items() if item is not None)
    columns = [key for key in keys if key not in skip]
    lines = [[escape(name), *(quantity(key, row.get(key)) for key in columns)] for name, row in rows.items()]
    return table([heading, *map(title, columns)], lines, "l" + "r" * len(columns)) if columns else ""


def distribution(heading: str, counts: Mapping[str, Mapping[str, int]], totals: Mapping[str, int]) -> str:
    """Return counts with shares: a column for each name in `counts`, a row for each key. Collapsed when long.

    totals: the total of each column, for its shares.
    """
    keys = list(dict.fromkeys(key for column in counts.values() for key in column))
    columns = [(column, totals.get(name)) for name, column in counts.items()]
    lines = [[escape(key), *(count_of(column.get(key), total) for column, total in columns)] for key in keys]
    return folded(heading, table([heading, *map(escape, counts)], lines, "l" + "r" * len(counts)), len(lines))


def durations(heading: str, parts: Sequence[tuple[str, float]]) -> str:
    """Return a table of seconds and shares of the total, with the total in the last row."""
    total_s = sum(part_s for _, part_s in parts)
    lines = [*parts, ("total", total_s)] if parts else []
    cells = [[escape(name), seconds(part_s), percent_of(part_s, total_s)] for name, part_s in lines]
    return table([heading, "seconds", "share"], cells, "lrr")


def images(folder: str, names: Sequence[str]) -> str:
    """Return the images with these file names in a folder, captioned by name without underscores and ending."""
    shown = {name: escape(name.rpartition(".")[0].replace("_", " ").replace("-", ", ")) for name in names}
    return joined(f"![{text}]({folder}/{quote(name)})" for name, text in shown.items())
