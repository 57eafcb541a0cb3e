"""What the operating system and git tell, and what is left of it where they do not."""

import datetime
import resource
import subprocess
from pathlib import Path

import pytest

from bench.errors import SetupError
from bench.utils import git as git_module
from bench.utils import system
from bench.utils.git import git


def test_the_time_is_utc_to_the_second():
    now = datetime.datetime.fromisoformat(system.utc_now())
    assert now.utcoffset() == datetime.timedelta(0)
    assert now.microsecond == 0
    assert abs(datetime.datetime.now(datetime.UTC) - now) < datetime.timedelta(minutes=1)


def test_memory_is_in_bytes():
    held = bytearray(b"x") * (64 * 2**20)
    memory = system.process_memory()
    pages = [int(number) * resource.getpagesize() for number in Path("/proc/self/statm").read_text().split()]
    assert memory["VmRSS"] > len(held)
    assert memory["VmHWM"] >= memory["VmRSS"]
    assert memory["VmSize"] == pytest.approx(pages[0], rel=0.01)
    assert memory["VmData"] + memory["VmStk"] == pytest.approx(pages[5], rel=0.01)


def test_a_system_without_proc_tells_nothing(monkeypatch):
    def refuse(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert system.process_memory() == {}
    assert system.processor_name()


def test_git_prints_or_says_why_not(monkeypatch):
    assert git("--version").startswith("git version")
    with pytest.raises(SetupError, match=r"^git rev-parse --verify: "):
        git("rev-parse", "--verify", "no-such-branch")

    def hang(*arguments, **options):
        raise subprocess.TimeoutExpired("git", 1)

    monkeypatch.setattr(git_module.subprocess, "run", hang)
    with pytest.raises(SetupError, match=r"^git status: .*timed out"):
        git("status", timeout_s=1)
