"""reporting/markdown.py: no text breaks a page, and numbers are never made up."""

import html
import math
import random
import re

import pytest
from markdown_it import MarkdownIt

from bench.reporting import markdown as md
from tests.helpers.cases import together

RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
ATTACKS = [
    "a|b",
    "a\\|b",
    "a\\\\|b",
    "a\\",
    "|",
    "a\nb\r\nc\rd",
    "\n\n# heading",
    "# heading",
    "###### x",
    "- item",
    "1. item",
    "---",
    "- - -",
    "===",
    "> quote",
    "```",
    "`code` ``more``",
    "<b>bold</b>",
    "<script>alert(1)</script>",
    "</td></table>",
    "<!-- comment",
    "&amp; &lt; &#124;",
    "*a* **b** _c_ __d__ ~~e~~",
    "__init__ f1_macro _x a_",
    "[link](http://x) ![image](y) [a]: b",
    "$x$ $$y$$",
    "\u2028\u2029\x85\x0b\x0c",
    "    indented",
    "\ttab",
    ":--",
    "| :-- | --: |",
]
ALPHABET = [
    "|",
    "\\",
    "`",
    "*",
    "_",
    "~",
    "<",
    ">",
    "&",
    "#",
    "-",
    "+",
    "=",
    "1.",
    " ",
    "\n",
    "[",
    "]",
    "(",
    ")",
    "!",
    "a",
    "é",
    "$",
]


def split_cells(line: str) -> list[str]:
    """What is between pipes that have no backslash before them."""
    assert line.startswith("|")
    assert line.endswith("|")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1])]


def parse(table: str) -> list[list[str]]:
    return [split_cells(line) for line in table.split("\n")]


def random_texts(number: int) -> list[str]:
    chooser = random.Random(0)
    return ["".join(chooser.choices(ALPHABET, k=chooser.randint(1, 12))) for _ in range(number)]


@together("text", ATTACKS)
def test_a_cell_keeps_its_table_whole(text):
    table = md.table(["name", "value"], [[md.escape(text), "1"], ["next", md.escape(text)]], "lr")
    rows = parse(table)
    assert [len(row) for row in rows] == [2, 2, 2, 2]
    assert rows[1] == [":--", "--:"]
    assert rows[2][1] == "1"
    assert rows[3][0] == "next"
    assert len(table.splitlines()) == 4


@together("text", ATTACKS)
def test_a_rendered_cell_shows_the_text_itself(text):
    shown = RENDERER.render(md.table(["a", "b"], [[md.escape(text), "end"]], "lr"))
    (cell,) = re.findall(r'<td style="text-align:left">(.*?)</td>', shown, re.DOTALL)
    assert "<" not in cell
    assert html.unescape(cell) == md.clean(text)
    assert '<td style="text-align:right">end</td>' in shown


def test_random_texts_render_as_themselves_in_cells_lists_and_paragraphs():
    for text in random_texts(3000):
        escaped, expected = md.escape(text), md.clean(text)
        if not expected:
            continue
        paragraph = RENDERER.render(escaped)
        assert html.unescape(paragraph) == f"<p>{expected}</p>\n", text
        item = RENDERER.render(md.bullets([escaped]))
        assert html.unescape(item) == f"<ul>\n<li>{expected}</li>\n</ul>\n", text
        assert [len(row) for row in parse(md.table(["a", "b"], [[escaped, escaped]], "ll"))] == [2, 2, 2]


def test_control_characters_are_shown_as_such_and_not_dropped():
    assert md.escape("a\x00b\x07c\x7fd\x9fe") == "a\ufffdb\ufffdc\ufffdd\ufffde"
    # An override that is not closed would turn round the rest of the page; half a surrogate can't be written.
    assert md.escape("a\u202eb\u2066c\ud800d") == "a\ufffdb\ufffdc\ufffdd"
    md.escape("\ud800\udfff").encode("utf-8")
    # Joiners are part of words in Persian and of emoji.
    assert md.escape("می\u200cخواهم") == "می\u200cخواهم"


def test_long_text_is_cut_at_the_limit_and_what_is_missing_is_counted():
    assert md.escape("x" * 100_000) == "x" * md.CELL_LIMIT + f"… ({100_000 - md.CELL_LIMIT:,} more characters)"
    assert md.escape("y" * md.CELL_LIMIT) == "y" * md.CELL_LIMIT
    assert md.escape("abcdef", limit=2) == "ab… (4 more characters)"
    # Cut before it is escaped, so that no entity is cut in two.
    assert md.escape("|" * 3, limit=2) == "&#124;&#124;… (1 more characters)"


def test_none_is_a_dash_and_other_values_are_their_text():
    assert md.escape(None) == md.code(None) == md.DASH
    assert (md.escape(""), md.escape(0), md.escape(False)) == ("", "0", "False")
    assert md.code("a|b") == "<code>a&#124;b</code>"


def test_plain_words_stay_readable_in_the_source():
    for text in (
        "f1_macro",
        "out of memory: 3.2 GiB (of 4)",
        "stanfordnlp/sst2",
        "-0.5",
        "3.11.9",
        "Überdruß 情感 🙂",
    ):
        assert md.escape(text) == text


def test_a_cell_that_was_not_escaped_breaks_no_table():
    assert [len(row) for row in parse(md.table(["a", "b"], [["x|y", "p\nq"]], "lr"))] == [2, 2, 2]


def test_a_table_refuses_rows_of_another_width():
    with pytest.raises(AssertionError, match="a row of 1 cells under 2 columns"):
        md.table(["a", "b"], [["x"]], "lr")
    with pytest.raises(AssertionError, match="1 alignments for 2 columns"):
        md.table(["a", "b"], [], "l")


def test_tables_without_rows_are_empty():
    assert md.table(["a"], [], "l") == md.table_of([], []) == md.pairs("x", [("a", md.DASH)]) == ""
    assert md.fields("x", {"a": None}) == md.grid("x", {"a": {"b": None}}) == md.durations("x", []) == ""
    assert md.details("x", "") == md.sections({"x": ""}) == md.joined(["", ""]) == ""


def test_table_of_aligns_text_to_the_left():
    assert parse(md.table_of([{"a": "x", "b": "1"}, {"a": "y", "b": "2"}], ["a"])) == [
        ["a", "b"],
        [":--", "--:"],
        ["x", "1"],
        ["y", "2"],
    ]


NO_NUMBERS = [None, math.nan, math.inf, -math.inf, "0.5", True, [], {}]


@together("value", NO_NUMBERS)
def test_what_is_no_number_is_a_dash_and_never_0(value):
    for form in (md.fixed, md.score, md.count, md.significant, md.seconds, md.gib, md.percent):
        assert form(value) == md.DASH, form
    assert md.percent_of(value, 2) == md.percent_of(2, value) == md.DASH
    assert md.count_of(value, 2) == md.DASH


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (md.score(0.8431, 0.8179, 0.8661), "0.843 (0.818–0.866)"),
        (md.score(0.5, None, 0.6), "0.500"),
        (md.score(0.5, math.nan, 0.6), "0.500"),
        (md.score(None, 0.1, 0.2), "–"),
        (md.score(1, 0, 1), "1.000 (0.000–1.000)"),
        (md.score(-0.25, -0.5, 0.0), "-0.250 (-0.500–0.000)"),
        (md.score_at(1, [0.1, 0.2], [0.0, 0.1], [0.2, 0.3]), "0.200 (0.100–0.300)"),
        (md.score_at(1, [0.1, 0.2], [0.0], None), "0.200"),
        (md.score_at(2, [0.1, 0.2], [0.0], None), "–"),
        (md.fixed(-0.0001), "0.000"),
        (md.count(1234567), "1,234,567"),
        (md.count(0), "0"),
        (md.count_of(12, 96), "12 (12.5 %)"),
        (md.count_of(0, 0), "0"),
        (md.percent(0.1234), "12.3 %"),
        (md.percent(0.00321), "0.32 %"),
        (md.percent(0), "0 %"),
        (md.percent(1), "100.0 %"),
        (md.gib(1.234), "1.23"),
        (md.gib(0.0001), "<0.01"),
        (md.gib(0), "0.00"),
        (md.seconds(0.012345), "0.0123"),
        (md.seconds(9.999), "10.0"),
        (md.seconds(123.4), "123"),
        (md.seconds(12345.6), "12,346"),
        (md.significant(999.6), "1,000"),
        (md.significant(5e-5), "5e-05"),
        (md.significant(-2.5), "-2.50"),
        (md.significant(0.0), "0"),
    ],
)
def test_numbers(shown, expected):
    assert shown == expected


@pytest.mark.parametrize(
    ("name", "value", "title", "shown"),
    [
        ("real_tokens_per_s", 2412.7, "real tokens/s", "2,413"),
        ("rss_gib", 1.234, "rss, GiB", "1.23"),
        ("padding_share", 0.381, "padding share", "38.1 %"),
        ("step_time_s", {"p10": 0.14, "p50": None}, "step time, s", "p10 0.140"),
        ("model_flops_per_s", 2.2e13, "model flops/s", "22.0 × 10<sup>12</sup>"),
        ("mfu", 0.41, "mfu", "41.0 %"),
        ("steps", 1200, "steps", "1,200"),
        ("max", 66.0, "max", "66"),
        ("dirty", True, "dirty", "yes"),
        ("devices", ["A|B", "A|B", "C"], "devices", "2 × A&#124;B, C"),
        ("names", [], "names", "–"),
        ("dropped", {}, "dropped", "–"),
        ("parts", {"weights_gib": 0.5, "more": {"x": 1}}, "parts", "weights_gib 0.50, more (x 1)"),
        ("driver", None, "driver", "–"),
        ("note", "<i>", "note", "&lt;i&gt;"),
    ],
)
def test_a_field_is_shown_in_the_unit_that_its_name_says(name, value, title, shown):
    assert md.title(name) == title
    assert md.quantity(name, value) == shown


@pytest.mark.parametrize(
    ("mean", "std", "shown"),
    [
        (45.62, 2.345, "45.6 ± 2.3"),
        (12345.6, 678.9, "12,346 ± 680"),
        (1.53, 0.097, "1.53 ± 0.10"),
        (20.6, 0.004, "20.6 ± 0.0040"),
        (0.5, 0.0, "0.500"),
        (0.3, 5e-17, "0.300"),
        (0.5, None, "0.500"),
        (None, 1.0, "–"),
    ],
)
def test_a_mean_has_the_deviation_over_seeds_where_there_is_any(mean, std, shown):
    assert md.mean_std(mean, std) == shown


def test_long_lists_are_cut_and_counted():
    shown = md.quantity("names", [f"layer{index}" for index in range(300)])
    assert shown.endswith(f"layer{md.LIST_LIMIT - 1} and {300 - md.LIST_LIMIT} more")


def test_long_tables_are_folded():
    short = {"train": {f"label{index}": 1 for index in range(md.FOLD_ROWS)}}
    longer = {"train": {f"label{index}": 1 for index in range(md.FOLD_ROWS + 1)}}
    assert not md.distribution("label", short, {"train": 30}).startswith("<details>")
    folded = md.distribution("label", longer, {"train": 31})
    assert folded.startswith(f"<details>\n<summary>label ({md.FOLD_ROWS + 1} rows)</summary>\n\n|")


def test_durations_add_up():
    rows = parse(md.durations("phase", [("load", 1.0), ("train", 3.0)]))
    assert rows[2:] == [
        ["load", "1.00", "25.0 %"],
        ["train", "3.00", "75.0 %"],
        ["total", "4.00", "100.0 %"],
    ]


def test_images_have_readable_titles_and_quoted_addresses():
    assert md.images("figures", ["a_b-c d.png"]) == "![a b, c d](figures/a_b-c%20d.png)"
