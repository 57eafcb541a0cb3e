"""The page of a report in a real browser: it fits each screen, sorts, filters, tells values, and asks nobody."""

import re
import xml.etree.ElementTree as ET

import pytest

from bench.reporting import study_page
from tests.helpers import browser as browsers
from tests.helpers import pages, pictures, studies
from tests.helpers.pictures import size_of

pytestmark = browsers.needs_browser
WIDTHS, SCHEMES = (390, 768, 1280), {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a study, with hostile texts in it, and the folder of its figures."""
    return pages.write_hostile_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests."""
    with browsers.started() as found:
        yield found


@pytest.fixture(scope="module")
def wide(browser, report):
    """The page at a desktop's width; tests leave its tables as they were."""
    with browsers.opened(browser, report / "page.html") as shown:
        yield shown
        assert shown.complaints == []


def figure(page, name):
    return page.locator("figure", has=page.locator(f"img[data-name$='-{name}']"))


def hold(cells, texts):
    """Wait until cells hold these texts: tables are drawn a moment after a click."""
    from playwright.sync_api import expect

    expect(cells).to_have_text(texts)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_fits_the_screen_in_both_schemes_and_loads_nothing(browser, report, width, scheme):
    with browsers.opened(browser, report / "page.html", width=width, scheme=scheme) as shown:
        page = shown.page
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == SCHEMES[scheme]
        drawn = page.locator("figure svg").evaluate_all("all => all.map(one => one.getBoundingClientRect().toJSON())")
        assert len(drawn) > 6
        assert all(box["left"] >= 0 and box["right"] <= width and box["height"] > 90 for box in drawn)
        texts = page.locator("figure svg text tspan, figure svg text").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect()).map(box => [box.left, box.right])"
        )
        assert all(left >= -1 and right <= width + 1 for left, right in texts)
        pictures = page.locator("figure img").evaluate_all("all => all.map(one => one.checkVisibility())")
        assert pictures == [False] * 5
        assert shown.complaints == []
        assert shown.requests == [(report / "page.html").as_uri()]


def test_a_browser_paints_it(browser, report):
    from matplotlib.image import imread

    picture = report / "screen.png"
    with browsers.opened(browser, report / "page.html") as shown:
        shown.page.screenshot(path=picture)
    assert size_of(picture) == (1280, 900)
    assert imread(picture)[..., :3].std() > 0.05


def test_tables_are_sorted_by_click_and_by_keyboard(wide):
    heading = wide.page.locator("th", has_text="accuracy (95 % interval)").first
    table = wide.page.locator("table", has=heading).first
    number = heading.evaluate("one => one.cellIndex + 1")
    cells = table.locator(f"tbody tr td:nth-child({number})")
    before = cells.all_inner_texts()
    assert before == sorted(before, reverse=True)
    assert len(set(before)) == 3
    heading.click()
    hold(cells, sorted(before))
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("[role=button]").focus()
    wide.page.keyboard.press("Enter")
    hold(cells, before)
    assert heading.get_attribute("aria-sort") == "descending"


def test_rows_are_filtered_as_one_types(wide):
    box = wide.page.locator(".dt-container", has=wide.page.locator("th", has_text="reference"))
    rows, search = box.locator("tbody tr"), box.get_by_role("searchbox")
    every = rows.count()
    assert every > 6
    first = box.locator("tbody code").first.inner_text()
    search.fill(first)
    hold(rows.locator("code"), [first])
    search.fill("<img src=x onerror=alert(1)>")
    hold(rows.locator("code"), [re.compile("t-")] * every)
    search.fill("no such row")
    hold(rows, ["No row holds this."])
    search.fill("")
    hold(rows.locator("code"), [re.compile("t-")] * every)


def test_figures_tell_their_values_to_the_pointer_and_to_the_arrow_keys(wide):
    wide.page.mouse.move(0, 0)  # from where another test left it
    place = figure(wide.page, "scores")
    place.scroll_into_view_if_needed()
    tip = place.locator("[aria-label=tip]")
    assert "accuracy" not in tip.text_content()
    place.locator("[aria-label=dot] circle").last.hover()
    assert "C: two" in tip.text_content()
    assert "accuracy: 0.400 (0.286–0.526)" in tip.text_content()
    for name, marks, value in (("cost", "dot", "RAM peak, GiB: 1"), ("labels", "dot", "accuracy per label: 0.")):
        figure(wide.page, name).scroll_into_view_if_needed()
        figure(wide.page, name).locator(f"[aria-label={marks}] circle").first.hover()
        told = " ".join(figure(wide.page, name).locator("[aria-label=tip]").all_text_contents())
        assert "A: one" in told
        assert value in told
    wide.page.mouse.move(0, 0)
    figure(wide.page, "confusion").locator("svg").first.focus()
    wide.page.keyboard.press("ArrowRight")
    told = figure(wide.page, "confusion").locator("[aria-label=tip]").first.text_content()
    assert "reference: negative" in told
    assert "% of the row" in told


@pytest.mark.parametrize("name", ["scores", "cost", "curves", "labels", "confusion"])
def test_figures_are_saved_as_svg(wide, tmp_path, name):
    with wide.page.expect_download() as waiting:
        figure(wide.page, name).get_by_role("button", name="Save as SVG").click()
    assert waiting.value.suggested_filename.endswith(f"-{name}.svg")
    waiting.value.save_as(tmp_path / "x.svg")
    root = ET.parse(tmp_path / "x.svg").getroot()
    assert root.tag == f"{SVG}svg"
    assert {node.tag for node in root.iter()} <= {
        f"{SVG}{tag}" for tag in ("svg", "g", "style", "text", "tspan", "title", "line", "path", "circle", "rect")
    }
    text = (tmp_path / "x.svg").read_text(encoding="utf-8")
    assert "var(--" not in text.replace("var(--plot-background)", "")
    assert "one" in "".join(root.itertext())
    assert float(root.get("width")) > 200


def test_without_scripts_it_is_read_all_the_same(browser, report):
    with browsers.opened(browser, report / "page.html", width=390, scripts=False) as shown:
        page = shown.page
        assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
        sizes = page.locator("img").evaluate_all("all => all.map(one => [one.naturalWidth, one.clientWidth])")
        assert len(sizes) == 5
        assert all(natural > 600 and 200 < seen <= 390 for natural, seen in sizes)
        assert page.locator("td", has_text="0.6").first.is_visible()
        assert page.locator("button, input").count() == 0


def test_no_other_script_runs_and_nothing_is_fetched(browser, report):
    with browsers.opened(browser, report / "page.html") as shown:
        page = shown.page
        assert page.locator("script").count() == 5
        assert page.locator("[onerror], [onload], [onclick]").count() == 0
        ran = page.evaluate("""async () => {
          const other = document.createElement("script");
          other.textContent = "window.ran = true";
          document.body.append(other);
          let asked = true;
          try { await fetch("http://127.0.0.1:9/"); } catch { asked = false; }
          return [window.ran ?? false, asked];
        }""")
        assert ran == [False, False]
        assert len([text for text in shown.complaints if "Content Security Policy" in text]) >= 2
        assert shown.requests == [(report / "page.html").as_uri()]


def test_a_wide_table_hints_at_its_end_and_keeps_the_names_of_its_rows(browser, report):
    with browsers.opened(browser, report / "page.html", width=390) as shown:
        table = shown.page.locator(".scroll", has=shown.page.locator("th", has_text="(95 % interval)")).first
        assert "more" in table.get_attribute("class").split()
        name = table.locator("td.key").first
        assert re.match(r"[A-Z]+: ", name.inner_text())
        table.evaluate("box => { box.scrollLeft = box.scrollWidth }")
        shown.page.wait_for_function("box => !box.classList.contains('more')", arg=table.element_handle())
        at = [one.evaluate("one => one.getBoundingClientRect().left") for one in (table, name)]
        assert abs(at[0] - at[1]) < 2


def test_confusion_matrices_show_shares_as_their_note_says(wide):
    place = figure(wide.page, "confusion")
    place.scroll_into_view_if_needed()
    texts = place.locator("svg [aria-label=text] text").all_text_contents()
    assert texts
    assert all(re.fullmatch(r"(<1|\d{1,3}) %", text) for text in texts)


# ---------------------------------------------------------------- many systems with long texts


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The page of six systems of two seeds on long texts, one of which never takes a positive for a negative one."""
    folder = tmp_path_factory.mktemp("many")
    texts = studies.write_texts(folder / "data", 60, "review {number}: " + "it takes its time, and so did we. " * 30)
    names = ("distilbert", "roberta_base", "minilm", "a_model_with_a_rather_long_name", "t5", "gpt2")
    for place, name in enumerate(names):
        for seed in (13, 14):
            hits = [number % 2 == 1 or hit for number, hit in enumerate(studies.answers(0.9 - place / 20, seed, 60))]
            run = folder / "runs" / f"{name}-{seed}"
            studies.write_run(run, f"s--{name}--full", seed, hits, before=studies.answers(0.5, seed, 60), texts=texts)
    with pytest.MonkeyPatch.context() as patch:
        pictures.leave_unrendered(patch)
        study_page.write([folder / "runs"], folder / "report", folder / "page.html")
    return folder / "page.html"


def test_on_a_desktop_nothing_of_six_systems_is_out_of_sight(browser, many):
    with browsers.opened(browser, many) as shown:
        shown.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        boxes = shown.page.locator(".scroll, pre")
        hidden = boxes.evaluate_all("all => all.map(one => one.scrollWidth - one.clientWidth)")
        assert len(hidden) > 8
        assert max(hidden) <= 0
        text = shown.page.locator("td", has_text="it takes its time").first
        assert text.evaluate("one => one.clientWidth") > 200


def test_on_a_phone_commands_are_wrapped(browser, many):
    with browsers.opened(browser, many, width=375) as shown:
        shown.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        commands = shown.page.locator("pre", has_text="python -m bench run").first
        assert commands.evaluate("one => [one.scrollWidth - one.clientWidth, one.clientHeight > 70]") == [0, True]


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_no_line_of_a_baseline_runs_through_a_name(browser, many, width):
    with browsers.opened(browser, many, width=width) as shown:
        place = figure(shown.page, "scores")
        boxes = "all => all.map(one => one.getBoundingClientRect()).map(at => [at.left, at.right, at.top, at.bottom])"
        names = place.locator("svg text", has_text=re.compile("^[A-F]: ")).evaluate_all(boxes)
        lines = place.locator("svg [aria-label=rule][stroke-dasharray] line").evaluate_all(boxes)
        assert (len(names), len(lines) >= 6) == (6, True)
        met = [
            (left, top)
            for left, right, top, bottom in names
            for start, end, high, low in lines
            if end >= left and start <= right and low > top + 1 and high < bottom - 1
        ]
        assert met == []


def test_a_share_of_none_is_a_cell_with_its_number(browser, many):
    with browsers.opened(browser, many) as shown:
        place = figure(shown.page, "confusion")
        texts = place.locator("svg [aria-label=text] text").all_text_contents()
        assert "0 %" in texts
        assert len(texts) == 4 * 6
        cells = place.locator("svg [aria-label=cell]")
        edges = cells.evaluate_all("all => all.map(one => getComputedStyle(one).stroke)")
        assert edges
        assert "none" not in edges
