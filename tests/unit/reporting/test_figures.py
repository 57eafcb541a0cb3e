"""reporting/figures/run.py: every picture is there, is a PNG of some substance, and always of the same bytes."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from bench.records.record import Data, RecipePart, Record, Score
from bench.reporting.figures import run, style
from tests.helpers.pictures import drawn, size_of

ROOT = Path(__file__).resolve().parents[3]
STRANGE = ["a$b$c", "$\\frac{$", "情感", "line\nbreak", "x" * 500, "", "\x00", "a_b^c", "naïve"]


def has_colour(pixels, colour, least=20):
    wanted = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return (np.abs(pixels[..., :3] - wanted).max(axis=-1) < 0.02).sum() >= least


def train_log(steps=20, *, validation=True):
    rows = []
    for step in range(1, steps + 1):
        rows.append({"step": step, "loss": math.exp(-step / 9), "learning_rate": 1e-4, "grad_norm": 1.0})
        if validation and step % 5 == 0:
            rows.append({"step": step, "validation_loss": 0.8 - step / 50, "validation_accuracy": step / 30})
    return rows


def per_label(values, **changes):
    low = [None if value is None else max(0, value - 0.1) for value in values]
    high = [None if value is None else min(1, value + 0.1) for value in values]
    return Score(**{"value": values, "low": low, "high": high, "examples": 9, "signature": "s", **changes})


def a_record(scores=None):
    labels = ["negative", "positive"]
    return Record(
        name="a--b--c",
        started_at="t",
        recipe=RecipePart(path="r", resolved={"max_length": 64}),
        data=Data(id="d", labels=labels),
        scores=scores or {},
    )


def scored(values=(0.5, 0.75)):
    counts = Score(value=[[380, 48], [37, 407]], examples=872, signature="c")
    return {
        "f1_per_label": per_label(list(values)),
        "recall_per_label": per_label([0.5, 0.6]),
        "confusion_matrix": counts,
    }


LENGTHS = {"train": list(range(5, 60)) * 3, "test": [64] * 9 + [8, 9]}

DRAWINGS = {
    "curves": lambda path: run.learning_curves(train_log(), path),
    "matrix": lambda path: run.confusion_matrix([[380, 48], [37, 407]], ["no", "yes"], path),
    "confused": lambda path: run.confusion_matrix(
        [[0, 0, 9], [0, 7, 2], [8, 1, 5]], [f"l{n}" for n in range(300)], path
    ),
    "outcomes": lambda path: run.confusion_matrix([[[9, 1], [2, 8]]] * 3, ["a", "b", "c"], path),
    "bars": lambda path: run.per_label_bars({"f1": per_label([0.5, 0.75])}, ["no", "yes"], path),
    "lengths": lambda path: run.length_histogram(LENGTHS, 64, path),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_has_substance_and_the_same_bytes_each_time(tmp_path, name):
    DRAWINGS[name](tmp_path / "first.png")
    DRAWINGS[name](tmp_path / "second.png")
    drawn(tmp_path / "first.png")
    first = (tmp_path / "first.png").read_bytes()
    assert first == (tmp_path / "second.png").read_bytes()
    for word in (b"Software", b"tIME", b"Creation", b"date"):
        assert word not in first


def test_the_bytes_do_not_depend_on_the_process_or_on_a_matplotlibrc(tmp_path):
    DRAWINGS["bars"](tmp_path / "here.png")
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.linewidth: 9\naxes.facecolor: red\n")
    code = (
        "import sys; from pathlib import Path; from bench.records.record import Score;"
        "from bench.reporting.figures import run as figures;"
        "score = Score(value=[.5, .75], low=[.4, .65], high=[.6, .85], examples=9, signature='s');"
        "figures.per_label_bars({'f1': score}, ['no', 'yes'], Path(sys.argv[1]));"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there.png")], env=environment, check=True)
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()


def test_drawing_changes_no_setting_of_matplotlib(tmp_path):
    import matplotlib

    matplotlib.rcParams["font.size"] = 13.0
    try:
        DRAWINGS["matrix"](tmp_path / "x.png")
        assert matplotlib.rcParams["font.size"] == 13.0
        assert matplotlib.rcParams["text.parse_math"] is True
    finally:
        matplotlib.rcdefaults()


def test_no_text_is_smaller_than_nine_points():
    sizes = [value for key, value in style.STYLE.items() if key.endswith("size")]
    assert len(sizes) >= 3
    assert min(sizes) >= 9


# ---------------------------------------------------------------- learning curves


def test_validation_metrics_get_a_panel_of_their_own(tmp_path):
    run.learning_curves(train_log(validation=False), tmp_path / "one.png")
    run.learning_curves(train_log(), tmp_path / "two.png")
    assert size_of(tmp_path / "two.png")[1] > 1.5 * size_of(tmp_path / "one.png")[1]
    assert not has_colour(drawn(tmp_path / "one.png"), style.ORANGE)
    assert has_colour(drawn(tmp_path / "two.png"), style.ORANGE)


def test_a_validation_loss_alone_needs_no_second_panel(tmp_path):
    rows = [row for row in train_log() if "loss" in row] + [{"step": 5, "validation_loss": 0.5}]
    run.learning_curves(rows, tmp_path / "x.png")
    run.learning_curves(train_log(validation=False), tmp_path / "y.png")
    assert abs(size_of(tmp_path / "x.png")[1] - size_of(tmp_path / "y.png")[1]) < 30


def test_many_losses_are_smoothed_by_a_mean_of_what_went_before(tmp_path):
    run.learning_curves(train_log(400, validation=False), tmp_path / "x.png")
    assert has_colour(drawn(tmp_path / "x.png"), style.BLUE)
    assert style.running_mean([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]
    assert style.running_mean([1, math.nan, 3], 2) == [1, 1, 3]
    assert math.isnan(style.running_mean([math.nan], 3)[0])


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_loss_that_is_not_finite_is_marked_and_breaks_nothing(tmp_path, value):
    rows = [*train_log(validation=False), {"step": 21, "loss": value}]
    run.learning_curves(rows, tmp_path / "x.png")
    run.learning_curves(train_log(validation=False), tmp_path / "y.png")
    # The mark's line in the legend needs room.
    assert (tmp_path / "x.png").read_bytes() != (tmp_path / "y.png").read_bytes()
    drawn(tmp_path / "x.png")


@pytest.mark.parametrize("rows", [[], [{"step": 1}], [{"loss": 1.0}]])
def test_a_log_without_losses_is_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="neither a loss nor a validation metric"):
        run.learning_curves(rows, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


# ---------------------------------------------------------------- confusion matrix


@pytest.mark.parametrize("number", [1, 2, 13, 30, 31, 150])
def test_a_matrix_of_any_number_of_labels_is_drawn(tmp_path, number):
    counts = np.eye(number, dtype=int) * 12_345 + 1
    run.confusion_matrix(counts.tolist(), [f"label {index}" for index in range(number)], tmp_path / "x.png")
    drawn(tmp_path / "x.png")


def test_cells_stay_large_enough_for_their_numbers():
    assert all(run.CELLS_IN[most] * 72 >= 2 * 9 * 1.2 for most in run.CELLS_IN), "two lines of 9 points"
    assert max(run.CELLS_IN) == 30
    assert [run._short_count(count) for count in (7, 9_999, 12_345, 999_499, 1_234_567)] == [
        "7", "9999", "12k", "999k", "1M",
    ]  # fmt: skip
    assert [style.percent(share) for share in (0, 0.004, 0.014, 1)] == ["0 %", "<1 %", "1 %", "100 %"]


def test_a_label_without_a_text_is_grey_and_divides_nothing_by_zero(tmp_path):
    with np.errstate(all="raise"):
        run.confusion_matrix([[5, 1], [0, 0]], ["seen", "unseen"], tmp_path / "x.png")
        run.confusion_matrix([[[9, 0], [0, 0]], [[0, 0], [3, 1]]], ["never", "always"], tmp_path / "y.png")
    assert has_colour(drawn(tmp_path / "x.png"), "#DDDDDD", least=10_000)
    drawn(tmp_path / "y.png")


def test_outcomes_of_several_labels_take_a_line_each(tmp_path):
    for number in (2, 30):
        run.confusion_matrix([[[900, 9], [2, 80]]] * number, ["x"] * number, tmp_path / f"{number}.png")
    short, tall = size_of(tmp_path / "2.png"), size_of(tmp_path / "30.png")
    line_px = 0.3 * style.DPI
    assert tall[1] - short[1] == pytest.approx(28 * line_px, abs=3)
    assert 600 < short[0] < 1100


@pytest.mark.parametrize("counts", [[], [1, 2], [[1, 2]], [[1, 2], [3]], [[[1, 2]]], None, "x"])
def test_counts_of_another_shape_are_refused(tmp_path, counts):
    with pytest.raises((ValueError, TypeError)):
        run.confusion_matrix(counts, ["a", "b"], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_strange_labels_are_drawn_or_numbered(tmp_path, recwarn):
    number = len(STRANGE)
    names = style.label_names(STRANGE, number + 1)
    assert names[:4] == ["a$b$c", "$\\frac{$", "label 2", "line break"]
    assert len(names[4]) <= style.LABEL_CHARACTERS
    assert names[5:] == ["label 5", names[6], "a_b^c", "naïve", f"label {number}"]
    run.confusion_matrix(np.eye(number).tolist(), STRANGE, tmp_path / "x.png", "test $x$")
    run.per_label_bars({"f1": [0.5] * number}, STRANGE, tmp_path / "y.png")
    drawn(tmp_path / "x.png")
    drawn(tmp_path / "y.png")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


# ---------------------------------------------------------------- bars and lengths


def test_bars_grow_with_labels_and_grey_stands_for_before(tmp_path):
    before = f"f1{run.BEFORE}"
    bars = {before: per_label([0.2, 0.3]), "f1": per_label([0.8, None])}
    run.per_label_bars(bars, ["a", "b"], tmp_path / "x.png")
    pixels = drawn(tmp_path / "x.png")
    assert has_colour(pixels, style.GREY, least=1000)
    assert has_colour(pixels, style.BLUE, least=1000)
    run.per_label_bars({"f1": per_label([0.5] * 20)}, ["a"] * 20, tmp_path / "y.png")
    assert size_of(tmp_path / "y.png")[1] > size_of(tmp_path / "x.png")[1]


def test_of_many_labels_the_lowest_are_shown(tmp_path):
    number = 150
    values = [index / number for index in range(number)]
    run.per_label_bars({"f1": values}, [str(index) for index in range(number)], tmp_path / "up.png", "t")
    run.per_label_bars({"f1": values[:30]}, [str(index) for index in range(30)], tmp_path / "few.png", "t")
    high, few = imread(tmp_path / "up.png"), imread(tmp_path / "few.png")
    assert high.shape == few.shape
    # The same bars below the title, which says that others are left out.
    assert (high[60:] == few[60:]).all()
    assert not (high[:60] == few[:60]).all()


def test_bars_without_a_score_are_refused(tmp_path):
    for empty in ({}, {"f1": []}, {"f1": Score(value=None, examples=0, signature="s")}):
        with pytest.raises(ValueError, match="no scores by label"):
            run.per_label_bars(empty, ["a"], tmp_path / "x.png")


def test_the_length_limit_is_drawn_where_there_is_one(tmp_path):
    run.length_histogram(LENGTHS, 64, tmp_path / "with.png")
    run.length_histogram(LENGTHS, None, tmp_path / "without.png")
    upright_lines = []
    for name in ("with.png", "without.png"):
        black = (drawn(tmp_path / name)[..., :3] < 0.4).all(axis=-1).mean(axis=0) > 0.3
        upright_lines.append(int(np.diff(black.astype(int)).clip(0).sum()))
    assert upright_lines == [2, 1], "the axis, and the line at the limit"


@pytest.mark.parametrize("lengths", [{"a": [1]}, {"a": [0, 0]}, {"a": [5] * 9999 + [10**6]}, {"a": [3], "b": []}])
def test_lengths_of_any_spread_are_drawn(tmp_path, lengths):
    run.length_histogram(lengths, 128, tmp_path / "x.png")
    drawn(tmp_path / "x.png")


def test_no_text_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no examples"):
        run.length_histogram({"train": []}, 64, tmp_path / "x.png")


# ---------------------------------------------------------------- all of a run


def test_draw_all_draws_what_there_is_and_says_where(tmp_path):
    record = a_record({"before": {"test": scored((0.1, 0.2))}, "after": {"test": scored()}})
    found = run.draw_all(tmp_path, record, train_log(), LENGTHS)
    assert found == {
        name: f"figures/{name}.png"
        for name in ("learning_curves", "length_histogram", "confusion_matrix-test", "per_label-test")
    }
    for path in found.values():
        drawn(tmp_path / path)
    assert record.notes == []
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(f"{name}.png" for name in found)
    assert has_colour(imread(tmp_path / found["per_label-test"]), style.GREY, least=500)


def test_draw_all_of_a_run_that_got_nowhere_draws_nothing_and_notes_nothing(tmp_path):
    record = a_record()
    record.data = None
    assert run.draw_all(tmp_path, record, [], {}) == {}
    assert record.notes == []
    assert not (tmp_path / "figures").exists()


def test_draw_all_shows_the_untrained_model_of_a_run_that_got_no_further(tmp_path):
    record = a_record({"before": {"test": scored()}})
    assert set(run.draw_all(tmp_path, record, [], {})) == {"confusion_matrix-test", "per_label-test"}


def test_a_figure_that_can_not_be_drawn_is_noted_and_the_others_are_there(tmp_path):
    broken = {**scored(), "confusion_matrix": Score(value=[[1, 2]], examples=3, signature="c")}
    record = a_record({"after": {"test": broken}})
    assert set(run.draw_all(tmp_path, record, [], LENGTHS)) == {"length_histogram", "per_label-test"}
    (note,) = record.notes
    assert note.startswith("the figure confusion_matrix-test could not be drawn: ValueError: expected counts of shape")


def test_a_folder_that_can_not_be_written_is_noted(tmp_path):
    (tmp_path / "figures").write_text("a file stands here")
    record = a_record()
    assert run.draw_all(tmp_path, record, [], LENGTHS) == {}
    assert "FileExistsError" in record.notes[0]


def test_a_split_name_never_leaves_the_folder(tmp_path):
    record = a_record({"after": {"../../test x": scored()}})
    found = run.draw_all(tmp_path / "run", record, [], {})
    assert found["per_label-.._.._test_x"] == "figures/per_label-.._.._test_x.png"
    assert {path.parent for path in tmp_path.rglob("*.png")} == {tmp_path / "run" / "figures"}


def test_importing_figures_loads_no_heavy_library():
    code = "import sys, bench.reporting.figures.run; print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
