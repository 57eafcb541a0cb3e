"""Writes the files of a run into a folder, and nothing over what is there."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from bench import __version__
from bench.cloud import manifests, sky_task
from bench.cloud.job import WORK, CloudJob
from bench.cloud.manifests import SECRET, VARIABLE
from bench.errors import SetupError
from bench.runner import run_folder
from bench.utils import files, shipped

KUBERNETES, SKYPILOT, DATA_POD = "kubernetes.yaml", "skypilot.yaml", "data.yaml"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and nothing as an alias, which Kubernetes' own tools would write out."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return that nothing is written as an alias."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def write(job: CloudJob, folder: Path, said: list[str]) -> list[Path]:
    """Write what there is to write for a job; return the paths. said: lines of the plan, for the head of each file.

    Raises SetupError, before anything is written, where another file is in the place of one.
    """
    documents = manifests.filled(job, _templates(KUBERNETES))
    pod = manifests.data_pod(job, _templates(DATA_POD)[0])
    texts = {DATA_POD: _document(job, [documents[0], pod], []), KUBERNETES: _document(job, documents, said)}
    if job.accelerators or not job.resources.gpus:
        task = sky_task.filled(job, _templates(SKYPILOT)[0])
        texts[SKYPILOT] = _document(job, [task], said)
    refuse_others(folder, texts)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        files.write_text(folder / name, text)
    return [folder / name for name in texts]


def next_steps(job: CloudJob, paths: list[Path]) -> list[str]:
    """Return the commands that start the run by the files that were written."""
    by_name = {path.name: shlex.quote(str(path)) for path in paths}
    steps = ["Kubernetes, in the namespace of your choice:"]
    if job.is_shared:
        secret = f'kubectl create secret generic {SECRET} --from-literal={VARIABLE}="$(openssl rand -hex 32)"'
        steps.append(f"  {secret}   # once; the processes trust only what is signed with it")
    if job.request.image is None:
        steps.append(
            f"  docker build -f scripts/cloud/Dockerfile -t {job.image} .   # and push it; --image names yours"
        )
    pod = f"{job.name}-data"
    opened = f"  kubectl apply -f {by_name[DATA_POD]} && kubectl wait --for=condition=Ready --timeout=15m pod/{pod}"
    if job.carried.data is not None:
        copied = f"kubectl cp {shlex.quote(str(job.carried.data))} {pod}:{manifests.DATA}"
        steps += [opened, f"  {copied} && kubectl delete pod {pod}"]
    steps += [
        f"  kubectl apply -f {by_name[KUBERNETES]}   # its log: kubectl logs -f job/{job.name}",
        "and when the job is over, for its record:",
        opened,
        f"  kubectl cp {pod}:{WORK}/runs/{job.name} runs/{job.name} && kubectl delete pod {pod}",
    ]
    if SKYPILOT not in by_name:
        return [*steps, f"SkyPilot: it has no name for such a GPU ({job.request.gpu}); no {SKYPILOT} was written"]
    secret = f"--secret {VARIABLE}=$(openssl rand -hex 32) " if job.is_shared else ""
    command = f"sky jobs launch --env BUCKET=YOUR-BUCKET {secret}{by_name[SKYPILOT]}"
    return [*steps, "SkyPilot, with a bucket of yours (made where it is not there):", f"  {command}"]


def refuse_others(folder: Path, texts: dict[str, str]) -> None:
    """Raise SetupError where a file, or the folder, is something else than would be written."""
    run_folder.check_place(folder, "-o")
    if run_folder.is_ours(folder):
        raise SetupError(f"-o {folder}: a run's record is in it; give another folder")
    for name, text in texts.items():
        path = folder / name
        if not os.path.lexists(path):
            continue
        try:
            same = not path.is_symlink() and files.read_text(path) == text
        except (OSError, ValueError):
            same = False
        if not same:
            raise SetupError(
                f"{path} is there, and is something else (edited, or of another run); nothing was written: move it "
                "away, or give another -o"
            )


def _templates(name: str) -> list[dict[str, Any]]:
    text = files.read_text(shipped.folder("scripts") / "cloud" / name)
    return list(yaml.safe_load_all(text))


def _document(job: CloudJob, documents: Iterable[dict[str, Any]], said: list[str]) -> str:
    head = [f"# {job.name}, by finetune-bench cloud {__version__}; for the reasons see scripts/cloud"]
    head += [f"# {' '.join(line.split())}" for line in said]
    dumped = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return "\n".join(head) + "\n" + dumped
