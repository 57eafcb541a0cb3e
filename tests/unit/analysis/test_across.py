"""analysis/across.py: mean ranks over data sets, with intervals, wins, ties and losses."""

import numpy as np
import pytest

from bench.analysis import accessors, across, leaderboard
from bench.records import store
from bench.reporting import study_page
from tests.helpers import studies

EXAMPLES = 200


def answers(share, seed):
    return [bool(hit) for hit in np.random.default_rng(seed).random(EXAMPLES) < share]


def written(folder, data_set, method, seed, right):
    run = studies.write_run(folder / f"{data_set}-{method}-{seed}", f"{data_set}--small--{method}", seed, right)
    record = store.read(run)
    record.data.id, record.comparability.key = data_set, data_set[:4] * 3
    store.write(record, run)


def results(folder):
    records, unreadable = accessors.read_all([folder])
    assert not unreadable
    return [across.result_of(group) for group in leaderboard.groups(records)]


@pytest.fixture
def runs(tmp_path):
    """Full is better than head on both data sets; lora is as good as full, with other examples wrong."""
    shares = {"full": 0.9, "lora": 0.9, "head": 0.5}
    for number, data_set in enumerate(("films", "hotels")):
        for place, (method, share) in enumerate(shares.items()):
            for seed in (13, 14, 15):
                written(tmp_path, data_set, method, seed, answers(share, 100 * number + 10 * place + seed))
    written(tmp_path, "hotels", "probe", 13, answers(0.7, 5))
    return tmp_path


def test_mean_ranks_wins_ties_and_losses(runs):
    found = across.across(results(runs))
    assert found.data_sets == {"films": "accuracy", "hotels": "accuracy"}
    assert found.left_out == ["small / probe: not scored on films"]
    by_name = {one.name: one for one in found.standings}
    head = by_name.pop("small / head")
    assert (head.mean_rank, head.low, head.high) == (3, 3, 3)
    assert (head.wins, head.ties, head.losses) == (0, 0, 4)
    for one in by_name.values():
        assert (one.wins, one.ties, one.losses) == (2, 2, 0)
        assert 1 <= one.low <= one.mean_rank <= one.high <= 2
        assert one.low < one.high  # which of both is better depends on the examples
        assert one.mean_rank == sum(one.ranks.values()) / 2
    assert [one.mean_rank for one in found.standings] == sorted(one.mean_rank for one in found.standings)


def test_the_bootstrap_is_the_plain_one(runs):
    """Ranks drawn again with a loop over examples and runs give the same interval, but for chance."""
    found = across.across(results(runs))
    generator, drawn = np.random.default_rng(7), []
    sets = [group.matched for group in leaderboard.groups(accessors.read_all([runs])[0])]
    tables = [
        {name.split("--")[2]: [run.scored.on(matched.ids).rows[:, 0] for run in each]
         for name, each in matched.systems.items()}
        for matched in sets
    ]  # fmt: skip
    names = ["full", "head", "lora"]
    for _ in range(400):
        ranks = []
        for table in tables:
            examples = generator.integers(EXAMPLES, size=EXAMPLES)
            means = []
            for name in names:
                chosen = generator.integers(3, size=3)
                means.append(-np.mean([table[name][run][examples].mean() for run in chosen]))
            ranks.append([sum(other < one for other in means) + (1 + means.count(one)) / 2 for one in means])
        drawn.append(np.mean(ranks, axis=0))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    for place, name in enumerate(names):
        (one,) = (one for one in found.standings if one.name == f"small / {name}")
        assert (one.low, one.high) == pytest.approx((low[place], high[place]), abs=0.26)


def test_nothing_is_ranked_without_two_data_sets_and_two_common_systems(tmp_path):
    written(tmp_path, "films", "full", 13, answers(0.9, 1))
    written(tmp_path, "films", "lora", 13, answers(0.8, 2))
    assert across.across(results(tmp_path)) is None
    written(tmp_path, "hotels", "full", 13, answers(0.9, 3))
    written(tmp_path, "hotels", "head", 13, answers(0.8, 4))
    assert across.across(results(tmp_path)) is None


def test_the_page_shows_them(runs, tmp_path):
    study_page.write([runs], tmp_path / "page")
    text = (tmp_path / "page" / "report.md").read_text(encoding="utf-8")
    section = text.partition("## Across data sets")[2].partition("## Data set")[0]
    # Of two data sets an interval over examples and seeds alone would have no width.
    assert "| small / head | 3.00 |" in section
    assert "On fewer than 5 data sets a mean rank has no interval" in section
    assert "also of systems without a significant difference" in section
    assert "rank on films (accuracy)" in section
    assert "small / probe: not scored on films" in section
