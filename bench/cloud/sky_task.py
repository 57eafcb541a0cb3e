"""The SkyPilot task of a run: `scripts/cloud/skypilot.yaml`, filled in."""

import re
import shlex
from collections.abc import Iterable
from typing import Any

from bench.cloud import carried
from bench.cloud.job import CloudJob
from bench.cloud.manifests import VARIABLE
from bench.errors import SetupError
from bench.utils import shipped
from bench.utils.files import ROOT
from bench.utils.hardware import GIB

DATA = "/data"
# Where an image has the project.
IN_IMAGE = "/opt/finetune-bench"


def filled(job: CloudJob, template: dict[str, Any]) -> dict[str, Any]:
    """Return the task of a run. Raises SetupError where there is neither an image nor a checkout to send."""
    task, needs = template, job.resources
    task["name"], task["num_nodes"] = job.name, needs.nodes
    resources = task["resources"]
    resources["accelerators"] = dict.fromkeys(job.accelerators, needs.gpus)
    if not needs.gpus:
        del resources["accelerators"]
    resources["cpus"], resources["memory"] = f"{needs.cpus}+", f"{needs.host_bytes // GIB}+"
    # The image, the packages and the cache of the bucket lie there too.
    resources["disk_size"] = max(100, job.disk_bytes // GIB + 60)
    resources["use_spot"] = job.request.spot
    task["envs"] |= {"CONFIG": job.config, "PROCESSES_PER_NODE": str(job.processes)}
    if job.is_shared:
        task["secrets"] = {VARIABLE: None}
    mounts = {f"{carried.JOB}/{place}": str(path) for place, path in job.carried.files.items()}
    if job.carried.data is not None:
        mounts[DATA] = str(job.carried.data)
    _refuse_variables(mounts, task["envs"])
    task["file_mounts"] |= mounts
    data = None if job.carried.data is None else DATA
    start = f"exec scripts/cloud/on_node {shlex.join(job.arguments(data))}\n"
    if job.request.image is not None:
        resources["image_id"] = f"docker:{job.request.image}"
        del task["workdir"], task["setup"]
        start = f"cd {IN_IMAGE}\n{start}"
    elif shipped.is_checkout():
        task["workdir"] = str(ROOT)
    else:
        raise SetupError("--image is not given, and this is no checkout that could be sent along instead")
    task["run"] = start
    return task


def _refuse_variables(mounts: dict[str, str], variables: Iterable[str]) -> None:
    """Raise SetupError for a path in which SkyPilot would put the value of one of the task's variables."""
    named = re.compile("|".join(rf"\$\{{{name}\b|\${name}\b" for name in variables))
    for path in (path for mount in mounts.items() for path in mount):
        if found := named.search(path):
            raise SetupError(f"{path}: SkyPilot puts a variable in the place of {found[0].lstrip('${')}; rename it")
