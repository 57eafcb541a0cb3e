"""A job of a sweep: one tiny run, on a CPU."""

from bench.sweeps import jobs, study
from tests.helpers.launching import ROOT

RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
CPU = jobs.Machine(config=jobs.CONFIGS / "cpu.yaml", on_cpu=True)
SMALL = ("training.steps=2", "limit={train: 24, test: 16}", "save=false")


def one_job(out, seed=13):
    """Return the job of that seed, in this folder."""
    request = study.SweepRequest(seeds=(seed,), sets=SMALL)
    (job,) = jobs.jobs_of([run for system in study.plan([RECIPE], request).systems for run in system.runs()], out)
    return job
