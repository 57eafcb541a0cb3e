"""bench/console.py: plain lines into a file, a live display on a terminal, and nothing from ranks other than zero."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench import console


class Terminal(io.StringIO):
    """What rich takes for a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def hand(monkeypatch):
    """Moves the console's clock by hand."""
    moved = SimpleNamespace(now_s=50.0)
    monkeypatch.setattr(console, "time", SimpleNamespace(perf_counter=lambda: moved.now_s))
    return moved


@pytest.fixture(autouse=True)
def rank_zero(monkeypatch):
    for name in ("RANK", "FORCE_COLOR", "TTY_COMPATIBLE", "TERM"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("rank", "speaks"), [(None, True), ("0", True), ("", True), ("1", False), ("13", False)])
def test_only_rank_zero_speaks(rank, speaks, monkeypatch, capsys):
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    console.say("out")
    console.complain("err")
    with console.Phase("train", total=2) as phase:
        phase.advance(2)
    captured = capsys.readouterr()
    assert console.is_main_process() == speaks
    assert bool(captured.out) == speaks
    assert bool(captured.err) == speaks


def test_lines_are_printed_as_they_are(capsys):
    long = "[bold]not markup[/bold] :smile: " + "word " * 60
    console.say(long)
    console.complain(long)
    assert capsys.readouterr() == (long + "\n", long + "\n")


def test_plain_lines_into_a_file(hand, capsys):
    with console.Phase("train", total=40) as phase:
        phase.advance(loss=0.75, tokens=100)
        assert capsys.readouterr().out == ""  # too soon for a line
        hand.now_s += 20
        phase.advance(9, loss=0.5, tokens=900)
        assert capsys.readouterr().out == "train 10/40 loss 0.5000 50 tokens/s after 20 s, 60 s left\n"
        hand.now_s += 5
        phase.advance(20)
        assert capsys.readouterr().out == ""
        hand.now_s += 15
        phase.advance(10)
    assert capsys.readouterr().out == (
        "train 40/40 loss 0.5000 25 tokens/s after 40 s\n" * 2  # its last step, and its end
    )


def test_the_rate_is_that_of_the_tokens_counted_last_and_the_loss_the_newest(hand, capsys):
    losses = iter([0.9, 0.8, 0.7])
    with console.Phase("train", total=40) as phase:
        hand.now_s += 10
        phase.tokens = 1000  # a slow start: 100 tokens/s
        hand.now_s += 2
        phase.tokens = 2000
        phase.advance(10, loss=lambda: next(losses))
        assert capsys.readouterr().out == "train 10/40 loss 0.9000 500 tokens/s after 12 s, 36 s left\n"
        hand.now_s += 18  # nothing was counted since: the rate is still that of the last count
        phase.advance(10, loss=lambda: next(losses))
        assert capsys.readouterr().out == "train 20/40 loss 0.8000 500 tokens/s after 30 s, 30 s left\n"
        hand.now_s += 1
        phase.advance(20, loss=lambda: None)
    assert capsys.readouterr().out == "train 40/40 500 tokens/s after 31 s\n"


def test_a_phase_that_fails_or_does_nothing_ends_without_a_line(capsys):
    def fail():
        with console.Phase("train", total=3) as phase:
            phase.advance()
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 (the test's own)
        fail()
    with console.Phase("train", total=3):
        pass
    assert capsys.readouterr().out == ""


def test_live_on_a_terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(console, "out", Console(file=screen, force_terminal=True, highlight=False))
    with console.Phase("train", total=4) as phase:
        assert phase._live is not None
        phase.advance(4, loss=0.25)
    assert screen.getvalue().rstrip().endswith("train 4/4 loss 0.2500 after 0 s")


def test_colours_forced_into_a_log_do_not_make_it_live(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(console, "out", Console(file=io.StringIO(), soft_wrap=True))
    assert console.out.is_terminal
    with console.Phase("train", total=4) as phase:
        assert phase._live is None


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = Terminal()
    monkeypatch.setattr(console, "out", Console(file=screen, soft_wrap=True))
    with console.Phase("train", total=1) as phase:
        assert phase._live is None
        phase.advance()
    assert screen.getvalue() == "train 1/1 after 0 s\n"
