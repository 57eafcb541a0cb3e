"""The Slurm scripts, with stand-ins for Slurm's own programs that start everything for real on this machine."""

import os
import signal
import subprocess

import pytest

from bench.records import store
from tests.helpers import hosts
from tests.helpers.launching import ROOT

SCRIPTS = ROOT / "scripts" / "slurm"
RECIPE = "recipes/tiny/bert-full.yaml"
ARGUMENTS = ["training.epochs=null", "training.log_every=1", "limit={train: 24, test: 16}"]

# One task a node, each with its number; a signal is handed on to all, and the highest exit code is the step's.
SRUN = r"""#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
for ((node = 0; node < SLURM_NNODES; node++)); do SLURM_NODEID=$node "$@" & tasks+=($!); done
trap 'kill -TERM "${tasks[@]}" 2>/dev/null' TERM
highest=0
for task in "${tasks[@]}"; do
    while :; do
        code=0; wait "$task" || code=$?
        kill -0 "$task" 2>/dev/null || break
    done
    if ((code > highest)); then highest=$code; fi
done
exit "$highest"
"""
SCONTROL = r"""#!/usr/bin/env bash
if [ "$1 $2" = "show hostnames" ]; then printf '127.0.0.1\n127.0.0.2\n'; else echo "$@" >>"$REQUEUED"; fi
"""


@pytest.fixture
def slurm(tmp_path):
    """Variables of a job, with the stand-ins first on the path."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "stand-in[0-1]",
        "SLURM_NNODES": "1",
    }


@pytest.mark.parametrize("name", ["run.sbatch", "study.sbatch", "on_node"])
def test_the_scripts_can_be_read_by_a_shell(name):
    done = subprocess.run(["bash", "-n", str(SCRIPTS / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(SCRIPTS / name, os.X_OK)


def test_a_job_without_a_recipe_is_refused(slurm):
    words, variables = ["bash", str(SCRIPTS / "run.sbatch")], {**os.environ, **slurm}
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no recipe given" in done.stderr


def test_a_job_over_two_nodes_that_is_stopped_is_queued_again(slurm, tmp_path):
    out = tmp_path / "out"
    words = ["bash", SCRIPTS / "run.sbatch", RECIPE, *ARGUMENTS, "training.steps=100000", "--out", out]
    with hosts.Launched(words, out, **slurm | {"SLURM_NNODES": "2", "CONFIG": "ddp_cpu2"}) as job:
        hosts.wait_for_steps(out, job)
        assert store.read(out).launch.num_machines == 2
        os.kill(job.process.pid, signal.SIGTERM)  # as --signal=B: does it: to the script alone
        assert job.end() != 0
    left = store.read(out)
    assert left.status == "interrupted", job.text[-3000:]
    assert "SIGTERM" in left.reason
    assert (tmp_path / "requeued").read_text(encoding="utf-8") == f"requeue {os.getpid()}\n"


def test_a_task_of_a_study_runs_its_line(slurm, tmp_path):
    out, study = tmp_path / "out", tmp_path / "study.txt"
    settings = "training.epochs=null training.steps=2 limit.train=24 limit.test=16"
    study.write_text(f"nothing.yaml\n{RECIPE} --seed 5 {settings} --out {out}\n", encoding="utf-8")
    words = ["bash", SCRIPTS / "study.sbatch", study]
    slurm |= {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_JOB_ID": "7"}
    with hosts.Launched(words, out, **slurm, CONFIG="cpu") as job:
        assert job.end() == 0, job.text[-3000:]
    assert (store.read(out).status, store.read(out).seed) == ("ok", 5)
    assert not (tmp_path / "requeued").exists()
