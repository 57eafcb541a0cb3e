"""The memory forecast of jobs beside the peaks that others measured and published, row by row.

    .venv/bin/python scripts/benchmarks/published_memory.py FILE [-o reports/published_memory.md] [--only TEXT]

FILE: a CSV of published peaks with the settings of each row; its columns are named in COLUMNS. Each row becomes a job
(`bench.memory.job`), and is forecast without a GPU: predicted, measured, error; then the median and worst error and the
bias by source. -o writes the table, and beside it a .json of what it was made from, by which a test recomputes it.

Two sources are known: huggingface/peft's method comparison on MetaMathQA (memory reserved in training, 99th percentile
over the steps) and Lightning-AI/litgpt's table of its configurations (most memory allocated).
"""

import argparse
import concurrent.futures
import csv
import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from pydantic import ValidationError  # noqa: E402

from bench import console  # noqa: E402
from bench.cli.options import refuse_outputs  # noqa: E402
from bench.errors import BenchError, did_you_mean  # noqa: E402
from bench.memory.job import Job  # noqa: E402
from bench.memory.replay import replay  # noqa: E402
from bench.utils import files, hardware  # noqa: E402
from bench.utils.hardware import GIB  # noqa: E402

COLUMNS = (
    "source", "name", "model", "gpu", "method", "dtype", "quantised", "micro_batch", "max_tokens", "checkpointing",
    "autocast", "optimizer", "peak_gib", "p99_gib", "kind", "trainable",
)  # fmt: skip
OOM = "oom"
LLAMA32 = {
    "model_type": "llama", "vocab_size": 128256, "num_key_value_heads": 8, "head_dim": 128,
    "max_position_embeddings": 131072, "tie_word_embeddings": True, "bos_token_id": 128000, "eos_token_id": 128001,
}  # fmt: skip
LLAMA32_3B = LLAMA32 | {
    "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
}  # fmt: skip


def _sizes(
    kind: str, vocabulary: int, width: int, layers: int, heads: int, groups: int, inner: int, **others: Any
) -> Any:
    return {
        "model_type": kind, "vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": groups, "intermediate_size": inner, **others,
    }  # fmt: skip


# Architectures by the folder of a configuration of litgpt (config.py there, whose vocabularies are padded).
LITGPT: dict[str, dict[str, Any]] = {
    "falcon-7b": {
        "model_type": "falcon", "vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32,
        "num_attention_heads": 71, "multi_query": True,
    },
    "stablelm-base-alpha-3b": {
        "model_type": "gpt_neox", "vocab_size": 50688, "hidden_size": 4096, "num_hidden_layers": 16,
        "num_attention_heads": 32, "intermediate_size": 16384, "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
        },
    },
    "phi-2": _sizes("phi", 51200, 2560, 32, 32, 32, 10240, rope_parameters={
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4,
    }),
    "phi-3": _sizes("phi3", 32064, 3072, 32, 32, 32, 8192),
    "tiny-llama": _sizes("llama", 32000, 2048, 22, 32, 4, 5632),
    "llama-2-7b": _sizes("llama", 32000, 4096, 32, 32, 32, 11008),
    "llama-3-8b": _sizes("llama", 128256, 4096, 32, 32, 8, 14336),
    "llama-3.1-8b": _sizes("llama", 128256, 4096, 32, 32, 8, 14336),
    "llama-3.2-1b": _sizes("llama", 128256, 2048, 16, 32, 8, 8192, head_dim=64),
    "llama-3.2-3b": LLAMA32_3B,
    "mistral-7b": _sizes("mistral", 32000, 4096, 32, 32, 8, 14336),
    "mistral-7b-v0.2": _sizes("mistral", 32000, 4096, 32, 32, 8, 14336),
    "gemma-2b": _sizes("gemma", 256000, 2048, 18, 8, 1, 16384, head_dim=256),
    "gemma-7b": _sizes("gemma", 256000, 3072, 28, 16, 16, 24576, head_dim=256),
    "gemma2-2b": _sizes("gemma2", 256000, 2304, 26, 8, 4, 9216, head_dim=256),
    "gemma2b": _sizes("gemma2", 256000, 2304, 26, 8, 4, 9216, head_dim=256),  # so the table names its qlora.yaml
    "gemma2-9b": _sizes("gemma2", 256000, 3584, 42, 16, 8, 14336, head_dim=256),
}  # fmt: skip
# What the columns leave out of the settings of a row, from the adapter_config.json of its experiment and, of AdaLoRA,
# from run.py; by a beginning of the row's name.
ADAPTERS: dict[str, dict[str, Any]] = {
    "adalora--": {"total_step": 5000, "init_r": 64, "target_r": 32, "tinit": 200, "tfinal": 500},
    "adaptionprompt--": {"adapter_len": 100, "adapter_layers": 28, "target_modules": None},
    "c3a--": {"block_size": 64},
    "deft--llama-3.2-3B-rank32-para": {"para": True},
    "ia3--llama-3.2-3B-all-attn": {"feedforward_modules": ["down_proj", "gate_proj", "up_proj"]},
    "road--": {"variant": "road_2"},
    "fourierft--llama-3.2-3B-n_frequency-5000": {"n_frequency": 5000},
    "lokr--llama-3.2-3B-rank32-factor4": {"decompose_factor": 4},
    "lily--llama-3.2-3B-rank896": {"num_B": 2, "stride_A": 14},
    "lily--llama-3.2-3B-rank140": {"num_B": 2, "stride_A": 14},
    "frod--llama-3.2-3B-sparse0.02": {"sparse_rate": 0.02},
    "glora--llama-3.2-3B-vector-paths": {"config_A_B": "vector", "config_C": "vector", "config_D_E": "constant"},
    "peanut--": {"depth": 0},
    "tinylora--llama-3.2-3B-weight-tying": {"weight_tying": 1.0},
    "trainable_tokens--": {"token_indices": [128000, 128001]},
    "waveft--llama-3.2-3B-n_frequency-5000": {"n_frequency": 5000},
    "miss--llama-3.2-3B-bat": {"init_weights": "bat"},
    "miss--llama-3.2-3B-mini": {"init_weights": "mini", "mini_r": 64},
    "oft--": {"oft_block_size": 0},
    "osf--llama-3.2-3B-rank128": {"rank_pattern": {
        "q_proj": 2944, "o_proj": 2944, "k_proj": 896, "v_proj": 896, "gate_proj": 2944, "down_proj": 2944,
        "up_proj": 2944,
    }},
    "lora--llama-3.2-3B-rank14-target-mlp-bdlora": {"use_bdlora": {
        "target_modules_bd_a": ["o_proj", "down_proj"],
        "target_modules_bd_b": ["q_proj", "v_proj", "k_proj", "up_proj", "gate_proj"], "nblocks": 2,
    }},
}  # fmt: skip
# Their loop, as run.py has it: batches are sorted in buckets, the longest first, and the cache is emptied every tenth
# step; so the longest one comes first after that, while the outputs of a short one are still there. The lengths of the
# batches are not published; 591 tokens are those of the 99th percentile, as it was fitted on one row by a run on a stub
# GPU, and 150 stand for a short batch: of it only the outputs are there.
PEFT_LENGTHS = (150, 591)
# litgpt's devices in the yaml file of a configuration, where there are several; all other rows are of one GPU.
DEVICES = {
    "gemma-2b/full.yaml": 4, "llama-2-7b/full.yaml": 4, "llama-3-8b/full.yaml": 4, "phi-2/full.yaml": 4,
    "stablelm-base-alpha-3b/full.yaml": 2,
}  # fmt: skip
# Begins the note on a row that can't have been measured with its settings.
CONTRADICTS = "not its settings"


def job_of(row: dict[str, str]) -> dict[str, Any]:
    """Return the settings of a row's job. Raises BenchError for a configuration that is not known."""
    return _peft(row) if row["source"] == "peft" else _litgpt(row)


def _peft(row: dict[str, str]) -> dict[str, Any]:
    job: dict[str, Any] = {
        "architecture": LLAMA32_3B, "dtype": row["dtype"], "micro_batch": int(row["micro_batch"]),
        "lengths": PEFT_LENGTHS, "keeps_outputs": True, "empty_cache": True,
        "checkpointing": row["checkpointing"] == "True",
    }  # fmt: skip
    if row["method"] != "full":
        job["adapter"] = json.loads(row["method"])
        for beginning, more in ADAPTERS.items():
            if row["name"].startswith(beginning):
                job["adapter"] |= more
    return job


def _litgpt(row: dict[str, str]) -> dict[str, Any]:
    configuration = row["name"].split()[0]
    folder = configuration.split("/")[0]
    if folder not in LITGPT:
        raise BenchError(f"{row['name']}: there is no architecture of {folder!r} here")
    gpus = DEVICES.get(configuration, 1) if row["gpu"].startswith("4x") else 1
    # Of Llama 3.2 the columns are empty: r 32 on queries and values, as in its yaml files.
    quantized = "qlora" in configuration
    job: dict[str, Any] = {
        "architecture": LITGPT[folder], "code": "litgpt", "micro_batch": int(row["micro_batch"]),
        "lengths": (int(row["max_tokens"]),), "clip": False, "keeps_outputs": True, "gpus": gpus,
        "checkpointing": gpus > 1,
        "optimizer": "paged_adamw_32bit" if quantized else "adamw_torch",
    }  # fmt: skip
    if quantized:
        job |= {"quantization": row["quantised"].removeprefix("bnb.").replace("no", "nf4"), "old_bitsandbytes": True}
        # Not yet in finetune/lora.py in spring 2024, when most rows were measured; taken as such for all of them.
        job["stable_embedding"] = False
    if row["method"] == "full":
        job["accumulation"] = 2  # gradients of all weights are there beside the second micro-batch's activations
    else:
        given = json.loads(row["method"])
        job["lora"] = {
            "r": int(given.get("r") or 32), "dropout": float(given.get("lora_dropout") or 0.05),
            "on": tuple(given.get("on") or ("query", "value")),
        }  # fmt: skip
    return job


def forecast(row: dict[str, str]) -> dict[str, Any]:
    """Return a row's settings with its forecast in GiB, "oom", or None, and a note on what is to be known of it."""
    kept = {name: row[name] for name in COLUMNS}
    try:
        job = Job.model_validate(job_of(row))
        found = replay(job)
    except ValidationError as error:
        wrong = error.errors()[0]
        note = f"its settings are no job: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
        return {**kept, "predicted_gib": None, "fits": None, "note": note}
    except BenchError as error:
        return {**kept, "predicted_gib": None, "fits": None, "note": str(error).splitlines()[0]}
    note = ""
    if row["trainable"] and int(row["trainable"]) != found.num_trainable:
        note = (
            f"{found.num_trainable:,} trainable parameters here, {int(row['trainable']):,} there: settings are missing"
        )
    held, measured = (found.weights + found.trained // job.gpus + found.optimizer) / GIB, measured_of(row)
    if measured is not None and held > measured:
        note = f"{CONTRADICTS}: weights, gradients and the optimizer's state alone take {held:.2f} GiB"
    size = found.reserved if row["kind"] == "reserved" else found.allocated
    fits = found.needed <= _usable(row["gpu"])
    return {**kept, "predicted_gib": round(size / GIB, 3), "fits": fits, "note": note}


def measured_of(row: dict[str, Any]) -> float | None:
    """Return the published GiB of a row; None where it ran out of memory."""
    text = row["p99_gib"] or row["peak_gib"]
    return None if text == OOM else float(text)


def error_of(row: dict[str, Any]) -> float | None:
    """Return predicted over measured, less 1; None where one is no number, or the row contradicts its settings."""
    measured = measured_of(row)
    if measured is None or row["predicted_gib"] is None or row["note"].startswith(CONTRADICTS):
        return None
    return row["predicted_gib"] / measured - 1


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, without lines that begin with #.

    Raises BenchError for one of other columns, and with a line for each row that can't be what it says.
    """
    try:
        numbered = enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} can't be read: {error}") from error
    lines = [(number, line) for number, line in numbered if line.strip() and not line.startswith("#")]
    table = csv.DictReader(line for _, line in lines)
    missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        raise BenchError(
            f"{path}: a table with the columns {', '.join(COLUMNS)} is expected; {', '.join(missing)} missing"
        )
    rows, problems, known = [], list[str](), set[tuple[str, str]]()
    for row in table:
        problem = _problem(row)
        if problem is None and (row["source"], row["name"]) in known:
            problem = f"{row['source']} has {row['name']!r} twice"
        if problem is not None:
            problems.append(f"{path}:{lines[table.line_num - 1][0]}: {problem}")
            continue
        known.add((row["source"], row["name"]))
        rows.append(row)
    if problems:
        raise BenchError("\n".join(problems))
    if not rows:
        raise BenchError(f"{path}: the table has no rows")
    return rows


def _problem(row: dict[str, str]) -> str | None:
    """Return why a row can't be what it says, or None."""
    if None in row or None in row.values():
        return "other than the header's number of cells"
    if row["source"] not in SOURCES:
        return f"source: {row['source']!r} is not known.{did_you_mean(row['source'], SOURCES)}"
    for name in ("micro_batch", "max_tokens", *(["trainable"] if row["trainable"] else [])):
        if not row[name].isascii() or not row[name].isdigit() or int(row[name]) == 0:
            return f"{name}: expected a whole number above 0, got {row[name]!r}"
    choices = {"kind": ("reserved", "allocated"), "checkpointing": ("True", "False"), "autocast": ("True", "False")}
    for name, allowed in choices.items():
        if row[name] not in allowed:
            return f"{name}: expected {' or '.join(allowed)}, got {row[name]!r}"
    return _problem_of_method(row["method"]) or _problem_of_peak(row)


def _problem_of_method(text: str) -> str | None:
    try:
        adapter = {} if text == "full" else json.loads(text)
    except ValueError:
        adapter = None
    return None if isinstance(adapter, dict) else f"method: expected full, or an adapter's config in JSON, got {text!r}"


def _problem_of_peak(row: dict[str, str]) -> str | None:
    """Return why a measured peak can't be one in GiB on the row's GPU."""
    text = row["p99_gib"] or row["peak_gib"]
    if text == OOM:
        return None
    try:
        size, usable = float(text), _usable(row["gpu"]) / GIB
    except ValueError:
        size, usable = math.nan, math.inf
    except BenchError as error:
        return f"gpu: {error}"
    if not 0 < size < math.inf:
        return f"a peak is a number of GiB above 0, or {OOM}; got {text!r}"
    if size > usable:
        return f"a peak of {size:g} GiB does not fit into the {usable:.1f} GiB of {row['gpu']}: is it of another unit?"
    return None


def _usable(gpu: str) -> int:
    """Return the bytes of one of a row's GPUs, "4xA10G" or "NVIDIA L40S"."""
    return hardware.memory(gpu.split("x")[-1].removeprefix("NVIDIA "))


def lines_of(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the report, in Markdown."""
    yield from _INTRODUCTION
    for source, title in SOURCES.items():
        own = [row for row in rows if row["source"] == source]
        if own:
            yield from ["", f"## {title}", "", *_summary(own), "", *_table(own)]


def _summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    errors = {row["name"]: error for row in rows if (error := error_of(row)) is not None}
    ran_out = [row for row in rows if measured_of(row) is None]
    if errors:
        worst = max(errors, key=lambda name: abs(errors[name]))
        yield (
            f"{len(errors)} of {len(rows)} rows have both numbers: median error "
            f"{statistics.median(map(abs, errors.values())):.1%}, worst {errors[worst]:+.1%} ({worst}), bias "
            f"{statistics.fmean(errors.values()):+.1%}; {sum(abs(one) > 0.15 for one in errors.values())} beyond 15 %."
        )
    without = sum(row["predicted_gib"] is None for row in rows)
    if without:
        yield f"Without a forecast: {without} rows, whose note says why."
    contradicting = sum(row["note"].startswith(CONTRADICTS) for row in rows)
    if contradicting:
        yield f"Left out of the errors: {contradicting} rows that can't have been measured with their settings."
    if ran_out:
        foreseen = sum(row["fits"] is False for row in ran_out)
        yield f"Out of memory: {len(ran_out)} rows, of which {foreseen} are predicted not to fit."
    ran = [row["name"] for row in rows if row["fits"] is False and error_of(row) is not None]
    if ran:
        yield f"Measured to run, but predicted not to fit: {', '.join(ran)}."
        yield "Whether a row fits is judged by what torch would have reserved, and CUDA's context; its predicted number"
        yield "is what is allocated. torch gives back segments that are not in use before it fails; the forecast does"
        yield "not count on that."


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| row | measured, GiB | predicted, GiB | error | fits | note |"
    yield "| :-- | --: | --: | --: | :-- | :-- |"
    for row in rows:
        measured, error = measured_of(row), error_of(row)
        cells = [
            row["name"].replace("|", "\\|"),
            OOM if measured is None else f"{measured:.3f}",
            "" if row["predicted_gib"] is None else f"{row['predicted_gib']:.3f}",
            "" if error is None else f"{error:+.1%}",
            {True: "yes", False: "no", None: ""}[row["fits"]],
            row["note"].replace("|", "\\|"),
        ]
        yield f"| {' | '.join(cells)} |"


SOURCES = {
    "peft": "PEFT, method comparison on MetaMathQA: Llama-3.2-3B, one L40S, memory reserved",
    "litgpt": "litgpt, config_hub/finetune: A10G, memory allocated",
}
_INTRODUCTION = (
    "# The memory forecast beside peaks that others published",
    "",
    "Made by `scripts/benchmarks/published_memory.py FILE -o reports/published_memory.md`. Measured: by others, on",
    "GPUs, with their own programs: huggingface/peft, method_comparison/MetaMathQA/results at 5d602fd (99th percentile",
    "of what torch had reserved after a step), and Lightning-AI/litgpt, config_hub/finetune/README.md at 2685705 (the",
    "most that was allocated; GB of 1e9 as GiB), both under Apache-2.0. Predicted: the same job in plain settings, as",
    "`bench plan --job` plans it, without a GPU. Model, adapter, loss and optimizer run on torch's meta device, and a",
    "model of torch's caching allocator gets each tensor as it comes and goes. No factor or allowance is in it.",
    "",
    "Chosen with rows in view, since nothing published says it: the length of PEFT's batches (4 x 591 tokens, from",
    "its LoRA r32) and the order of its steps (LoRA, DoRA and full); for litgpt that its QLoRA rows ran a bitsandbytes",
    "that keeps the input of each product (`old_bitsandbytes`), without an embedding of stable gradients. litgpt's",
    "QLoRA rows are therefore no blind test; its LoRA and full rows are, but for those that are left out as",
    "contradictions.",
    "",
    "Reserved memory is what the allocator's rules make of the order of tensors: blocks of 512 bytes, segments of 2",
    "and 20 MiB and larger ones, and what does not fit into them (`bench/memory/allocator.py`). PEFT's loop is",
    "simulated as a short step, an emptied cache, and the longest batch: it sorts batches, longest first, and empties",
    "the cache every tenth step. litgpt's texts are taken as 512 tokens long, the most that its rows read.",
)


def main() -> int:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="CSV of published peaks")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.md", help="write it, and FILE.json beside it")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose source or name holds this text")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that work side by side")
    options = parser.parse_args()
    try:
        if options.jobs < 1:
            raise BenchError(f"--jobs: expected a number above 0, got {options.jobs}")
        if options.output is not None and options.output.suffix != ".md":
            raise BenchError(
                f"-o: expected a name ending in .md, beside which a .json is written; got {options.output}"
            )
        refuse_outputs(options.output)
        rows = [row for row in read(options.file) if options.only in f"{row['source']} {row['name']}"]
        if not rows:
            raise BenchError(f"no row of {options.file} holds {options.only!r}")
        found = list(_forecasts(rows, options.jobs))
    except BenchError as error:
        console.say(str(error))
        return 2
    report = "\n".join(lines_of(found)) + "\n"
    if options.output is None:
        console.write(report)
    else:
        files.write_text(options.output, report)
        files.write_text(options.output.with_suffix(".json"), as_json(found))
    return 0


def as_json(rows: list[dict[str, Any]]) -> str:
    """Return the rows as the committed file has them, one a line."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def _forecasts(rows: list[dict[str, str]], jobs: int) -> Iterator[dict[str, Any]]:
    """Yield the forecast of each row; say where it stands on stderr."""
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        for found in pool.map(forecast, rows):
            error = error_of(found)
            shown = found["note"] if error is None else f"{found['predicted_gib']:.3f} GiB, {error:+.1%}"
            print(f"{found['name']}: {shown}", file=sys.stderr, flush=True)
            yield found


if __name__ == "__main__":
    sys.exit(main())
