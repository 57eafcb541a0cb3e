"""records/throughput.py: phases that exclude one another, rates from totals, and peaks that belong to their phase."""

import math
import mmap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.records import clock as records_clock
from bench.records import throughput
from bench.records.clock import Clock, Peaks
from bench.records.throughput import Steps


class Hand:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now_s = 100.0

    def perf_counter(self):
        return self.now_s


@pytest.fixture
def hand(monkeypatch):
    moved = Hand()
    for module in (throughput, records_clock):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=moved.perf_counter))
    return moved


def micro_batch(lengths, labels=None):
    width = max(lengths)
    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    return {"attention_mask": mask, "labels": torch.tensor(labels or [0] * len(lengths))}


# ---------------------------------------------------------------- phases


def test_a_phase_within_another_is_not_counted_twice(hand):
    clock = Clock()
    hand.now_s += 1000  # before any phase: nobody's
    with clock.phase("train"):
        hand.now_s += 1
        with clock.phase("validate"):
            hand.now_s += 10
            with clock.phase("save"):
                hand.now_s += 100
            hand.now_s += 20
        hand.now_s += 2
        with clock.phase("validate"):
            hand.now_s += 40
        hand.now_s += 4
    hand.now_s += 1000
    with clock.phase("train"):
        hand.now_s += 8
    assert clock.seconds == {"train": 15.0, "validate": 70.0, "save": 100.0}
    assert clock.open == []


def test_a_phase_within_itself_counts_once(hand):
    clock = Clock()
    with clock.phase("load"):
        hand.now_s += 1
        with clock.phase("load"):
            hand.now_s += 2
    assert clock.seconds == {"load": 3.0}


def test_an_error_closes_its_phases(hand):
    clock = Clock()

    def fail():
        with clock.phase("train"), clock.phase("validate"):
            hand.now_s += 3
            assert clock.open == ["train", "validate"]
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 (the test's own)
        fail()
    assert clock.open == []
    assert clock.seconds == {"train": 0.0, "validate": 3.0}


def test_a_phase_is_divided_into_parts_that_were_measured_apart(hand):
    clock = Clock()
    with clock.phase("train"):
        hand.now_s += 10
    clock.divide("train", {"warm_up": 2.0, "train_steps": 7.5})
    assert clock.seconds == {"warm_up": 2.0, "train_steps": 7.5, "train_other": 0.5}


# ---------------------------------------------------------------- memory


def test_resident_memory_belongs_to_its_phase():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not reset the peak of resident memory")
    clock = Clock()
    with clock.phase("small"):
        pass
    with clock.phase("outer"):
        with clock.phase("large"):
            # Pages of its own: an allocator may keep what it is given back.
            with mmap.mmap(-1, 200 * 2**20) as held:
                for page in range(0, len(held), mmap.PAGESIZE):
                    held[page] = 1
        with clock.phase("after"):
            pass
    peaks = {name: peak.rss / 2**20 for name, peak in clock.peaks.items()}
    assert peaks["large"] > peaks["small"] + 190
    for name in ("outer", "after"):
        assert peaks[name] < peaks["large"] - 150


def test_peaks_of_a_phase_that_comes_again_are_the_larger_ones():
    peaks = Peaks(allocated=5, rss=3)
    peaks.merge(Peaks(allocated=2, reserved=7, rss=9))
    assert (peaks.allocated, peaks.reserved, peaks.device, peaks.rss) == (5, 7, None, 9)


def test_peaks_in_gib():
    assert Peaks(allocated=3 * 2**29, rss=2**30).gib() == {
        "allocated_gib": 1.5,
        "reserved_gib": None,
        "device_gib": None,
        "rss_gib": 1.0,
    }


def test_ranks_are_merged_by_the_largest():
    ranks = [
        {"train": {"allocated_gib": 1.0, "rss_gib": None}, "metrics": {"allocated_gib": None, "rss_gib": 0.5}},
        {"train": {"allocated_gib": 3.0, "rss_gib": None}},
        {"train": {"allocated_gib": None, "rss_gib": 2.0}},
    ]
    merged = throughput.merge_ranks(ranks)
    assert merged["train"]["allocated_gib"] == 3.0
    assert merged["train"]["rss_gib"] == 2.0
    assert merged["train"]["per_rank"] == [rank["train"] for rank in ranks]
    assert merged["metrics"] == {"allocated_gib": None, "rss_gib": 0.5, "per_rank": [ranks[0]["metrics"], {}, {}]}


def test_a_figure_that_nobody_knows_stays_unknown():
    merged = throughput.merge_ranks([{"train": {"device_gib": None}}, {"train": {"device_gib": None}}])
    assert merged["train"]["device_gib"] is None


# ---------------------------------------------------------------- steps


def test_counts_of_a_step():
    steps = Steps()
    steps.start()
    steps.add(micro_batch([3, 5], [0, -100]))
    steps.add(micro_batch([2, 2]))
    steps.stop()
    # Four texts; 2 x 5 and 2 x 2 positions, of which 8 and 4 are real; three labels to learn from.
    assert steps.totals() == [4, 14, 12, 3]


def test_counting_moves_nothing_between_host_and_device():
    """On a device without numbers: whoever reads one, or sends one there, fails."""
    steps = Steps()
    steps.start()
    for lengths in ([3, 5], [2, 2]):
        steps.add({name: value.to("meta") for name, value in micro_batch(lengths).items()})
    steps.stop()
    (counted,) = steps.counts
    assert (counted.examples, counted.processed) == (4, 14)
    assert counted.on_device.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        steps.totals()


def test_totals_are_those_of_all_micro_batches():
    generator, steps, expected = np.random.default_rng(1), Steps(), np.zeros((9, 4), dtype=int)
    for step in range(9):
        steps.start()
        for _ in range(3):
            batch = micro_batch(generator.integers(1, 9, 4).tolist(), generator.choice([-100, 0, 2], 4).tolist())
            steps.add(batch)
            mask, labels = batch["attention_mask"].tolist(), batch["labels"].tolist()
            real, items = sum(map(sum, mask)), sum(label != -100 for label in labels)
            expected[step] += [len(mask), len(mask) * len(mask[0]), real, items]
        steps.stop()
    assert steps.totals() == expected.sum(0).tolist()
    totals, seconds, warmup = steps.measured()
    assert (len(seconds), warmup) == (6, 3)
    assert totals == expected[3:].sum(0).tolist()


def test_every_label_of_several_is_an_item():
    steps = Steps()
    steps.start()
    steps.add(micro_batch([3, 1], [[0, 1, 1], [0, 0, 0]]))
    steps.stop()
    assert steps.totals() == [2, 6, 4, 6]


def test_a_step_lasts_from_its_start_to_its_stop(hand):
    steps = Steps()
    for seconds in (1.0, 2.5):
        steps.start()
        hand.now_s += seconds
        steps.add(micro_batch([1]))
        steps.stop()
        hand.now_s += 50  # a validation between steps
    assert steps.seconds == [1.0, 2.5]


def test_durations_wait_for_the_accelerators_last_step(monkeypatch):
    calls = []
    monkeypatch.setattr(throughput, "synchronize", lambda: calls.append("waited"))
    steps = Steps()
    steps.start()
    steps.add(micro_batch([1]))
    steps.stop()
    assert calls == []
    assert len(steps.seconds) == 1
    assert calls == ["waited"]


def test_an_accelerators_own_clock_tells_milliseconds():
    event = SimpleNamespace(elapsed_time=lambda end: 1500.0)
    assert throughput._between_s(event, None) == 1.5


@pytest.mark.parametrize(("number", "dropped"), [(0, 0), (1, 0), (6, 0), (7, 3), (20, 3)])
def test_warm_up_is_dropped_when_enough_is_left(number, dropped, hand):
    steps = Steps()
    for step in range(number):
        steps.start()
        hand.now_s += 10 if step < 3 else 1
        steps.add(micro_batch([step + 1]))
        steps.stop()
    totals, seconds, warmup = steps.measured()
    assert warmup == dropped
    assert len(seconds) == number - dropped
    assert totals == [number - dropped, *[sum(range(dropped + 1, number + 1))] * 2, number - dropped]
    assert steps.totals()[0] == number
    if dropped:
        assert set(seconds) == {1.0}


# ---------------------------------------------------------------- rates


def test_rates_are_totals_over_total_seconds():
    found = throughput.train_throughput([80, 4000, 3000, 80], [1.0, 1.0, 8.0], 3, step_flops=5e9, peak_flops=6e9)
    assert found == {
        "examples_per_s": 8.0,
        "real_tokens_per_s": 300.0,
        "processed_tokens_per_s": 400.0,
        "loss_tokens_per_s": 8.0,
        "padding_share": 0.25,
        "step_time_s": {"p10": 1.0, "p50": 1.0, "p90": pytest.approx(6.6)},
        "model_flops_per_s": 1.5e9,
        "mfu": 0.25,
        "warmup_steps": 3,
    }


def test_no_share_of_an_unknown_peak():
    found = throughput.train_throughput([1, 1, 1, 1], [2.0], 0, step_flops=4.0, peak_flops=None)
    assert found["model_flops_per_s"] == 2.0
    assert found["mfu"] is None
    found = throughput.train_throughput([1, 1, 1, 1], [2.0], 0, step_flops=None, peak_flops=9.0)
    assert found["model_flops_per_s"] is None
    assert found["mfu"] is None


def test_steps_of_before_an_interruption_count_without_their_own_warm_up(hand):
    def do(steps, lengths):
        for length in lengths:
            steps.start()
            hand.now_s += length
            steps.add(micro_batch([length]))
            steps.stop()
        return steps

    first = do(Steps(), [1, 2, 3, 4, 5, 6, 7]).until_now()
    both = do(Steps(earlier=first), [10, 20])
    assert both.totals() == [9, 58, 58, 9]
    totals, seconds, warmup = both.measured()
    assert (totals, seconds, warmup) == ([6, 52, 52, 6], [4.0, 5.0, 6.0, 7.0, 10.0, 20.0], 3)
    assert (both.until_now().warmup_s, both.seconds) == (6.0, [10.0, 20.0])


def test_no_rates_without_steps():
    assert throughput.train_throughput([0, 0, 0, 0], [], 0, 1.0, 1.0) == {}
    assert Steps().measured() == ([0, 0, 0, 0], [], 0)


def test_percentiles_are_numpys():
    generator = np.random.default_rng(0)
    for size in (1, 2, 3, 10, 101):
        values = generator.exponential(size=size).tolist()
        for share in (0, 10, 37.5, 50, 90, 99, 100):
            assert math.isclose(throughput.percentile(values, share), np.percentile(values, share), rel_tol=1e-12)


def test_what_a_phase_took_so_far_is_set_apart():
    clock = records_clock.Clock()
    with clock.phase("train"):
        with mmap.mmap(-1, 120 * 2**20) as large:  # given back for sure, as the allocator's memory need not be
            large.write(b"x" * len(large))
        clock.set_apart("train_setup")
        with clock.phase("validate"):
            pass
    assert set(clock.seconds) == {"train", "train_setup", "validate"}
    assert set(clock.peaks) == {"train", "train_setup", "validate"}
    assert clock.peaks["train_setup"].rss > clock.peaks["train"].rss + 60 * 2**20
