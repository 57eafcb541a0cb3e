"""`try` plans for what the GPU here gives: its memory as the driver reports it, less what the driver keeps."""

import subprocess

import pytest

from bench.sweeps import try_study


@pytest.mark.parametrize(
    ("code", "printed", "size"),
    [
        (0, "24564, 481\n", "24083MiB"),  # an RTX 4090: 23.52 GiB
        (0, "15360, 455\n", "14905MiB"),
        # An old driver does not say what it keeps.
        (0, "16280, [N/A]\n", "16280MiB"),
        (0, "16280\n", "16280MiB"),
        (0, "[N/A], [N/A]\n", None),
        (0, "", None),
        (9, "24564, 481\n", None),
    ],
)
def test_what_the_driver_keeps_is_left_out(monkeypatch, code, printed, size):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, code, stdout=printed)

    monkeypatch.setattr(try_study.jobs, "visible_gpus", lambda: ["1"])
    monkeypatch.setattr(try_study.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(try_study.subprocess, "run", run)
    assert try_study._memory_here() == size
    assert asked[0][:3] == ["nvidia-smi", "--id=1", "--query-gpu=memory.total,memory.reserved"]
