"""Do the recipes that are made for a GPU of 12 or 24 GiB fit it? Each runs for a few steps, held to that memory.

    scripts/gpu_fit [--case NAME ...] [--list] [--mini] [--out FOLDER] [--table]

On any CUDA device, offline: random weights in the recipe's own architecture, made-up texts that are longer than the
recipe reads, so that every text is of full length, and a tokenizer that is trained on them. BENCH_MEMORY_CAP holds a
run to its size, as on a GPU of that size; a device that is about as small does so itself. The comparisons with
published figures are micro-batches of 1 x 512 tokens. Records go to FOLDER (reports/gpu_fit), and the table that is
made of them alone to FOLDER.md; `--table` makes it anew.

`--mini` takes the same way on a CPU, with tiny architectures and no cap. The exit code is 1 where a run did not end
well, and 2 where none could be started.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Python put this file's folder first; what is run is the package of this checkout.
    sys.path[0] = str(ROOT)

from bench import console  # noqa: E402

if __name__ == "__main__":
    console.quiet_libraries()  # before they are imported, for some speak then
from bench.config import resolve  # noqa: E402
from bench.errors import BenchError, SetupError  # noqa: E402
from bench.memory import report  # noqa: E402
from bench.records import store  # noqa: E402
from bench.records.record import Record  # noqa: E402
from bench.reporting import markdown as md  # noqa: E402
from bench.utils import files, hardware  # noqa: E402

RUNS, REPORTS = Path("runs") / "gpu_fit", Path("reports") / "gpu_fit"
# The first three steps are not timed.
STEPS = 10
TEXTS = {"train": 64, "validation": 8, "test": 4}
# Words of a text for each token that a recipe reads: every word is at least one token.
WORDS_PER_TOKEN = 1.1
# Windows of a passage, so that next to none is its last one, which is shorter.
WINDOWS = 60
# A device that is sold as 12 GB has a little less.
ABOUT_AS_SMALL = 0.9
COMPARED = {"mistral_7b_v03-1x512": "imdb/mistral_7b_v03-text_qlora", "gemma_7b-1x512": "imdb/gemma_7b-text_qlora"}
HEAD_SIZE = "model.architecture.head_dim"
MINI: dict[str, Any] = {
    "model.dtype": "float32", "model.architecture.vocab_size": 2048, "model.architecture.hidden_size": 64,
    "model.architecture.intermediate_size": 128, "model.architecture.num_hidden_layers": 2,
    "model.architecture.num_attention_heads": 4, "model.architecture.num_key_value_heads": 2,
    HEAD_SIZE: 16, "training.optimizer": "adamw_torch_fused", "training.global_batch": 4,
    "training.per_device_batch": 2, "training.steps": 4, "max_length": 256,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe, and the size of GPU that it is to fit."""

    name: str
    path: Path
    gpu: str
    overrides: tuple[str, ...] = ()


def cases() -> list[Case]:
    """Return the recipes that are made for a size of GPU, and the comparisons with published figures."""
    found = [
        Case(name=name.replace("/", "-"), path=resolve.SHIPPED / f"{name}.yaml", gpu=gpu)
        for name, gpu in sorted(report.MADE_FOR.items())
    ]
    small = ("max_length=512", "training.per_device_batch=1")
    for name, stem in COMPARED.items():
        found.append(Case(name=name, path=resolve.SHIPPED / f"{stem}.yaml", gpu="12GiB", overrides=small))
    return found


def overrides(case: Case, data: Path, mini: bool) -> list[str]:
    """What replaces weights, tokenizer and data of a recipe by what is here."""
    given = resolve.load(case.path, case.overrides)
    found: dict[str, Any] = dict(item.split("=", 1) for item in case.overrides)
    found |= {
        "dataset": f"{given.dataset_name}_local", "dataset.source.folder": data, "model.weights": "random",
        "model.tokenizer": "{train: bpe, vocab_size: 2048}", "training.epochs": "null", "training.steps": STEPS,
        "training.log_every": 1,
        "limit": f"{{train: {TEXTS['train']}, test: {TEXTS['test']}}}", "evaluation.before": "false",
        "save": "false", "speed.token_cache": "false", "checkpoints.every_minutes": "null",
    }  # fmt: skip
    if mini:
        # A field that a family's config does not have, as the size of its heads, follows from the others.
        own = given.recipe.model.architecture
        small = {key: value for key, value in MINI.items() if key != HEAD_SIZE or "head_dim" in own}
        found |= small | ({"method.compute_dtype": "float32"} if given.recipe.method.name == "qlora" else {})
    return [f"{key}={value}" for key, value in found.items()]


def write_texts(case: Case, folder: Path) -> None:
    """Made-up texts, the same in every run, in the files that the data set's local card names."""
    given = resolve.load(case.path, case.overrides)
    card: Any = resolve.load_card("dataset", resolve.SHIPPED / "datasets" / f"{given.dataset_name}_local.yaml")
    draw, most = random.Random(13), max(given.recipe.max_length, MINI["max_length"])
    words = ["".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(2)) for _ in range(600)]

    def _text(split: str) -> str:
        windows = (
            WINDOWS if split == "train" and card.source.kind == "squad" and given.recipe.objective == "head" else 1
        )
        return " ".join(draw.choice(words) for _ in range(round(windows * WORDS_PER_TOKEN * most)))

    folder.mkdir(parents=True, exist_ok=True)
    for split, file in card.source.files.items():
        rows = range(TEXTS.get(split, TEXTS["test"]))
        if card.source.kind == "squad":
            content = json.dumps({"version": "1.1", "data": [_article(split, row, _text(split)) for row in rows]})
        else:
            columns = card.columns
            texts = [{columns.id: f"{split}-{row}", columns.text: _text(split), columns.label: row % 2} for row in rows]
            content = "".join(json.dumps(text) + "\n" for text in texts)
        (folder / file).write_text(content, encoding="utf-8")


def _article(split: str, row: int, text: str) -> dict[str, Any]:
    """An article of one passage, whose answer is its first word."""
    answer = {"text": text.split()[0], "answer_start": 0}
    question = {"id": f"{split}-{row}", "question": "Which word is the first one?", "answers": [answer]}
    return {"title": f"{split} {row}", "paragraphs": [{"context": text, "qas": [question]}]}


def run(case: Case, out: Path, *, cap: str | None, mini: bool) -> Record:
    """One launch; its record is put into `out`. Raises SetupError where it left none."""
    folder = (out / "runs" if mini else RUNS) / case.name
    write_texts(case, folder / "data")
    config = ROOT / "accelerate_configs" / ("cpu.yaml" if mini else "gpu1.yaml")
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", str(config),
        str(ROOT / "bench" / "run.py"), str(case.path.relative_to(ROOT)), *overrides(case, folder / "data", mini),
        "--out", str(folder / "run"), "--overwrite",
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **offline, **({"BENCH_MEMORY_CAP": cap} if cap else {})}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    left = folder / "run" / store.FILE
    if not left.is_file():
        raise SetupError(f"{case.name} left no record: {done.stderr.strip()[-500:] or f'exit code {done.returncode}'}")
    (out / case.name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(left, out / case.name / store.FILE)
    return store.read(left)


def cap_for(case: Case, total: int) -> str | None:
    """What a run is held to on a GPU of `total` bytes; None where the GPU does that. Raises SetupError if too small."""
    size = hardware.memory(case.gpu)
    if size <= total:
        return case.gpu
    if total < ABOUT_AS_SMALL * size:
        raise SetupError(f"{case.name} is for {case.gpu}; this GPU has {total / hardware.GIB:.1f} GiB")
    return None


COLUMNS = {
    "run": "l", "GPU": "l", "held to, GiB": "r", "micro-batch": "l", "predicted in all, GiB": "r",
    "of torch's allocator": "r", "measured": "r", "error": "r", "reserved": "r", "tokens/s": "r", "MFU": "r",
    "status": "l",
}  # fmt: skip


def table(out: Path) -> str:
    """Markdown, of the records alone."""
    found = {path.parent.name: store.read(path) for path in sorted(out.glob(f"*/{store.FILE}"))}
    lines = [
        "# What recipes really need on a GPU",
        "",
        "Made by `scripts/gpu_fit`: random weights in each model's own architecture, every text of full length, each",
        "run held to a memory as on a GPU of that size. Predicted before training by the plan; the whole has CUDA's",
        "context in it and an allowance for fragmentation, which torch's allocator does not count. Error: predicted",
        "over measured, less 1, of what the allocator counts. A micro-batch is the heaviest one that was trained on.",
        "",
    ]
    if not found:
        return "\n".join([*lines, "No GPU has been measured yet."]) + "\n"
    lines += ["| " + " | ".join(COLUMNS) + " |"]
    lines += ["| " + " | ".join("--:" if side == "r" else ":--" for side in COLUMNS.values()) + " |"]
    lines += ["| " + " | ".join(cells(name, one)) + " |" for name, one in found.items()]
    return "\n".join(lines) + "\n"


def cells(name: str, found: Record) -> list[str]:
    """Return a row of the table, as `COLUMNS` names it."""
    predicted = found.memory_predicted or {}
    train, measured = predicted.get("train") or {}, found.memory.get("train", {})
    rates = found.throughput.get("train", {})
    size = f"{train['rows']} x {train['length']}" if train else md.DASH
    return [
        md.escape(name),
        md.escape(", ".join(found.environment.devices) if found.environment else None),
        _number(found.launch.memory_cap_gib if found.launch else None, ".2f"),
        size,
        _number(train.get("total_gib"), ".2f"),
        _number((predicted.get("compared") or {}).get("gib"), ".2f"),
        _number(measured.get("allocated_gib"), ".2f"),
        _number(predicted.get("error"), "+.1%"),
        _number(measured.get("reserved_gib"), ".2f"),
        _number(rates.get("real_tokens_per_s"), ",.0f"),
        _number(rates.get("mfu"), ".1%"),
        md.escape(found.status if found.reason is None else f"{found.status}: {found.reason}"),
    ]


def _number(value: Any, form: str) -> str:
    return md.DASH if value is None else format(value, form)


def write_table(out: Path) -> None:
    """Beside the folder of the records."""
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(out.with_name(f"{out.name}.md"), table(out))
    console.say(f"table: {out}.md")


def run_all(chosen: list[Case], out: Path, mini: bool) -> int:
    """Runs and writes the table; returns the exit code."""
    import torch

    if not mini and not torch.cuda.is_available():
        raise SetupError("no CUDA device is to be seen here; --mini takes the same way on a CPU, in small")
    total = 0 if mini else torch.cuda.mem_get_info()[1]
    failed = 0
    for case in chosen:
        try:
            done = run(case, out, cap=None if mini else cap_for(case, total), mini=mini)
        except SetupError as error:
            console.complain(f"left out: {error}")
            failed += 1
            continue
        failed += done.status != "ok"
        measured = done.memory.get("train", {}).get("allocated_gib")
        peak = "" if measured is None else f", {measured:.2f} GiB"
        console.say(f"{case.name}: {done.status}{peak}{f' ({done.reason})' if done.reason else ''}")
    write_table(out)
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {case.name: case for case in cases()}
    parser.add_argument("--case", action="append", choices=list(known), metavar="NAME", help="only this one, or these")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--mini", action="store_true", help="tiny architectures on a CPU: does it run")
    parser.add_argument("--out", type=Path, help="where records go (default: reports/gpu_fit, or runs/gpu_fit_mini)")
    parser.add_argument("--table", action="store_true", help="only make the table anew from the records")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    out = options.out or (Path("runs") / "gpu_fit_mini" if options.mini else REPORTS)
    try:
        if options.list:
            for case in known.values():
                console.say(f"{case.name}  {case.gpu}")
        elif options.table:
            write_table(out)
        else:
            return run_all([known[name] for name in options.case or known], out, options.mini)
    except BenchError as error:
        console.complain(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
