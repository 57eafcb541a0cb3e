"""bench/console.py: plain lines into a file, a live display on a terminal, and nothing from ranks other than zero.

What is shown can't steer a terminal, and a console that goes away ends nothing.
"""

import contextlib
import errno
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import termios
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.table import Table

from bench import console
from tests.helpers.launching import ROOT


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


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_plain_lines_into_a_file(hand, capsys):
    with console.Phase("train", total=40) as phase:
        phase.advance(tokens=100)
        assert lines(capsys) == []  # too soon for a line
        hand.now_s += 20
        phase.advance(9, tokens=900)
        phase.logged(0.5, 10)
        assert lines(capsys) == ["train: step 10 of 40, 45 tokens/s, 1 min 7 s left"]
        hand.now_s += 5
        phase.advance(20)
        assert lines(capsys) == []
        hand.now_s += 15
        phase.advance(10)
    # Its end, once; the loss that was logged says of which step it is.
    assert lines(capsys) == ["train: step 40 of 40, loss 0.5000 at step 10, 22 tokens/s, after 40 s"]


def test_a_step_that_is_logged_is_shown_with_its_loss(hand, capsys):
    with console.Phase("train", total=40) as phase:
        hand.now_s += 15
        phase.advance(10, report=False)
        phase.logged(0.5, 10)
        assert lines(capsys) == ["train: step 10 of 40, loss 0.5000, 45 s left"]


def test_epochs_memory_and_what_comes_then_are_in_the_line(hand, capsys):
    course = console.Course(epochs=lambda step: step / 16, peak_gib=lambda: 3.25, rest=lambda: ("score", 75.0))
    with console.Phase("train", total=40, course=course) as phase:
        hand.now_s += 20
        phase.advance(20, tokens=500)
        assert lines(capsys) == [
            "train: epoch 1.25 of 2.5, step 20 of 40, 25 tokens/s, peak 3.2 GiB, 20 s left, "
            "then about 1 min 15 s to score"
        ]


def test_the_rate_is_of_the_work_alone_and_of_the_last_half_minute(hand):
    """A slow first step, a validation and a checkpoint thin nothing out; a machine that slows down is seen."""
    pace = console.Pace(hand.now_s)
    assert pace.tokens_per_s() is None
    hand.now_s += 10
    pace.add(1, 100, hand.now_s)
    assert pace.tokens_per_s() == 10  # the only one there is
    for _ in range(20):
        hand.now_s += 1
        pace.add(1, 100, hand.now_s)
        assert pace.tokens_per_s() == pytest.approx(100)
    hand.now_s += 500
    pace.pause(500, recurs=True)
    assert pace.tokens_per_s() == pytest.approx(100)
    hand.now_s += 1
    pace.add(1, 100, hand.now_s)
    assert pace.tokens_per_s() == pytest.approx(100)
    for _ in range(31):
        hand.now_s += 1
        pace.add(1, 20, hand.now_s)
    assert pace.tokens_per_s() == pytest.approx(20)
    assert pace.tokens_per_s(overall=True) == pytest.approx((21 * 100 + 31 * 20) / 52)


def test_what_is_left_are_steps_and_pauses_that_come_again(hand):
    pace = console.Pace(hand.now_s)
    assert pace.left_s(10) is None
    for seconds in (9, 2, 2, 2):  # the first is slow
        hand.now_s += seconds
        pace.add(1, 10, hand.now_s)
    assert pace.left_s(10) == pytest.approx(20)
    assert pace.left_s(10, pauses=2) == pytest.approx(20)  # how long one takes is not known yet
    assert not pace.knows_pauses
    for seconds in (30, 50):
        hand.now_s += seconds
        pace.pause(seconds, recurs=True)
    hand.now_s += 7  # a checkpoint
    pace.pause(7, recurs=False)
    assert pace.knows_pauses
    assert pace.left_s(10, pauses=2) == pytest.approx(20 + 2 * 40)
    assert pace.left_s(10) == pytest.approx(20)
    assert pace.left_s(10, tokens=50) == pytest.approx(10)  # short texts come last


def test_validations_are_named_until_one_was_timed(hand, capsys):
    course = console.Course(pauses="validations", pauses_after=lambda step: 4 - step // 10, rest=lambda: ("score", 0.4))
    with console.Phase("train", total=40, course=course) as phase:
        hand.now_s += 11
        phase.advance(10)
        assert lines(capsys) == ["train: step 10 of 40, 33 s and 3 validations left"]
        with phase.paused(recurs=True):
            hand.now_s += 7
        hand.now_s += 11
        phase.advance(10)
        assert lines(capsys) == ["train: step 20 of 40, 36 s left"]  # 20 steps of 1.1 s, 2 validations of 7 s


def test_a_resumed_phase_counts_from_where_it_goes_on(hand, capsys):
    with console.Phase("train", total=100) as phase:
        phase.begin_at(60)
        hand.now_s += 12
        phase.advance(6, tokens=600)
        assert lines(capsys) == ["train: step 66 of 100, 50 tokens/s, 1 min 8 s left"]
        with phase.paused(recurs=True):
            hand.now_s += 88
        hand.now_s += 4
        phase.advance(4, tokens=400)
        # 4 steps since the first that was seen, in 4 s
        assert lines(capsys) == ["train: step 70 of 100, 100 tokens/s, 30 s left"]


def test_examples_are_counted_by_their_tokens(hand, capsys):
    batches, lengths = [[2, 0], [1]], [30, 10, 50]
    with console.Phase.of_examples("before test", batches, lengths, 1) as phase:
        hand.now_s += 16
        phase.advance(2, tokens=80)
        assert lines(capsys) == ["before test: 2 of 3 examples, 5 tokens/s, 2 s left"]
    other = console.Phase.of_examples("before test", batches, lengths, 4)
    other.advance(2, tokens=80)
    assert other.line().startswith("before test: 2 of 3 examples, the share of 1 of 4 processes, ")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (725, "12 min 5 s"), (3599.7, "1 h 0 min"),
        (12000, "3 h 20 min"), (47.9 * 3600, "47 h 54 min"), (52 * 3600, "2 d 4 h"),
    ],
)  # fmt: skip
def test_durations_in_words(seconds, words):
    assert console.duration(seconds) == words


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


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 100 columns."""
    seen = Terminal()
    monkeypatch.setattr(console, "out", Console(file=seen, force_terminal=True, highlight=False, width=100))
    return seen


def test_live_on_a_terminal(screen):
    with console.Phase("train", total=4) as phase:
        assert console._display.is_on
        phase.advance(4, tokens=8, report=False)
        phase.logged(0.25, 4)
    assert not console._display.is_on
    assert re.search(r"train: step 4 of 4, loss 0\.2500, [\d,]+ tokens/s, after 0 s\s*$", screen.getvalue())


def test_a_pseudo_terminal_shows_the_line_and_is_left_clean(monkeypatch):
    terminal, inside = pty.openpty()
    termios.tcsetwinsize(inside, (24, 90))
    with open(inside, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(console, "out", type(console.out)(file=stream, highlight=False, soft_wrap=True))
        assert console.is_live()
        with console.Phase("train", total=300, course=console.Course(epochs=lambda step: step / 100)) as phase:
            phase.advance(150, tokens=64)
            phase.logged(0.4321, 150)
            console._display._live.refresh()
            console.say("a line above it")
    pieces = []
    with contextlib.suppress(OSError):  # its end, once nobody writes to it
        while piece := os.read(terminal, 2**16):
            pieces.append(piece)
    os.close(terminal)
    shown = b"".join(pieces).decode()
    assert re.search(r"train ━{10,}─{10,} epoch 1\.50 of 3, step 150 of 300, 0 s left\r\n {6}loss 0\.4321, ", shown)
    assert "a line above it\r\n" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[2K")  # the lines are wiped, and the cursor is back
    assert re.search(r"train: epoch 1\.50 of 3, step 150 of 300, loss 0\.4321, [\d,]+ tokens/s, after 0 s\r\n$", shown)


def test_what_the_display_shows(hand, screen):
    course = console.Course(epochs=lambda step: step / 20)
    with console.Phase("train", total=40, course=course) as phase:
        hand.now_s += 10
        phase.advance(10, tokens=12000)
        phase.logged(0.5, 10)
        shown = phase.live_lines(100)
        assert shown == [
            f"train {'━' * 10}{'─' * 30} epoch 0.50 of 2, step 10 of 40, 30 s left",
            "      loss 0.5000, 1,200 tokens/s",
        ]
        assert phase.live_lines(50) == [  # no room for a bar
            "train epoch 0.50 of 2, step 10 of 40, 30 s left", "      loss 0.5000, 1,200 tokens/s",
        ]  # fmt: skip
        with (
            phase.paused(recurs=True),
            console.Phase("validate dev", total=8, course=console.Course(unit="examples")) as inner,
        ):
            inner.advance(2)
            console._display._live.refresh()
        console._display._live.refresh()
    # Both at once, whatever rich says of a display within another one; the outer one goes on.
    assert "2 of 8 examples" in screen.getvalue()
    assert screen.getvalue().count("epoch 0.50 of 2") >= 2


def test_colours_forced_into_a_log_do_not_make_it_live(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(console, "out", Console(file=io.StringIO(), soft_wrap=True))
    assert console.out.is_terminal
    with console.Phase("train", total=4):
        assert not console._display.is_on


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = Terminal()
    monkeypatch.setattr(console, "out", Console(file=screen, soft_wrap=True))
    with console.Phase("train", total=1) as phase:
        assert not console._display.is_on
        phase.advance()
    assert screen.getvalue() == "train: step 1 of 1, after 0 s\n"


# ---------------------------------------------------------------- what would steer a terminal

EVIL = {
    "escape": "\x1b[2J\x1b]0;title\x07\x1b[8mhidden",
    "C1": "\x9b2J\x9d0;title\x9c",
    "overwriting": "fine\rwrong\b\b\x7f",
    "turned": "\u202egpj.exe\u202c \u2066a\u2069 \u200f\u061c",
    "lines": "a\x0bb\x0cc\x85d\u2028e\u2029f",
    "halves": "\ud83d \udcff",
    "tags": "\U000e0041\U000e007f\ufff9",
    "nothing": "\x00",
    "markup": "\x1b[/nothing] [bold]",
}
PLAIN = (
    "tab\there, line\nthere, \u00e9 \u4e2d \u05d0 \u0939\u093f\u200d \U0001f468\u200d\U0001f469\u200d\U0001f467 "
    "[bold]x[/bold] C:\\u001b"
)


def is_safe(text):
    return not any(ord(letter) < 32 and letter not in "\n\t" for letter in text) and not set(text) & set(
        "".join(EVIL.values())
    ) & {letter for letter in "".join(EVIL.values()) if not letter.isprintable()}


@pytest.mark.parametrize("kind", EVIL)
def test_nothing_that_is_shown_steers_a_terminal(kind, capsys):
    evil = EVIL[kind]
    table = Table(title=evil)
    table.add_column(evil)
    table.add_row(evil)
    console.say(evil)
    console.complain(evil)
    console.complain_on_any_rank(evil)
    console.show(table)
    console.show(evil)
    console.write(evil)
    shown = capsys.readouterr()
    assert is_safe(shown.out)
    assert is_safe(shown.err)
    assert console.escaped(evil) in shown.out
    assert console.escaped(evil) in shown.err
    console.write_json({evil: [evil]})
    shown = capsys.readouterr().out
    assert is_safe(shown)
    assert json.loads(shown) == {evil: [evil]}


def test_plain_text_is_left_as_it_is():
    assert console.escaped(PLAIN) == PLAIN
    assert console.escaped(console.escaped(EVIL["escape"])) == console.escaped(EVIL["escape"])


def test_a_live_display_is_not_escaped_but_its_texts_are(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(console, "out", type(console.out)(file=screen, force_terminal=True, highlight=False))
    with console.Phase("tr\x1b[8main", total=4) as phase:
        phase.advance(4)
    assert "\x1b[8m" not in screen.getvalue()
    assert "\\u001b[8m" in screen.getvalue()
    assert "\x1b[" in screen.getvalue()  # it draws


# ---------------------------------------------------------------- a console that goes away


class Failing(io.StringIO):
    """A stream that can't be written any more, of a file of its own."""

    def __init__(self, number, error, when):
        super().__init__()
        self.number, self.error, self.when = number, error, when

    def fileno(self):
        return self.number

    def write(self, text):
        if self.when == "write":
            raise self.error
        return len(text)

    def flush(self):
        if self.when == "flush":
            raise self.error


@pytest.mark.parametrize("when", ["write", "flush"])
@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EBADF, errno.ESTALE])
def test_a_stream_that_is_lost_ends_nothing(number, when, monkeypatch, tmp_path):
    monkeypatch.setattr(console, "_losses", {})
    with (tmp_path / "file").open("w") as file:
        lost = console._EscapingStream(
            Failing(file.fileno(), OSError(number, os.strerror(number)), when), "stdout", str
        )
        for _ in range(2):
            assert lost.write("x\n") == 2
            lost.flush()
        lost.writelines(["a", "b"])
        assert os.readlink(f"/proc/self/fd/{file.fileno()}") == os.devnull  # for libraries and child processes too
    assert console.losses() == [
        f"standard output could not be written ({os.strerror(number)}): what was said there is lost, and the work went "
        "on"
    ]
    assert (console.is_full() is None) == (number == errno.EPIPE)


def test_a_stream_that_only_makes_wait_is_waited_for(monkeypatch):
    monkeypatch.setattr(console, "_losses", {})
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    console._LastingStream(Failing(writer, BlockingIOError(errno.EAGAIN, "wait"), "write"), "stdout").write("x")
    assert os.get_blocking(writer)
    assert console.losses() == []
    os.close(reader)
    os.close(writer)


# In one process: what libraries, argparse, a traceback, a logger, a warning and a progress bar print.
LIBRARIES = r"""
import argparse, logging, sys, warnings
from bench import console
from bench.utils import secret_formats
console.guard_streams(secret_formats.remove)
console.guard_streams(secret_formats.remove)
print("out \x1b[2J \u202e")
sys.stdout.write("raw \x9b\n")
sys.stdout.writelines(["lines \x07\n"])
logging.getLogger("x").error("log \x1b[2J glpat-%s", "a" * 20)
warnings.warn("warning \x1b[2J")
sys.stderr.write("\r 50%\x1b[2J")
sys.stderr.write("\n")
console.say("say \x1b[2J é \udcff")
console.show("show \x1b[2J")
console.write_json({"json": "\x9b"})
try:
    argparse.ArgumentParser(prog="p").parse_args(["--\x1b[2Jx"])
except SystemExit:
    pass
raise ValueError("error \x1b[2J https://me:hunter22@example.org/x")
"""


def test_whatever_prints_is_escaped_and_without_secrets_on_standard_error(tmp_path):
    (tmp_path / "program.py").write_text(LIBRARIES, encoding="utf-8")
    environment = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "program.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120, check=False)
    shown = done.stdout + done.stderr.replace(b"\r 50%", b"")
    assert not set(shown) & {27, 13, 7, 0x9B}, shown
    for word in (b"out ", b"raw ", b"lines ", b"say ", b"show ", b'{"json": "\\u009b"}'):
        assert word in done.stdout
    for word in (b"log ", b"warning ", b" 50%", b"unrecognized arguments", b"ValueError: error"):
        assert word in done.stderr
    assert b"glpat-" not in done.stderr
    assert b"hunter22" not in done.stderr


@pytest.mark.parametrize("closed", ["out", "err", "both", "all"])
def test_streams_that_were_closed_at_the_start_are_nobody_elses(closed, tmp_path):
    """The next file that is opened would get the number of a closed one, and all that is printed."""
    numbers = {"out": [1], "err": [2], "both": [1, 2], "all": [0, 1, 2]}[closed]
    code = (
        "import os, subprocess, sys\nfrom bench import console\nconsole.guard_streams()\n"
        f"file = open({str(tmp_path / 'own')!r}, 'w')\nassert file.fileno() > 2\n"
        "print('x'); print('x', file=sys.stderr); console.say('x'); console.complain('x')\n"
        "os.system('echo x; echo x >&2')\n"
        "file.write(str(len(console.losses()))); file.close()"
    )
    shut = " ".join(f"{number}>&-" if number else "<&-" for number in numbers)
    command = ["sh", "-c", f'exec "$0" "$@" {shut}', sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0
    assert (tmp_path / "own").read_text() == str(len(set(numbers) - {0}))


def test_a_command_whose_output_is_lost_says_so_and_a_reader_that_leaves_is_no_error(tmp_path):
    command = [sys.executable, "-m", "bench", "schema"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr == b"error: standard output could not be written: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["bitsandbytes.backends.cpu.ops", "bitsandbytes.cextension"])
def test_advice_to_install_kernels_is_silent_before_the_library_is_imported(name, monkeypatch):
    """It is logged at the import, on processors whose kernels would come from the Hub; errors are still heard."""
    monkeypatch.setattr(logging.getLogger("bitsandbytes"), "level", logging.NOTSET)
    logging.getLogger(name).manager._clear_cache()
    console.quiet_imports()
    assert not logging.getLogger(name).isEnabledFor(logging.WARNING)
    assert logging.getLogger(name).isEnabledFor(logging.ERROR)
