"""`bench try`: one command from two names to a paired comparison: plans, runs what fits, compares."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import console
from bench.cli import compare
from bench.cli.options import add_command, add_seeds, at_least_one, chosen_seeds
from bench.errors import BenchError

if TYPE_CHECKING:  # each command imports what it needs
    from bench.analysis.spending import Asked


def add(commands: Any) -> None:
    """Add the command and its options."""
    command = add_command(commands, "try", try_command, "compare methods on a model and data of your own, by name")
    command.add_argument("model", metavar="MODEL", help="a card, a folder, or a name on the Hub: owner/name[@revision]")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="override keys of every run")
    command.add_argument(
        "--on", required=True, metavar="DATA", help="a card, a file or folder, a name on the Hub, or {path: ..., ...}"
    )
    command.add_argument(
        "--methods",
        default=None,
        metavar="A,B,...",
        help="methods to compare (default: full,lora,qlora,zero_shot,tfidf)",
    )
    command.add_argument("--limit", type=at_least_one, metavar="N", help="at most so many rows of each split")
    command.add_argument("--gpu", metavar="SIZE|NAME", help="plan for this memory (default: that of the GPU here)")
    add_seeds(command)
    command.add_argument("--out", type=Path, help="folder of runs and comparison (default: runs/try-MODEL-DATA)")
    command.add_argument("--config", help="accelerate config, by name or path (default: gpu1; cpu without a GPU)")
    command.add_argument("--dry-run", action="store_true", help="write the recipes, print the commands, run nothing")


def try_command(options: argparse.Namespace) -> int:
    """Try the methods, print and write their comparison; returns 1 where a run failed."""
    from bench.analysis.spending import Asked
    from bench.config import named_cards, prices
    from bench.sweeps import jobs, scheduler, study, try_study

    asked = Asked(prices=prices.load())  # read now: a damaged file is told before any run
    parts = [named_cards.safe_name(text.rstrip("/").rpartition("/")[2]) for text in (options.model, options.on)]
    request = try_study.TryRequest(
        model=options.model,
        data=options.on,
        out=options.out or Path("runs") / "-".join(["try", *parts]),
        methods=_methods(options.methods) or try_study.METHODS,
        limit=options.limit,
        gpu=options.gpu,
        sets=tuple(options.overrides),
    )
    tried = try_study.write_recipes(request)
    try:
        try_study.fit(tried, request)
    finally:
        for sentence in tried.sentences:
            console.say(sentence)
    plan = study.plan(tried.recipes, study.SweepRequest(seeds=chosen_seeds(options) or 1, sets=request.sets))
    for sentence in plan.left_out:
        console.say(sentence)
    machine = jobs.Machine.from_config(options.config, None, None, dry=options.dry_run)
    order = scheduler.SweepOptions(out=request.out, machine=machine, dry_run=options.dry_run, says_next=False)
    code = scheduler.run_sweep([plan], order)
    return code if options.dry_run else max(code, _compare(request.out, plan, asked))


def _methods(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def _compare(out: Path, plan: Any, asked: "Asked") -> int:
    """Print and write the comparison of the plan's runs: before and after training, and paired tests."""
    from bench.analysis import compare as analysis_compare
    from bench.analysis import predictions
    from bench.reporting import comparison_page, study_page
    from bench.sweeps import jobs, try_study
    from bench.utils import files

    folders = [out / run.folder_name for system in plan.systems for run in system.runs()]
    done = [folder for folder in folders if try_study.is_ok(folder)]
    if not done:
        raise BenchError(f"no run ended well, so that nothing is compared; {out / jobs.LOGS} holds what they printed")
    console.show(try_study.before_and_after(done))
    for path in study_page.write(done, out / "report", None, asked=asked):
        console.say(f"report: {path}")
    if len(plan.systems) < 2 or len(done) < 2:
        console.say("one method alone is compared with nothing")
        return 0
    found = analysis_compare.compare(done, predictions.CompareRequest(), None)
    files.write_text(out / "comparison.md", comparison_page.as_markdown(found))
    compare.show(found)
    console.say(f"comparison: {out / 'comparison.md'}")
    return 0
