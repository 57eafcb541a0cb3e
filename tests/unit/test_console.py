"""bench/console.py: plain lines into a file, a live display on a terminal, and nothing from ranks other than zero."""

import io
import logging
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


@pytest.mark.parametrize("name", ["bitsandbytes.backends.cpu.ops", "bitsandbytes.cextension"])
def test_advice_to_install_kernels_is_silent_before_the_library_is_imported(name, monkeypatch):
    """It is logged at the import, on processors whose kernels would come from the Hub; errors are still heard."""
    monkeypatch.setattr(logging.getLogger("bitsandbytes"), "level", logging.NOTSET)
    logging.getLogger(name).manager._clear_cache()
    console.quiet_kernel_advice()
    assert not logging.getLogger(name).isEnabledFor(logging.WARNING)
    assert logging.getLogger(name).isEnabledFor(logging.ERROR)
