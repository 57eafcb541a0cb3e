"""Two hosts, made of namespaces on one machine: one recipe runs over both, and none waits for one that is gone."""

import pytest

from bench.records import store
from tests.helpers import hosts
from tests.helpers.launching import ROOT, launch, losses, read_lines

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
COMMON = ["training.epochs=null", "training.log_every=1", "limit={train: 24, test: 16}"]
# Each process draws its own dropout, so without it alone can the losses be the same.
DROPOUT = [f"model.architecture.{name}=0.0" for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")]
SHORT = [*COMMON, *DROPOUT, "training.steps=4"]
LONG = [*COMMON, "training.steps=100000"]


@pytest.fixture(scope="module")
def two_hosts():
    hosts.make()
    yield
    hosts.remove()


def test_two_hosts_give_what_one_process_gives(two_hosts, tmp_path):
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    done = launch(RECIPE, *SHORT, "--out", alone)
    assert done.returncode == 0, done.stderr[-2000:]
    with hosts.on_host(0, spread, RECIPE, *SHORT) as first, hosts.on_host(1, spread, RECIPE, *SHORT) as second:
        assert first.end() == 0, first.text[-3000:]
        assert second.end() == 0, second.text[-3000:]
    left = store.read(spread)
    assert (left.status, left.launch.num_machines, left.launch.world_size) == ("ok", 2, 2)
    assert losses(spread) == pytest.approx(losses(alone), abs=1e-5)
    for name in ("before-test", "after-test"):
        ours, theirs = (read_lines(folder / "predictions" / f"{name}.jsonl") for folder in (spread, alone))
        assert [row["id"] for row in ours] == [row["id"] for row in theirs]
        assert [row["prediction"] for row in ours] == [row["prediction"] for row in theirs]


def test_a_process_killed_on_the_other_host(two_hosts, tmp_path):
    out = tmp_path / "out"
    with hosts.on_host(0, out, RECIPE, *LONG) as first, hosts.on_host(1, out, RECIPE, *LONG) as second:
        hosts.wait_for_steps(out, first, second)
        hosts.kill(out, 1)
        codes = first.end(), second.end()
    assert 0 not in codes
    left = store.read(out)
    assert (left.status, left.failed_in) == ("crashed", "train")
    assert left.reason.startswith("rank 1 (host b) was lost during train: ")
    assert f"crashed: {left.reason}" in first.text.splitlines()
    assert left.scores["before"]["test"]["accuracy"].value is not None


def test_a_host_that_falls_silent(two_hosts, tmp_path):
    """Nobody gets an error: no packet says that the other one is gone."""
    out, arguments = tmp_path / "out", [*LONG, "--timeout-s", 15]
    with hosts.on_host(0, out, RECIPE, *arguments) as first, hosts.on_host(1, out, RECIPE, *arguments) as second:
        hosts.wait_for_steps(out, first, second)
        hosts.unplug()
        codes = first.end(), second.end()
        hosts.plug()
    assert 0 not in codes
    left = store.read(out)
    assert left.status == "crashed"
    assert left.reason.startswith("rank 1 (host b) was lost during train: no sign of life for ")
    assert left.failed_in == "train"


def test_what_only_one_host_lacks_is_in_the_record(two_hosts, tmp_path):
    """The recipe is not on the second host; rank zero would wait for it."""
    out, missing = tmp_path / "out", tmp_path / "not-there.yaml"
    with hosts.on_host(0, out, RECIPE, *SHORT) as first, hosts.on_host(1, out, missing, *SHORT) as second:
        codes = first.end(), second.end()
    assert 0 not in codes
    left = store.read(out)
    assert left.status == "invalid"
    assert left.reason.startswith("on rank 1 (host b): ")
    assert "not-there.yaml" in left.reason
