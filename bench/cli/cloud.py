"""`bench cloud`: writes the files that run a recipe on Kubernetes or by SkyPilot, with resources from the forecast."""

import argparse
import contextlib
from pathlib import Path
from typing import Any

from bench import console
from bench.cli import plan
from bench.cli.options import add_command, at_least_one
from bench.config import recipe_names, resolve
from bench.errors import BenchError, SetupError
from bench.utils import arguments


def add(commands: Any) -> None:
    """Add the command and its options."""
    cloud = add_command(commands, "cloud", cloud_command, "write the files that run a recipe on Kubernetes or SkyPilot")
    cloud.add_argument("recipe", type=Path)
    cloud.add_argument("overrides", nargs="*", metavar="key=value", help="override keys of the recipe")
    cloud.add_argument("--gpu", metavar="SIZE|NAME", help="memory of one GPU, or its name: 24GiB, A10G")
    cloud.add_argument("--gpus-per-node", type=at_least_one, default=1, metavar="N", help="GPUs of a node (default: 1)")
    cloud.add_argument("--nodes", type=at_least_one, default=1, metavar="N", help="number of nodes (default: 1)")
    cloud.add_argument("--zero", type=int, default=0, metavar="0-3", help="DeepSpeed ZeRO stage (default: 0)")
    cloud.add_argument("--fsdp", action="store_true", help="FSDP2, in place of ZeRO")
    cloud.add_argument(
        "--offload", default="none", metavar="none|cpu", help="ZeRO offload to host memory (default: none)"
    )
    cloud.add_argument("--spot", action="store_true", help="machines that may be taken back: cheaper, and resumed")
    cloud.add_argument("--seed", type=int, help="instead of the recipe's")
    cloud.add_argument(
        "--image", metavar="IMAGE", help="container image with the project, see scripts/cloud/Dockerfile"
    )
    cloud.add_argument("--name", help="name of the run's objects (default: of recipe, seed and hash)")
    cloud.add_argument(
        "-o", "--output", type=arguments.path, required=True, metavar="FOLDER", help="folder of the files"
    )


def cloud_command(options: argparse.Namespace) -> int:
    """Write the files, where the run fits; returns the exit code, 3 where it does not, as `plan`."""
    _refuse_many(options.recipe)
    with contextlib.suppress(
        BenchError
    ):  # what is named on the Hub may be asked for; errors come again, in their place
        resolve.load(options.recipe, tuple(options.overrides))
    plan.import_for_plans()
    from bench.cloud import folder, job

    console.quiet_libraries()
    request = job.CloudRequest(
        path=recipe_names.find(options.recipe),
        overrides=tuple(options.overrides),
        gpu=options.gpu,
        gpus_per_node=options.gpus_per_node,
        nodes=options.nodes,
        zero=options.zero,
        fsdp=options.fsdp,
        offload=options.offload,
        spot=options.spot,
        seed=options.seed,
        name=options.name,
        image=options.image,
    )
    answer, made = job.planned(request)
    if made is None:
        for line in answer.lines:
            console.say(line)
        console.say("no file was written")
        return plan.DOES_NOT_FIT
    said = [answer.lines[0], f"resources: {made.resources.words()}", *made.said]
    paths = folder.write(made, options.output, said)
    for line in [*said, *(f"written: {path}" for path in paths), *folder.next_steps(made, paths)]:
        console.say(line)
    return 0


def _refuse_many(given: Path) -> None:
    """Raise SetupError for a study or a folder, which are many runs. A name that nothing has is left to its reader."""
    from bench.sweeps import study

    with contextlib.suppress(BenchError):
        given = recipe_names.find(given)
    if given.is_dir() or (given.is_file() and study.is_study(given)):
        what = "a study" if study.is_study(given) else "a folder"
        raise SetupError(
            f"{given} is {what}, and the files are for one run: name a recipe, or run all by `sweep --on ray`, or "
            "write the files of each recipe and --seed in turn (docs/cloud.md)"
        )
