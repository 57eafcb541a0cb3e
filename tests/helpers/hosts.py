"""Machines for tests: two hosts made of namespaces, and processes of a launch that are found, watched and ended."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.launching import ROOT, command, environment

# For what hangs, not for what is slow.
LIMIT_S = 240
STATUSES = ("invalid", "oom", "diverged", "interrupted", "crashed")
NAMES, ADDRESSES, PORT = ("bench-a", "bench-b"), ("10.213.7.1", "10.213.7.2"), 29613


class Launched:
    """A launch in the background, by what it was started with; killed with all its processes at the latest on exit."""

    def __init__(self, words, folder, **changes):
        self.folder = Path(folder)
        self.output = self.folder.parent / f"{self.folder.name}-{time.monotonic_ns()}.txt"
        with self.output.open("w") as stream:
            self.process = subprocess.Popen(
                list(map(str, words)), cwd=ROOT, env={**environment(), **changes}, stdout=stream,
                stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in members(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    @property
    def text(self):
        return self.output.read_text(encoding="utf-8")

    def end(self):
        """Waits for the launcher and for every process of the run; returns the launcher's exit code."""
        code = self.process.wait(LIMIT_S)
        wait_until(lambda: not members(self.folder), "a process of the run lives on", self)
        return code


def local(folder, *arguments, config="ddp_cpu2", script=None, **changes):
    """A launch on this machine."""
    words = command(*arguments, "--out", folder, config=config, **({} if script is None else {"script": script}))
    return Launched(words, folder, **changes)


def members(folder):
    """Process id -> rank of a run's own processes, by its folder on their command line."""
    found = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                words = (place / "cmdline").read_bytes().split(b"\0")
                variables = dict(part.partition(b"=")[::2] for part in (place / "environ").read_bytes().split(b"\0"))
                if str(folder).encode() in words and b"RANK" in variables:
                    found[int(place.name)] = int(variables[b"RANK"])
    return found


def kill(folder, rank, number=signal.SIGKILL):
    """Sends a signal to one rank of a run."""
    for process, its_rank in members(folder).items():
        if its_rank == rank:
            os.kill(process, number)
            return
    raise AssertionError(f"no process of rank {rank} in {folder}")


def wait_until(true, otherwise, *launches):
    """Waits for a condition; fails with what the launches printed."""
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline, "\n".join([otherwise, *(item.text[-3000:] for item in launches)])
        time.sleep(0.1)


def wait_for_steps(folder, *launches, steps=2):
    """Waits until a run has logged some training steps."""

    def trained():
        log = folder / "train_log.jsonl"
        ended = [item for item in launches if item.process.poll() is not None]
        assert not ended, ended[0].text[-3000:]
        return log.exists() and len(log.read_text(encoding="utf-8").splitlines()) >= steps

    wait_until(trained, "the run never began to train", *launches)


def _ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


def make():
    """Two hosts with a wire between them. Skips where that is not permitted."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("the programs ip (iproute2) and unshare (util-linux) are not installed")
    remove()
    for name in NAMES:
        added = _ip("netns", "add", name)
        if added.returncode != 0:
            remove()
            pytest.skip(f"no network namespace can be made here: {added.stderr.strip()}")
    wired = _ip("link", "add", "bencha", "netns", NAMES[0], "type", "veth", "peer", "benchb", "netns", NAMES[1])
    if wired.returncode != 0:
        remove()
        pytest.skip(f"no wire can be laid between two namespaces here: {wired.stderr.strip()}")
    for name, address, wire in zip(NAMES, ADDRESSES, ("bencha", "benchb"), strict=True):
        for words in (
            ("addr", "add", f"{address}/24", "dev", wire),
            ("link", "set", wire, "up"),
            ("link", "set", "lo", "up"),
        ):
            done = _ip("-n", name, *words)
            assert done.returncode == 0, done.stderr


def remove():
    """Takes the hosts away; nothing is left where none were made."""
    for name in NAMES:
        _ip("netns", "del", name)


def unplug():
    """From here on no packet leaves the second host or reaches it, and nobody is told."""
    assert _ip("-n", NAMES[1], "link", "set", "benchb", "down").returncode == 0


def plug():
    """The wire as it was."""
    assert _ip("-n", NAMES[1], "link", "set", "benchb", "up").returncode == 0


def on_host(number, folder, *arguments):
    """One host's part of a launch over both: a process of its own name, network and process numbers."""
    words = command(*arguments, "--out", folder, config="ddp_cpu2")
    place = words.index("--config_file")
    spread = ["--num_machines", 2, "--machine_rank", number, "--num_processes", 2]
    spread += ["--main_process_ip", ADDRESSES[0], "--main_process_port", PORT]
    name = "ab"[number]
    shell = f'echo {name} > /proc/sys/kernel/hostname && exec "$@"'
    apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", shell, "sh"]
    inside = ["ip", "netns", "exec", NAMES[number], *apart, *words[:place], *spread, *words[place:]]
    return Launched(inside, folder, GLOO_SOCKET_IFNAME=("bencha", "benchb")[number])
