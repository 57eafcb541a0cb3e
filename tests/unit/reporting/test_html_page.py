"""reporting/html_page.py: one file that is whole, asks nobody for anything, and fits the screen of a real browser."""

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.reporting import html_page
from bench.reporting import markdown as md
from tests.helpers import pages

VOID = {"meta", "br", "hr", "img", "link"}
KINDS = ("scores", "cost", "curves", "labels", "confusion")
ADDRESSES = {"src", "href", "action", "data", "poster", "srcset", "background", "formaction", "cite"}


class Strict(HTMLParser):
    """Refuses what is not closed, runs, or comes from elsewhere; keeps tags with attributes, and the text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.found, self.texts, self.scripts = [], [], [], []

    def handle_starttag(self, tag, attributes):
        if tag == "script":
            assert attributes in ([], [("type", "application/json"), ("id", "charts")])
        assert tag not in ("iframe", "object", "embed", "link", "base", "form", "svg"), tag
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
        if self.open[-1:] != ["script"]:
            self.texts.append(data)
        elif self.found[-1][1]:
            self.numbers = json.loads(data)
        else:
            self.scripts.append(data)


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
    *_, scripts = (part for part in policy.split("; ") if part.startswith("script-src "))
    assert policy.replace(f"{scripts}; ", "") == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert len(text) < 2_000_000


def test_only_the_scripts_of_the_package_run_each_by_its_hash(text):
    found = parsed(text)
    (policy,) = [item["content"] for tag, item, _ in found.found if "http-equiv" in item]
    (allowed,) = [part.split()[1:] for part in policy.split("; ") if part.startswith("script-src ")]
    folder = html_page.SCRIPTS
    assert found.scripts == [(folder / name).read_text(encoding="utf-8") for name in html_page.SCRIPT_FILES]
    digests = [hashlib.sha256(script.encode()).digest() for script in found.scripts]
    assert allowed == [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
    for name in html_page.SCRIPT_FILES[:3]:
        licence = (folder / name).with_name(f"{Path(name).name.split('.')[0]}.LICENSE").read_text(encoding="utf-8")
        assert "Permission" in licence
        assert "WARRANT" in licence


def test_a_page_without_numbers_has_no_script(tmp_path):
    shown = html_page.page("# A\n\n| a |\n| - |\n| 1 |\n", tmp_path)
    assert "<script" not in shown
    assert "script-src" not in shown


def test_a_script_that_would_end_its_element_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(html_page, "SCRIPTS", tmp_path)
    monkeypatch.setattr(html_page, "SCRIPT_FILES", ("x.js",))
    for text in ('"</SCRIPT>"', '"<!--"'):
        (tmp_path / "x.js").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"x\.js holds"):
            html_page.page("# A\n", tmp_path, {})


def test_numbers_of_figures_are_data_in_which_no_text_is_markup(report, text):
    numbers = parsed(text).numbers
    assert set(numbers["figures"]) == {path.stem for path in (report / "report" / "figures").glob("*.png")}
    systems = next(item for name, item in numbers["figures"].items() if name.endswith("-scores"))["systems"]
    assert "<script>x</script>" in systems[1]["name"]
    assert len(systems[1]["name"]) < 110
    assert numbers["figures"].keys() == {f"01-sst2_local-{kind}" for kind in KINDS}


def test_figures_are_inside_and_are_those_of_the_folder(report, text):
    images = [item["src"] for tag, item, _ in parsed(text).found if tag == "img"]
    drawn = [base64.b64decode(source.partition(",")[2]) for source in images]
    assert sorted(drawn) == sorted(path.read_bytes() for path in (report / "report" / "figures").glob("*.png"))
    assert len(drawn) == len(KINDS)


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
    rendered = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", text.partition("<script")[0], re.DOTALL)
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
