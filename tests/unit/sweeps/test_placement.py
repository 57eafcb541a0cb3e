"""Placement: what fits starts, in a fixed order and tightly; what no node can hold is refused by name beforehand."""

import importlib.util
import itertools
import random
import sys

import pytest

from bench.errors import SetupError
from bench.sweeps.placement import Placement, Share, refusals
from bench.sweeps.resources import Node, Resources
from tests.helpers.launching import ROOT

GIB = 2**30
SCRIPT = ROOT / "scripts" / "benchmarks" / "placement.py"


def node(name, gpus=8, gib=80, host=512, cpus=64):
    return Node(name=name, gpus=gpus, gpu_bytes=None if gib is None else gib * GIB, host_bytes=host * GIB, cpus=cpus)


def need(gpus=1, gib=20, host=16, cpus=4, nodes=1, source=""):
    return Resources(gpus=gpus, gpu_bytes=gib * GIB, host_bytes=host * GIB, cpus=cpus, nodes=nodes, source=source)


def started(placement):
    return {place.run: place.shares for place in placement.start()}


def test_runs_go_where_they_fit_tightest_and_take_devices_of_their_own():
    placement = Placement([node("large"), node("small", 2, 24)], {"a": need(), "b": need(), "c": need()})
    assert started(placement) == {
        "a": (Share(node="small", gpus=(0,)),),
        "b": (Share(node="small", gpus=(1,)),),
        "c": (Share(node="large", gpus=(0,)),),
    }
    placement.end("a")
    assert placement.start() == []
    for run in "bc":
        placement.end(run)
    assert placement.is_done


def test_the_largest_come_first_and_equal_ones_in_their_order():
    runs = {"one": need(), "eight": need(8), "two": need(2), "other two": need(2), "again eight": need(8)}
    placement = Placement([node("n")], runs)
    order = list(started(placement))
    while not placement.is_done:
        placement.end(order[-1])
        order += started(placement)
        if len(order) == 5:
            break
    assert order[:2] == ["eight", "again eight"]
    assert order[2:] == ["two", "other two", "one"]
    # Sizes that are equal but for the cores are of one rank, in which the plan's order holds.
    mixed = {f"{number}": need(cpus=1 + number % 3) for number in range(8)}
    assert list(started(Placement([node("n")], mixed))) == list(mixed)


def test_smaller_runs_pass_one_that_does_not_fit_now():
    placement = Placement([node("n", 4)], {"four": need(4), "also four": need(4), "one": need()})
    assert list(started(placement)) == ["four"]
    placement.end("four")
    assert list(started(placement)) == ["also four"]
    placement.end("also four")
    assert list(started(placement)) == ["one"]
    placement = Placement([node("n", 4)], {"three": need(3), "also three": need(3), "one": need()})
    assert list(started(placement)) == ["three", "one"]


@pytest.mark.parametrize("kind", ["gpus", "host", "cpus"])
def test_each_kind_of_room_is_kept(kind):
    rooms = {"gpus": node("n", gpus=2), "host": node("n", host=32), "cpus": node("n", cpus=8)}
    placement = Placement([rooms[kind]], {str(number): need() for number in range(5)})
    assert len(started(placement)) == 2
    placement.end("0")
    assert list(started(placement)) == ["2"]


def test_a_run_without_gpus_takes_none_and_memory_of_unknown_gpus_is_not_checked():
    placement = Placement([node("n", 1, None)], {"cpu": need(0, gib=9999), "gpu": need(1, gib=9999)})
    assert started(placement) == {"gpu": (Share(node="n", gpus=(0,)),), "cpu": (Share(node="n", gpus=()),)}


def test_several_nodes_are_taken_together_or_not_at_all():
    nodes = [node(name, 2) for name in "abc"]
    placement = Placement(nodes, {"wide": need(2, nodes=2), "wider": need(2, nodes=3), "one": need(2)})
    assert {run: [share.node for share in shares] for run, shares in started(placement).items()} == {
        "wider": ["a", "b", "c"]
    }
    placement.end("wider")
    assert {run: [share.node for share in shares] for run, shares in started(placement).items()} == {
        "wide": ["a", "b"], "one": ["c"],
    }  # fmt: skip


def test_a_run_that_was_lost_is_placed_again_before_its_like():
    placement = Placement([node("n", 1)], {"a": need(), "b": need(source="another forecast")})
    assert list(started(placement)) == ["a"]
    placement.end("a", again=True)
    assert not placement.is_done
    assert list(started(placement)) == ["a"]
    placement.end("a")
    assert list(started(placement)) == ["b"]


def test_what_no_node_can_hold_is_refused_by_name():
    nodes = [node("a", 2, 24, 64), node("b", 4, 24, 64)]
    runs = {f"huge {number}": need(1, 40) for number in range(7)} | {"wide": need(4, nodes=2), "fits": need()}
    said = refusals(nodes, runs)
    assert len(said) == 2
    assert said[0].startswith("huge 0, huge 1, huge 2, huge 3, huge 4 and 2 more: it asks for 1 GPU with 40 GiB")
    assert "none of 2 nodes holds that" in said[0]
    assert said[1].startswith("wide: it asks for 4 GPUs")
    assert "1 of 2 nodes hold that" in said[1]
    with pytest.raises(SetupError, match="nothing was started") as caught:
        Placement(nodes, runs)
    assert str(caught.value).splitlines()[:2] == said
    assert "there are no nodes" in refusals([], {"run": need()})[0]
    with pytest.raises(SetupError, match="the same name"):
        Placement([node("a"), node("a")], {})
    assert Placement([], {}).is_done


def test_the_same_input_gives_the_same_places():
    def all_places(seed):
        draw = random.Random(seed)
        nodes = [node(f"n{number}", draw.choice((1, 4, 8)), draw.choice((24, 80))) for number in range(6)]
        runs = {f"r{number}": need(draw.choice((0, 1, 1)), draw.randint(1, 24)) for number in range(60)}
        placement, places, ended = Placement(nodes, runs), [], 0
        while not placement.is_done:
            places += placement.start()
            placement.end(places[ended].run)
            ended += 1
        return places

    assert all_places(1) == all_places(1)
    assert all_places(1) != all_places(2)


@pytest.fixture(scope="module")
def script():
    """The simulation, as a module."""
    spec = importlib.util.spec_from_file_location("placement_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_nothing_idles_that_could_run(script):
    """Against the script's own check, over many small clusters; and that check finds what is wrong."""
    for seed in range(8):
        draw = random.Random(seed)
        runs = script.needs(120, 15 if seed % 2 else None, draw)
        done = script.simulate(script.machines(20), runs, draw)
        found = script.check(done, 1)
        assert (found.idle, found.twice, found.never) == (0, 0, 0)
        assert found.moments == len(done.log) >= 120
    # A run that starts a moment later than it could, and one that starts where another is.
    first = next(number for number, (_, _, places) in enumerate(done.log) if places)
    late = list(done.log)
    left, is_lost, places = late[first + 1]
    late[first] = (*done.log[first][:2], done.log[first][2][1:])
    late[first + 1] = (left, is_lost, [*places, done.log[first][2][0]])
    assert done.log[first][2][0].run != left
    assert script.check(script.Simulation(nodes=done.nodes, runs=done.runs, log=late), 1).idle > 0
    taken = list(itertools.chain.from_iterable(places for _, _, places in done.log))
    same = [(None, False, [taken[0], script.Place(run=taken[1].run, shares=taken[0].shares)])]
    assert script.check(script.Simulation(nodes=done.nodes, runs=done.runs, log=same), 1).twice == 1


def test_ten_thousand_runs_are_placed_on_two_hundred_nodes(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    assert script.main() == 0
    said = capsys.readouterr().out
    assert said.count("idle-while-fits violations = 0") == 2
    assert said.count("10000 runs on 200 nodes with") == 2
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--runs", "200", "--nodes", "20"])
    monkeypatch.setattr(script, "ALLOWED_S", 0.0)
    assert script.main() == 1


def test_what_is_more_than_64_bits_hold_is_refused_too():
    node = Node(name="a", gpus=1, gpu_bytes=None, host_bytes=2**40, cpus=4)
    asked = {
        "gpus": Resources(gpus=10**30),
        "host": Resources(host_bytes=10**30),
        "unknown": Resources(gpus=1, gpu_bytes=10**30),
    }
    said = refusals([node], asked)
    assert [line.partition(":")[0] for line in said] == ["gpus", "host"]
