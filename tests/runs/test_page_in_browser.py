"""The page of a report in a real browser: it fits a narrow screen, in both colour schemes."""

import html
import re
import shutil
import subprocess

import pytest

from tests.helpers import pages
from tests.helpers.pictures import size_of

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a study, with hostile texts in it, and the folder of its figures."""
    return pages.write_hostile_study(tmp_path_factory.mktemp("study"))


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


@pytest.mark.skipif(BROWSER is None, reason="no headless Chromium is installed, e.g. chromium-headless-shell")
def test_a_browser_paints_it(report):
    picture = report / "screen.png"
    browse(report, "--window-size=1200,2400", f"--screenshot={picture}", (report / "page.html").as_uri())
    from matplotlib.image import imread

    assert size_of(picture) == (1200, 2400)
    assert imread(picture)[..., :3].std() > 0.05
