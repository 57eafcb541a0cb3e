"""Reads results of other tools into a folder of records, which `report` and `compare` take as they take runs."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.config.named_cards import safe_name
from bench.errors import DataError
from bench.exchange import foreign, from_lm_eval, from_peft
from bench.records import store
from bench.records.record import Record
from bench.utils import files

Reader = Callable[[], tuple[Record, list[dict[str, Any]]]]


def read_in(paths: list[Path], out: Path) -> tuple[list[Path], list[str]]:
    """Write a record for each result at or below `paths` into `out`; return their folders, and what was left out.

    Taken are results files of lm_eval and of PEFT's method comparison, known by their content. out: must not exist.
    Raises DataError where there is no result at all.
    """
    if out.exists():
        raise DataError(f"{out} is there already; give a new name with --out")
    found: list[tuple[Record, list[dict[str, Any]]]] = []
    left_out = []
    for path in _files(paths):
        try:
            for read in _readers(path):
                try:
                    found.append(read())
                except DataError as error:  # the file's other tasks are read all the same
                    left_out.append(str(error))
                except foreign.ODD as error:
                    left_out.append(f"{path}: a value is missing, or of another kind: {foreign.said(error)}")
        except DataError as error:
            left_out.append(str(error))
    if not found:
        shown = "; ".join(left_out[:3]) or "no JSON file"
        raise DataError(f"no result of another tool in or below {', '.join(map(str, paths))}: {shown}")
    return [_written(record, lines, out) for record, lines in found], left_out


def _files(paths: list[Path]) -> list[Path]:
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder")
    return sorted({file for path in paths for file in ([path] if path.is_file() else path.rglob("*.json"))})


def _readers(path: Path) -> list[Reader]:
    """Return a function for each result of a file, which reads it. Raises DataError for a file of another kind."""
    if store.looks_like_record(path):
        raise DataError(f"{path}: this is a run of this harness already; give its folder to report or compare")
    content = foreign.read_json(path)
    if isinstance(content, dict) and "train_info" in content:
        return [lambda: (from_peft.of_content(path, content), [])]
    tasks = from_lm_eval.tasks(path, content)
    return [functools.partial(from_lm_eval.of_content, path, content, task) for task in tasks]


def _written(record: Record, lines: list[dict[str, Any]], out: Path) -> Path:
    name = safe_name(record.name)
    folder, number = out / f"{name}--seed{record.seed}", 2
    while folder.exists():  # another result of this name
        folder, number = out / f"{name}--seed{record.seed}--{number}", number + 1
    folder.mkdir(parents=True)
    if lines:
        place = folder / "predictions" / f"after-{from_lm_eval.SPLIT}.jsonl"
        place.parent.mkdir()
        files.write_text(place, (json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    store.write(record, folder)
    return folder
