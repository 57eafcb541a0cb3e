"""reporting/html_page.py: one file that is whole, asks nobody for anything, and fits the screen of a real browser."""

import base64
import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from bench.reporting import html_page, study_page
from bench.reporting import markdown as md
from tests.helpers import studies
from tests.unit.reporting.test_figures import size_of
from tests.unit.reporting.test_run_page import NASTY

VOID = {"meta", "br", "hr", "img", "link"}
ADDRESSES = {"src", "href", "action", "data", "poster", "srcset", "background", "formaction", "cite"}
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)


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
    folder = tmp_path_factory.mktemp("study")
    texts = studies.write_texts(folder / "data", 60, "<img src=x onerror=alert(1)> | {number} </table>" + "z" * 100_000)
    for number, name in enumerate(("s--one--full", f"s--{NASTY.replace('--', '')}--full")):
        hits = [(place + number) % 3 > 0 for place in range(60)]
        studies.write_run(folder / "runs" / str(number), name, 13, hits, texts=texts)
    study_page.write([folder / "runs"], folder / "report", folder / "page.html")
    return folder


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


# ---------------------------------------------------------------- in a real browser

# A page that looks into the other one, at a telephone's width, and writes down what it finds.
PROBE = """<!DOCTYPE html><iframe id="f" src="page.html" width="390" height="800"></iframe><pre id="out">nothing</pre>
<script>
document.getElementById("f").onload = () => {
  const page = document.getElementById("f").contentDocument, root = page.documentElement;
  const style = page.defaultView.getComputedStyle(page.body);
  document.getElementById("out").textContent = JSON.stringify({
    page: root.scrollWidth, screen: root.clientWidth,
    tables: [...page.querySelectorAll(".scroll")].map((box) => box.scrollWidth > box.clientWidth),
    images: [...page.images].map((image) => [image.naturalWidth, image.clientWidth]),
    ink: style.color, paper: style.backgroundColor, scripts: page.scripts.length,
  });
};
</script>"""


def browse(folder, *options):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
               "--virtual-time-budget=5000", f"--user-data-dir={folder / 'profile'}", *options]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def seen(folder, *options):
    import json

    shown = browse(folder, *options, "--dump-dom", (folder / "probe.html").as_uri())
    return json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', shown, re.DOTALL)[1]))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no headless Chromium is installed, e.g. chromium-headless-shell")
def test_a_browser_shows_the_page_on_a_narrow_screen_in_both_schemes(report):
    (report / "probe.html").write_text(PROBE, encoding="utf-8")
    light = seen(report, "--blink-settings=preferredColorScheme=1")
    assert light["page"] == light["screen"] <= 390
    assert any(light["tables"])
    assert len(light["images"]) == 4
    for natural, shown in light["images"]:
        assert natural > 600
        assert 200 < shown <= 390
    assert light["scripts"] == 0
    dark = seen(report, "--blink-settings=preferredColorScheme=0")
    assert (light["ink"], light["paper"]) == ("rgb(31, 35, 40)", "rgb(255, 255, 255)")
    assert (dark["ink"], dark["paper"]) == ("rgb(230, 237, 243)", "rgb(13, 17, 23)")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no headless Chromium is installed, e.g. chromium-headless-shell")
def test_a_browser_paints_it(report):
    picture = report / "screen.png"
    browse(report, "--window-size=1200,2400", f"--screenshot={picture}", (report / "page.html").as_uri())
    from matplotlib.image import imread

    assert size_of(picture) == (1200, 2400)
    assert imread(picture)[..., :3].std() > 0.05
