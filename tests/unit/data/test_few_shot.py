"""Shots: balanced, the same for the same seed and example, whatever the order of rows; too many are refused."""

from collections import Counter

import pytest

from bench.data.prompts.few_shot import ShotSampler
from bench.errors import SetupError

LABELS = ("anger", "joy", "trust")
ROWS = [{"id": f"r{number:03d}", "label": number % 3, "text": f"text {number}"} for number in range(60)]


def ids(rows):
    return [row["id"] for row in rows]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 6, 7, 9])
def test_shots_are_balanced_to_within_one(number):
    counts = Counter(row["label"] for row in ShotSampler(ROWS, LABELS, number, seed=1).fixed())
    assert sum(counts.values()) == number
    assert max(counts.values()) - min(counts[label] for label in range(3)) <= 1


def test_the_same_draw_from_rows_in_any_order():
    for key in ("fixed", "of"):
        draws = [ShotSampler(rows, LABELS, 5, seed=3) for rows in (ROWS, ROWS[::-1])]
        found = [ids(draw.fixed() if key == "fixed" else draw.of("x1")) for draw in draws]
        assert found[0] == found[1]


def test_another_seed_or_example_draws_others():
    fixed = {tuple(ids(ShotSampler(ROWS, LABELS, 6, seed).fixed())) for seed in range(5)}
    assert len(fixed) == 5
    shots = ShotSampler(ROWS, LABELS, 6, seed=0)
    assert len({tuple(ids(shots.of(f"e{number}"))) for number in range(20)}) == 20
    assert ids(shots.of("e1")) == ids(ShotSampler(ROWS, LABELS, 6, seed=0).of("e1"))


def test_a_draw_does_not_depend_on_what_was_asked_before():
    fresh, used = ShotSampler(ROWS, LABELS, 4, seed=0), ShotSampler(ROWS, LABELS, 4, seed=0)
    used.fixed()
    for number in range(10):
        used.of(f"e{number}")
    assert ids(used.of("late")) == ids(fresh.of("late"))
    assert ids(used.fixed()) == ids(fresh.fixed())


def test_no_example_is_shown_twice():
    found = ids(ShotSampler(ROWS, LABELS, 60, seed=5).fixed())
    assert sorted(found) == sorted(ids(ROWS))


def test_the_odd_shot_goes_to_every_label_in_turn():
    """A single shot is not always of the first label."""
    shots = ShotSampler(ROWS, LABELS, 1, seed=0)
    assert {shots.of(f"e{number}")[0]["label"] for number in range(40)} == {0, 1, 2}


def test_more_shots_than_examples_of_a_label():
    rows = [*ROWS, {"id": "only", "label": 3, "text": "one"}]
    names = (*LABELS, "surprise")
    assert len(ShotSampler(rows, names, 4, seed=0).fixed()) == 4
    with pytest.raises(SetupError, match="8 asks for up to 2 training examples with the label 'surprise'; there are"):
        ShotSampler(rows, names, 8, seed=0)
    with pytest.raises(SetupError, match="with the label 'trust'; there are 0"):
        ShotSampler([row for row in ROWS if row["label"] < 2], LABELS, 3, seed=0)


def test_rows_with_several_labels_are_drawn_from_all():
    rows = [{"id": str(number), "label": [number % 2, 1], "text": ""} for number in range(10)]
    shots = ShotSampler(rows, LABELS, 4, seed=0, balanced=False)
    assert len(set(ids(shots.fixed()))) == 4
    with pytest.raises(SetupError, match="shots: 11 asks for up to 11 training examples in all; there are 10"):
        ShotSampler(rows, LABELS, 11, seed=0, balanced=False)
