"""The section on label curves: its sentences, its figure, and that the other tables have the largest size alone."""

import math

import pytest

from bench.analysis import accessors, label_curves
from bench.analysis.label_curves import Crossing, Equivalent, Estimate
from bench.reporting import label_curve_page, study_page
from tests.helpers.sizes import law, write_series

RANGE = {"least": 50, "most": 4000}


def crossing(at=None, **changes):
    known = {"first": "lora", "last": "full", "agreeing": 1.0, "ahead_throughout": 0.0, "several": False}
    at = None if at is None else Estimate(value=at[0], low=at[1], high=at[2])
    return Crossing(**{**known, **RANGE, "at": at, **changes})


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (crossing((683.0, 404.0, 1520.0)), "full passes lora at about 680 labels (95 % interval 400 to 1,500)."),
        (
            crossing((683.0, -math.inf, 1520.0), ahead_throughout=0.02),
            "full passes lora at about 680 labels (95 % interval fewer than 50 to 1,500).",
        ),
        (
            crossing((683.0, -math.inf, 1520.0), ahead_throughout=0.1),
            "full and lora: no crossing is established between 50 and 4,000 labels. The laws cross at about 680 labels "
            "(95 % interval fewer than 50 to 1,500); full is ahead at 4,000 in 100.0 % of the draws.",
        ),
        (
            crossing((683.0, 400.0, math.inf), agreeing=0.9),
            "full and lora: no crossing is established between 50 and 4,000 labels. The laws cross at about 680 labels "
            "(95 % interval 400 to more than 4,000); full is ahead at 4,000 in 90.0 % of the draws.",
        ),
        (
            crossing((683.0, -math.inf, math.inf), several=True, agreeing=0.7),
            "full and lora: no crossing is established between 50 and 4,000 labels. The laws cross at about 680 labels "
            "(95 % interval fewer than 50 to more than 4,000); they cross more than once, and this is the last time; "
            "full is ahead at 4,000 in 70.0 % of the draws.",
        ),
        (
            crossing((683.0, 400.0, 900.0), several=True),
            "full passes lora at about 680 labels (95 % interval 400 to 900); they cross more than once, and this is "
            "the last time.",
        ),
        (
            crossing(agreeing=0.0),
            "full and lora: no crossing between 50 and 4,000 labels, where neither is ahead.",
        ),
        (
            crossing(ahead_throughout=1.0),
            "full is ahead of lora everywhere between 50 and 4,000 labels: no crossing there.",
        ),
        (
            crossing(ahead_throughout=0.8, agreeing=0.9),
            "full and lora: whether they cross between 50 and 4,000 labels is not established. By its law full is "
            "ahead everywhere, but so in only 80.0 % of the draws; full is ahead at 4,000 in 90.0 % of the draws.",
        ),
    ],
)
def test_sentences_on_crossings(one, sentence):
    assert label_curve_page.crossing_sentence(one) == sentence


def test_sentences_on_equal_scores():
    needed = Estimate(value=304.0, low=210.0, high=math.inf)
    one = Equivalent(name="full", other="head", examples=4000, needed=needed, **RANGE)
    assert label_curve_page.equivalent_sentence(one) == (
        "head with 4,000 labels equals full with about 300 (95 % interval 210 to more than 4,000)."
    )
    few = Estimate(value=3.0, low=1.0, high=9.0)
    one = Equivalent(name="full", other="head", examples=4000, needed=few, **RANGE)
    assert label_curve_page.equivalent_sentence(one) == (
        "head with 4,000 labels equals full with fewer than 50 (95 % interval: fewer than 50)."
    )

    unknown = Estimate(value=65.0, low=3.0, high=math.inf)
    one = Equivalent(name="full", other="head", examples=4000, needed=unknown, **RANGE)
    assert label_curve_page.equivalent_sentence(one) == (
        "head with 4,000 labels and full: no number of labels for an equal score is established (its 95 % interval "
        "covers all that were measured)."
    )


def test_noise_is_no_crossing_and_one_seed_is_said_first(tmp_path):
    """Two systems of the same error, whose curves cross by chance."""
    flat = (50, 200, 1000, 4000)
    for method in ("full", "lora"):
        write_series(tmp_path / "runs", method, lambda size: 0.2, sizes=flat, seeds=(13,), examples=200)
    records, _ = accessors.read_all([tmp_path / "runs"])
    (found,) = label_curves.label_curves(records)
    (one,) = found.crossings
    assert "established" in label_curve_page.crossing_sentence(one)
    assert all("equals" not in label_curve_page.equivalent_sentence(each) for each in found.equivalents)
    (section,) = label_curve_page.sections(records, tmp_path / "page", None, str)
    caption, _, _ = section.partition("###")
    assert "With 1 seed, of 3 or more that their variance needs, intervals of crossings" in caption


def test_the_page_has_curves_beside_a_leaderboard_of_the_largest_size(tmp_path):
    sizes = (50, 200, 1000, 4000)
    write_series(tmp_path / "runs", "full", lambda size: law(size, 0.1, 0.4, 0.6), sizes=sizes, seeds=(13, 14, 15))
    write_series(tmp_path / "runs", "lora", lambda size: law(size, 0.15, 0.2, 0.6), sizes=sizes, seeds=(13, 14, 15))
    write_series(tmp_path / "runs", "head", lambda size: 0.4, sizes=sizes[:3], seeds=(13, 14, 15), whole=1000)
    records, unreadable = accessors.read_all([tmp_path / "runs"])
    page = study_page.page(records, unreadable, tmp_path / "page")
    text = page if isinstance(page, str) else page[0]
    board, _, curves = text.partition("## Label curves: sst2_local")
    assert "| 3 | " in board
    assert "(data.train_examples" not in board
    assert "| system | 50 | 200 | 1,000 | 4,000 |" in curves
    assert "8,000 labels instead of 4,000 would improve accuracy by about" in curves
    assert "head: no law is fitted (3 sizes; a law of three parameters needs 4)." in curves
    assert "full passes lora at about" in curves
    assert (tmp_path / "page" / "figures" / "01-sst2_local-sizes.png").stat().st_size > 10_000
    # The same numbers for the HTML page, whose script draws them.
    chart = page[1]["figures/01-sst2_local-sizes.png"]
    assert (chart["kind"], chart["sizes"]) == ("sizes", list(sizes))
    assert [one["name"] for one in chart["legend"]] == ["full", "lora", "head"]
    assert len(chart["points"]) == 4 + 4 + 3
    assert [law["place"] for law in chart["laws"]] == [0, 1]
    low, high = chart["domain"]
    assert all(low <= value <= high for law in chart["laws"] for _, value in law["points"])
