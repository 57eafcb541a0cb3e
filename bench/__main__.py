"""`python -m bench <command>`: everything but the runs themselves, which `accelerate launch bench/run.py` starts."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from bench import allocator, console, dropin, recipe, record, run_commands
from bench.errors import BenchError, RecipeError


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code. A problem is one sentence on standard error and code 2."""
    options = _parsed(arguments)
    try:
        return int(options.run(options))
    except BenchError as error:
        if options.traceback:
            raise
        console.complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        console.complain("interrupted")
        return 130
    except BrokenPipeError:
        # The reader, like `head`, had enough. Python would complain once more when it closes the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if options.traceback:
            raise
        console.complain(f"error: {error.filename or ''}: {error.strerror or error}".replace("error: :", "error:"))
        return 2


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Overrides may also stand behind an option, which argparse does not see in a command of its own."""
    options, rest = parser().parse_known_args(arguments)
    if not hasattr(options, "overrides") or any("=" not in item or item.startswith("-") for item in rest):
        return parser().parse_args(arguments)
    options.overrides += rest
    return options


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="command")
    check = _add(commands, "check", check_command, "validate recipes and cards without loading torch")
    check.add_argument(
        "recipes", nargs="*", type=Path, help="recipes, cards, or folders of them (default: all shipped)"
    )
    check.add_argument("--set", action="append", default=[], metavar="key=value", help="an override, as for a run")
    listing = _add(commands, "list", list_command, "show studies, models, datasets, methods, tasks and metrics")
    listing.add_argument("kind", nargs="?", choices=[*KINDS], help="only this kind")
    schema = _add(commands, "schema", schema_command, "print the JSON Schema of recipes or cards, for editors")
    schema.add_argument("kind", nargs="?", choices=["recipe", "dataset", "model"], default="recipe")
    predict = _add(commands, "predict", predict_command, "label new text with a run's saved model")
    predict.add_argument("run_folder", type=Path)
    predict.add_argument("--text", action="append", default=[], help="a text; may be given several times")
    predict.add_argument("--file", type=Path, help="texts, one a line, or JSON lines with `text`")
    predict.add_argument("--json", action="store_true", help="one JSON object a line, instead of a table")
    _add_plan(commands)
    run_commands.add(commands, _add)
    return parser


def _add_plan(commands: Any) -> None:
    plan = _add(commands, "plan", plan_command, "predict the memory that a training needs, before any download")
    plan.add_argument("recipe", nargs="?", type=Path)
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, as for a run")
    plan.add_argument("--gpu", metavar="SIZE|NAME", help="what it is to fit, as 12GiB or A10G")
    plan.add_argument("--world", type=int, default=1, metavar="N", help="how many GPUs")
    plan.add_argument("--zero", type=int, default=0, metavar="0-3", help="DeepSpeed's stage; FSDP2 is much like 3")
    plan.add_argument("--offload", default="none", metavar="none|cpu", help="what ZeRO lets wait in the host's memory")
    plan.add_argument("--precision", choices=["bf16", "fp16", "no"], help="mixed precision (default: the device's)")
    plan.add_argument("--per-device-batch", type=int, metavar="B", help="rows of a micro-batch")
    plan.add_argument("--length", type=int, metavar="L", help="tokens of a text")
    plan.add_argument("--table", action="store_true", help="predictions for shipped recipes, in Markdown")
    plan.add_argument("-o", "--output", type=Path, metavar="FILE.md", help="where the table goes")
    quote = "write the plan into the recipe's head comment (no recipe: into all shipped ones that have it)"
    plan.add_argument("--quote", action="store_true", help=quote)


def _add(commands: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=help_text)
    command.set_defaults(run=run)
    # After the command too; SUPPRESS keeps a flag that was given before it.
    command.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return command


def check_command(options: argparse.Namespace) -> int:
    """Validates recipes, cards and studies; prints each problem, and how many were looked at."""
    from bench import study

    kinds = {folder: kind for kind, folder in recipe.CARD_FOLDERS.items()}
    problems: list[str] = []
    num_cards = num_studies = 0
    paths = [path for given in options.recipes or [recipe.SHIPPED] for path in _expand(given)]
    for path in paths:
        kind = kinds.get(path.absolute().parent.name)
        is_study = kind is None and study.is_study(path)
        num_cards, num_studies = num_cards + (kind is not None), num_studies + is_study
        try:
            if kind is not None:
                recipe.load_card(kind, path)
            elif is_study:
                study.check(path, tuple(options.set))
            else:
                recipe.load(path, tuple(options.set))
        except RecipeError as error:
            problems.append(str(error))
    for problem in problems:
        console.complain(problem)
    studies = f", {num_studies} studies" if num_studies else ""
    num_recipes = len(paths) - num_cards - num_studies
    console.say(f"{num_recipes} recipes{studies} and {num_cards} cards checked, {len(problems)} problems")
    return 2 if problems else 0


def _expand(given: Path) -> list[Path]:
    found = sorted(given.rglob("*.yaml")) if given.is_dir() else [given]
    if not found:
        raise RecipeError(f"{given}: there are no recipes in this folder")
    return found


def _studies() -> list[tuple[str, str]]:
    found: dict[str, list[str]] = {}
    for path in recipe.find_recipes():
        found.setdefault(path.parent.name, []).append(path.stem)
    from bench import study

    known = [(f"studies/{path.parent.name}", _first_comment(path)) for path in study.find_studies()]
    return [(name, ", ".join(stems)) for name, stems in found.items()] + known


def _cards(kind: str) -> list[tuple[str, str]]:
    return [(path.stem, _first_comment(path)) for path in recipe.find_cards(kind)]


def _first_comment(path: Path) -> str:
    # A card that can't be read is listed too; `check` says what is wrong with it.
    first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _dropins(kind: str) -> list[tuple[str, str]]:
    return [(name, dropin.literals(kind, name)["doc"]) for name in dropin.names(kind)]


KINDS: dict[str, Any] = {
    "studies": _studies,
    "datasets": lambda: _cards("dataset"),
    "models": lambda: _cards("model"),
    "methods": lambda: _dropins("methods"),
    "tasks": lambda: _dropins("tasks"),
    "metrics": lambda: _dropins("metrics"),
}


def list_command(options: argparse.Namespace) -> int:
    """Shows what there is, from the folders themselves."""
    from rich.table import Table

    for kind in [options.kind] if options.kind else KINDS:
        table = Table(title=kind, title_justify="left", show_header=False, box=None, pad_edge=False)
        for name, description in KINDS[kind]():
            table.add_row(name, description)
        console.out.print(table)
        console.out.print()
    return 0


def schema_command(options: argparse.Namespace) -> int:
    """Prints a JSON Schema."""
    from bench import schema

    print(json.dumps(schema.of(options.kind), indent=1))
    return 0


def plan_command(options: argparse.Namespace) -> int:
    """Prints what a training is predicted to need, or the table of all that is shipped; or writes quotes of plans."""
    _import_for_plans()
    from bench import plan, plan_quotes, plan_report

    console.quiet_libraries()
    if options.quote:
        for path in plan_quotes.refresh(options.recipe, options.gpu):
            console.say(f"{plan_quotes.shown(path)}: quotes its plan anew")
        return 0
    if options.table:
        text = plan_report.report()
        if options.output is None:
            print(text, end="")
        else:
            record.write_text(options.output, text)
        return 0
    if options.output is not None:
        raise BenchError("-o is where the --table goes; the plan of one recipe is printed")
    if options.recipe is None:
        raise BenchError("name a recipe, or ask for the --table of those that are shipped")
    asked = plan_report.Asked(
        path=options.recipe,
        overrides=tuple(options.overrides),
        gpu=options.gpu,
        spread=plan.Spread(world=options.world, zero=options.zero, offload=options.offload),
        precision=options.precision,
        rows=options.per_device_batch,
        length=options.length,
    )
    for line in plan_report.lines(asked):
        console.say(line)
    return 0


def _import_for_plans() -> None:
    """Most of a plan's time is imports."""
    if "torch" in sys.modules:
        return
    # What is not on the card or in the cache is not fetched, nor asked for again and again without a network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with allocator.libraries_apart():
        import bench.plan_report  # noqa: F401


def predict_command(options: argparse.Namespace) -> int:
    """Prints a label and its probability for each text."""
    from bench import saved

    saved_folder = options.run_folder / "model"
    if not (saved_folder / saved.DESCRIPTION).is_file():
        raise BenchError(f"{saved_folder} holds no saved model; the recipe needs `save: true`")
    from bench.predict import predict, read_texts

    rows = [{"text": text, "text_pair": None} for text in options.text]
    rows += read_texts(options.file) if options.file else []
    if not rows:
        raise BenchError("give a text with --text, or a file with --file")
    for answer in predict(options.run_folder, rows):
        if options.json:
            print(json.dumps(answer, ensure_ascii=False))
        else:
            label = ", ".join(answer["label"]) or "(none)" if isinstance(answer["label"], list) else answer["label"]
            label = "(could not be read)" if label is None else label or "(no answer)"
            shown = repr(answer["written"]) if "written" in answer else f"{max(answer['scores'].values()):.3f}"
            cut = "  (text was cut)" if answer["cut"] else ""
            console.say(f"{label:<20} {shown}  {answer['text'][:80]}{cut}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
