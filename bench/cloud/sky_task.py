"""The SkyPilot task of a run: `scripts/cloud/skypilot.yaml`, filled in."""

import shlex
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
    for place, path in job.carried.files.items():
        task["file_mounts"][f"{carried.JOB}/{place}"] = str(path)
    if job.carried.data is not None:
        task["file_mounts"][DATA] = str(job.carried.data)
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
