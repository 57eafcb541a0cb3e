"""reporting/html_page.py: one file that is whole, asks nobody for anything, and fits the screen of a real browser."""

import base64
import html
import re
from html.parser import HTMLParser

import pytest

from bench.reporting import html_page
from bench.reporting import markdown as md
from tests.helpers import pages

VOID = {"meta", "br", "hr", "img", "link"}
ADDRESSES = {"src", "href", "action", "data", "poster", "srcset", "background", "formaction", "cite"}


class Strict(HTMLParser):
    """Refuses what is not closed, runs, or comes from elsewhere; keeps tags with attributes, and the text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.found, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form", "svg"), tag
        for name, value in attributes:
            assert not name.startswith("on"), f"{tag} {name}"
            assert "javascript:" not in (value or "").lower()
            if name in ADDRESSES:
                assert value.startswith(("data:image/png;base64,", "#")), f"{tag} {name}={value[:80]}"
        self.found.append((tag, dict(attributes), list(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag not in VOID
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)


def parsed(text):
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a study, with hostile texts in it, and the folder of its figures."""
    return pages.write_hostile_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def text(report):
    return (report / "page.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_loads_nothing(text):
    found = parsed(text).found
    assert [tag for tag, _, _ in found].count("html") == 1
    (policy,) = [item["content"] for tag, item, _ in found if "http-equiv" in item]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert len(text) < 2_000_000


def test_figures_are_inside_and_are_those_of_the_folder(report, text):
    images = [item["src"] for tag, item, _ in parsed(text).found if tag == "img"]
    drawn = [base64.b64decode(source.partition(",")[2]) for source in images]
    assert sorted(drawn) == sorted(path.read_bytes() for path in (report / "report" / "figures").glob("*.png"))
    assert len(drawn) == 4


def test_tables_scroll_and_headings_can_be_reached(text):
    found = parsed(text).found
    tables = [above for tag, _, above in found if tag == "table"]
    assert len(tables) > 6
    assert all(above[-1] == "div" for above in tables)
    named = {item["id"] for _, item, _ in found if "id" in item}
    links = [item["href"].removeprefix("#") for tag, item, _ in found if tag == "a"]
    assert links
    assert set(links) <= named


def test_texts_from_outside_stay_texts(text):
    shown = "".join(parsed(text).texts)
    assert "<img src=x onerror=alert(1)> |" in shown
    assert "a|b\\|c # d <script>x</script> `e` *f* [g](h)" in shown
    assert "more characters)" in shown
    assert "\x00" not in text


def test_markdown_and_page_say_the_same(report, text):
    page = (report / "report" / "report.md").read_text(encoding="utf-8")
    cells = [html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for line in page.splitlines() if line.startswith("| ")
             for cell in line[1:-1].split("|") if not re.fullmatch(r" :?-+:? ", cell)]  # fmt: skip
    rendered = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", text, re.DOTALL)
    assert [html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in rendered] == cells


def test_a_figure_outside_of_the_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="is outside of"):
        html_page.page("![x](../secret.png)", tmp_path / "in")
    with pytest.raises(OSError, match="missing"):
        html_page.page("![x](missing.png)", tmp_path / "in")


def test_the_title_is_the_first_heading(tmp_path):
    shown = html_page.page(f"# {md.escape('a <b> & c')}\n\n## Two\n", tmp_path)
    assert "<title>a &lt;b&gt; &amp; c</title>" in shown
    assert '<a href="#part-2">Two</a>' in shown
