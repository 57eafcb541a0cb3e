"""reporting/figures/study.py: pictures of many systems hold no text over another, and leave out nothing in silence."""

import itertools
import json
import math

import numpy as np
import pytest

from bench.analysis import train_log
from bench.reporting.figures import charts, sections, study, style
from bench.reporting.figures.study import Bar, Point
from tests.helpers.pictures import drawn, size_of

NAMES = [
    f"{chr(ord('A') + number)}: a-model-with-a-long-name-{number} / lora (training.steps=400)" for number in range(10)
]


@pytest.fixture
def texts(monkeypatch):
    """Boxes of all texts of the figures drawn, in pixels: [(text, box)]."""
    found = []
    plain = style.figure

    def watched(*arguments, **options):
        import contextlib

        @contextlib.contextmanager
        def inner():
            with plain(*arguments, **options) as figure:
                yield figure
                from matplotlib.text import Text

                figure.draw_without_rendering()
                kept, shown = (labels_of_ticks(figure, drawn_only=only) for only in (False, True))
                for text in figure.findobj(Text):
                    drawn_here = text.get_visible() and (text.axes is None or text.axes.get_visible())
                    if text.get_text().strip() and drawn_here and (text not in kept or text in shown):
                        found.append((text.get_text(), text.get_window_extent()))

        return inner()

    monkeypatch.setattr(style, "figure", watched)
    return found


def labels_of_ticks(figure, *, drawn_only):
    """matplotlib keeps labels of ticks that lie outside of an axis, and does not draw them."""
    axes = [
        axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis) if panel.get_visible() or not drawn_only
    ]
    ticks = [tick for axis in axes for tick in (axis._update_ticks() if drawn_only else axis.majorTicks)]
    return [label for tick in ticks for label in (tick.label1, tick.label2)]


def assert_apart(texts):
    assert len(texts) > 5
    for (one, first), (other, second) in itertools.combinations(texts, 2):
        width = min(first.x1, second.x1) - max(first.x0, second.x0)
        height = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert width <= 1 or height <= 1, f"{one!r} lies over {other!r}"


def points(costs):
    return [Point(name=name, score=0.95 - 0.03 * number, low=0.9 - 0.03 * number, high=0.97 - 0.03 * number, cost=cost)
            for number, (name, cost) in enumerate(zip(NAMES, costs, strict=False))]  # fmt: skip


def logs(number=10):
    rows = [{"step": step, "loss": math.exp(-step / 90)} for step in range(1, 300, 2)]
    validation = [{"step": step, "validation_loss": 0.5, "validation_accuracy": step / 400} for step in (100, 200)]
    return {name: [[*rows, *validation], rows] for name in NAMES[:number]}


DRAWINGS = {
    "scores": lambda path: study.scores(
        [Bar(name=name, score=0.8 + number / 50, low=0.7, high=1.0, before=0.5) for number, name in enumerate(NAMES)],
        (0.45, 1.02), path, metric="accuracy", floors=[("majority", 0.5), ("tfidf", 0.7)],
    ),
    "cost": lambda path: study.score_against_cost(
        {"GPU peak, GiB": points([5, 5.2, 30, 31, 12, 8, None, 9, 10, 11]), "training, s": points([3000.0] * 10)},
        lambda first, second: first < second - 2, path, score="accuracy",
    ),
    "curves": lambda path: study.learning_curves(logs(), path),
    "labels": lambda path: study.label_scores(
        {name: [0.1 * place + 0.01 * number for place in range(9)] for number, name in enumerate(NAMES)},
        ["a rather long name of a label"] * 9, path, score="f1 per label",
    ),
    "confusion": lambda path: study.confusion_matrices(
        {name: np.eye(5) * 90 + 3 for name in NAMES[:5]}, [f"emotion number {place}" for place in range(5)], path
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
def test_no_text_lies_over_another(tmp_path, texts, name, recwarn):
    DRAWINGS[name](tmp_path / "x.png")
    drawn(tmp_path / "x.png")
    assert_apart(texts)
    assert min(box.height for _, box in texts) > 8, "pixels"
    assert not [warning for warning in recwarn if "constrained" in str(warning.message)]


def test_names_of_any_kind_are_drawn(tmp_path):
    strange = ["$x$ \\frac{", "情感", "line\nbreak", "x" * 100_000, "", "\x00"]
    odd = [Point(name=name, score=0.5, low=None, high=None, cost=1.0) for name in strange]
    study.score_against_cost({"s": odd}, None, tmp_path / "x.png", score="$y$")
    drawn(tmp_path / "x.png")
    assert all(len(name) <= study.NAME_CHARACTERS for name in study.legend_names(strange))


def test_without_a_cost_there_is_no_picture(tmp_path):
    with pytest.raises(ValueError, match="both a score and a cost"):
        study.score_against_cost({"s": points([None] * 3)}, None, tmp_path / "x.png", score="y")
    with pytest.raises(ValueError, match="neither a loss nor"):
        study.learning_curves({"a": [[{"step": 1}]]}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="no scores by label"):
        study.label_scores({"a": [None, None]}, [], tmp_path / "x.png", score="f1")
    for counts in ({"a": [[1, 2]]}, {"a": np.eye(2), "b": np.eye(3)}, {"a": np.zeros((3, 2, 2))}, {}):
        with pytest.raises(ValueError, match="counts of one shape"):
            study.confusion_matrices(counts, [], tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_of_many_labels_the_lowest_are_shown(tmp_path):
    values = {"a": [index / 150 for index in range(150)], "b": [None] * 150}
    study.label_scores(values, [str(index) for index in range(150)], tmp_path / "x.png", score="f1")
    drawn(tmp_path / "x.png")
    assert size_of(tmp_path / "x.png")[1] < 2200


def test_points_at_one_place_are_named_together(tmp_path, texts):
    places = {"A": (0.9, 5.0), "B": (0.9, 5.0), "C": (0.8, 1.0), "D": (0.9, 5.02)}
    twins = [
        Point(name=f"{letter}: x", score=score, low=score - 0.1, high=1.0, cost=cost)
        for letter, (score, cost) in places.items()
    ]
    study.score_against_cost({"s": twins}, None, tmp_path / "x.png", score="accuracy")
    assert [text for text, _ in texts if ", " in text] == ["A, B, D"]
    assert study.together(twins, 0.0, 0.0) == [[0, 1]]
    assert study.together(twins[1:3], 0.1, 0.1) == []


def test_every_interval_is_in_view():
    near = [Point(name="a", score=score, low=score - 0.01, high=score + 0.01, cost=1) for score in (0.8, 0.82)]
    low, high = study.score_limits(near)
    assert 0.77 < low < 0.79
    assert 0.83 < high < 0.85
    wide = Point(name="b", score=0.81, low=0.1, high=0.99, cost=1)
    low, high = study.score_limits([*near, wide])
    assert 0 < low < 0.1
    assert 0.99 < high < 1.1
    low, high = study.score_limits([Point(name="a", score=0.0, low=None, high=None, cost=1)])
    assert low < 0 < high


def test_the_metric_that_training_was_chosen_by_is_among_the_curves():
    rows = [{"step": 1, "loss": 1.0, **{f"validation_{name}": 0.5 for name in ("a", "b", "c", "loss")}}]
    panels = study.curve_panels({"x": [rows]}, ["c", "unknown"])
    assert panels == ["loss", "validation_loss", "validation_c", "validation_a"]


def test_systems_have_different_signs_and_lines():
    found = study.marker_styles(56)
    assert len(set(found)) == 56
    assert study.marker_styles(3) == found[:3]
    lines = study.lines(study.MOST_CURVES)
    assert len(set(lines)) == study.MOST_CURVES
    assert [colour for colour, _ in lines] == [colour for colour, _ in found[: len(lines)]]


def test_a_log_is_read_as_far_as_it_can_be(tmp_path):
    (tmp_path / "log").write_text('{"step": 1, "loss": 2}\n\n[1]\n{"step": 2, "lo', encoding="utf-8")
    assert train_log.read_log(tmp_path / "log") == ([{"step": 1, "loss": 2}], 2)


def test_a_figure_that_can_not_be_drawn_is_said_to_be_missing(tmp_path):
    def broken(path):
        raise ValueError("no | such <b>")

    shown = sections.Gallery(tmp_path, "01-x").show("cost", "text", broken, dict)
    assert shown == "This figure could not be drawn: ValueError: no &#124; such &lt;b&gt;."
    assert sections.prefix(3, "../org/data set|x") == "03-org_data_set_x"
    assert sections.prefix(12, "情感") == "12-data"


def test_scores_that_differ_by_less_than_chance_stand_close_together():
    """The axis holds the usual interval, so that noise does not fill the figure."""
    near = [Point(name="a", score=score, low=score - 0.05, high=score + 0.05, cost=1) for score in (0.842, 0.843)]
    low, high = study.score_limits(near)
    assert low <= 0.792
    assert high >= 0.893
    skewed = [
        Point(name="a", score=0.95, low=0.85, high=0.97, cost=1),
        Point(name="b", score=0.95, low=0.8, high=1, cost=1),
    ]
    assert study.score_limits(skewed)[0] <= 0.85


@pytest.mark.parametrize("values", [[0.842, 0.845], [0.6931, 0.6932], [-0.501, -0.5], [1e-9, 1.1e-9], [41.0, 41.3]])
def test_a_curve_that_hardly_moves_is_drawn_flat(values):
    from matplotlib.figure import Figure

    panel = Figure().subplots()
    panel.plot(values)
    style.widen(panel)
    low, high = panel.get_ylim()
    assert high - low >= 0.0999 * max(map(abs, values))
    assert low < min(values) < max(values) < high
    panel = Figure().subplots()
    panel.plot([0.1, 0.9])
    before = panel.get_ylim()
    style.widen(panel)
    assert panel.get_ylim() == before


@pytest.mark.parametrize(
    ("scores", "floor", "bounds", "expected"),
    [
        ([(0.84, 0.82, 0.86, 0.5)], 0.51, (0, 1), (0.4856, 0.8744)),
        ([(0.84, None, None, None), (0.85, None, None, None)], None, (0, 1), (-0.017, 0.884)),
        ([(0.99, 0.9, 1.0, None)], 0.5, (0, 1), (0.48, 1.01)),
        ([(0.3, 0.2, 0.4, 0.7)], 0.69, (0, float("inf")), (0.18, 0.72)),
        ([(-0.1, -0.2, 0.1, None)], None, (-1, 1), (-0.212, 0.112)),
    ],
)
def test_the_axis_of_scores_begins_at_the_baseline_or_at_0(scores, floor, bounds, expected):
    bars = [Bar(name="a", score=score, low=low, high=high, before=before) for score, low, high, before in scores]
    assert study.axis_limits(bars, floor, bounds) == pytest.approx(expected, abs=1e-3)


def test_a_system_keeps_its_colour_where_a_figure_lacks_others():
    places = {"A": 0, "B": 1, "C": 2}
    assert study._of_places(study.lines, ["A", "C"], places) == [study.lines(3)[0], study.lines(3)[2]]
    logs = {name: [[{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]] for name in ("A", "C")}
    assert [one["place"] for one in charts.curves(logs, [], places)["legend"]] == [0, 2]


def test_long_curves_are_thinned_to_what_a_screen_shows():
    rows = [{"step": step, "loss": 1 / step} for step in range(1, 5001)]
    chart = charts.curves({"A": [rows]}, [], {"A": 0})
    (line,) = chart["panels"][0]["lines"]
    assert len(line["points"]) <= charts.MOST_POINTS + 1
    assert (line["points"][0][0], line["points"][-1][0]) == (1, 5000)


def test_what_is_no_number_is_null_in_a_chart():
    bars = [Bar(name="a\x00\n", score=0.5, low=None, high=float("nan"), before=None)]
    chart = charts.scores(bars, (0, 1), metric="accuracy", higher=True, floors=[])
    assert chart["baselines"] == []
    assert chart["systems"] == [{"name": "a\ufffd", "score": 0.5, "low": None, "high": None, "before": None}]
    assert json.loads(json.dumps(chart, allow_nan=False)) == chart


def test_a_name_with_an_underscore_before_it_stands_in_the_legend():
    assert study.legend_names(["_x / lora", "a_b"]) == [" _x / lora", "a_b"]
