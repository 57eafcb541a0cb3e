"""Markdown of the records that scripts/gpu_check keeps; of these alone."""

import json
from pathlib import Path
from typing import Any

from bench.reporting import markdown as md
from scripts.gpu_checks import running
from scripts.gpu_checks.cases import PARTS, cases

TITLES = {
    "correctness": "Fast paths against the plain ones",
    "memory": "7B models by QLoRA, held to a size of GPU",
    "peers": "Against other tools, in the same process and in turns",
}
INTRODUCTIONS = {
    "correctness": "Error: of the plain path in this precision, and of the fast one, each against the plain path in "
    "float32, as a share of its norm. A fast path may have twice the plain one's error.",
    "memory": "As `scripts/gpu_fit` measures it: random weights in the model's own architecture, every text of full "
    "length. Error: predicted over measured, less 1, of what torch's allocator counts.",
    "peers": "Ratio: seconds of the other tool over those of the harness, median of the rounds; above 1 the harness is "
    "faster.",
}
STUB = (
    "**Not measured on a GPU.** These records come from a stub GPU: its kernels compute nothing, so that no time, no "
    "loss and no comparison of numbers below means anything. They only show that the script runs to its end."
)
SMALL = "Sizes are those of `--small`: they show that the script runs, and are no measurement of speed."


def render(out: Path) -> str:
    """Return the report on a folder of records."""
    order = {case.name: place for place, case in enumerate(cases())}
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))]
    records = sorted((one for one in records if one["name"] in order), key=lambda one: order[one["name"]])
    lines = ["# On a GPU", "", "Made by `scripts/gpu_check`.", ""]
    if not records:
        return "\n".join([*lines, "No GPU has been measured yet."]) + "\n"
    if any(record["stub"] for record in records):
        lines += [STUB, ""]
    if any(record["small"] for record in records):
        lines += [SMALL, ""]
    for place in dict.fromkeys(map(_place, records)):
        lines += [f"* {place}"]
    count = {status: sum(one["status"] == status for one in records) for status in ("ok", "failed", "skipped")}
    if ran := sum(one["status"] == running.RAN for one in records):
        count["ran to the end, not compared"] = ran
    counts = ", ".join(f"{number} {status}" for status, number in count.items())
    others = len(records) - sum(count.values())
    lines += ["", f"{len(records)} of {len(order)} cases: {counts}, {others} not ended."]
    for part in PARTS:
        lines += _part(part, [record for record in records if record["part"] == part])
    return "\n".join(lines) + "\n"


def _place(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {record[name]}" for name in ("torch", "transformers", "peft", "accelerate"))
    memory = "" if record.get("memory_gib") is None else f", {record['memory_gib']:g} GiB"
    capability = "" if record.get("capability") is None else f", compute capability {record['capability']}"
    commit = "" if record.get("commit") is None else f", commit {record['commit'][:10]}"
    return f"{md.escape(record['device'])}{memory}{capability}; Python {record['python']}, {versions}{commit}"


def _part(part: str, records: list[dict[str, Any]]) -> list[str]:
    if not records:
        return []
    lines = ["", f"## {TITLES[part]}", "", INTRODUCTIONS[part], ""]
    lines += ["| case | status | seconds | |", "| --- | --- | --: | --- |"]
    for record in records:
        seconds = f"{record['seconds']:.0f}" if "seconds" in record else md.DASH
        lines.append(f"| {record['name']} | {record['status']} | {seconds} | {md.escape(record.get('reason') or '')} |")
    for record in records:
        lines += _result(record)
    return lines


def _result(record: dict[str, Any]) -> list[str]:
    found = record.get("result") or {}
    if not found.get("rows") and not found.get("notes"):
        return []
    lines = ["", f"### {record['name']}", ""]
    if found.get("rows"):
        lines += [f"| {' | '.join(found['columns'])} |", f"|{' --- |' * len(found['columns'])}"]
        lines += [f"| {' | '.join(md.escape(str(cell)) for cell in row)} |" for row in found["rows"]]
    notes = [f"* {note}" for note in found.get("notes") or []]
    return [*lines, *([""] if notes and found.get("rows") else []), *notes]
