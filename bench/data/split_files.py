"""Finds which files of a path are which split, by their names: one file, a folder of splits, a saved data set."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.config.named_cards import KINDS, PACKED
from bench.data import files
from bench.errors import DataError

# The splits of a card, and what their files and source splits are called; `eval` is the test where there is no other.
WORDS = {
    "train": frozenset(("train", "training", "trn")),
    "validation": frozenset(("validation", "valid", "val", "dev", "development", "devel", "eval")),
    "test": frozenset(("test", "testing", "tst")),
}
# What `datasets` writes into a folder with `save_to_disk`: one split, or several.
_SAVED = ("dataset_dict.json", "state.json")
_SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?$")
# Versions of one file are other data, not its parts.
_VERSION = re.compile(r"(^|[-_.])v\d+([-_.]\d+)*$", re.IGNORECASE)
# A folder of splits is not searched deeper: `data/train-00000-of-00001.parquet`, `en/test/0000.parquet`.
_DEPTH = 3


@dataclass(frozen=True, kw_only=True)
class Found:
    """Files of a path as a card's `source` names them: kind, folder, and split -> name or names below the folder."""

    kind: str
    folder: Path
    files: dict[str, str | list[str]]
    notes: tuple[str, ...] = ()


def find(path: Path) -> Found:
    """Return the files at a path: of a folder by split, of one file as `train`; a saved data set has none to name.

    Raises DataError for a path that is missing, holds no data file, or holds several that could be one split.
    """
    if not path.exists():
        hint = files.near(path)
        raise DataError(f"there is no file or folder {str(path)!r}.{hint}")
    if not path.is_dir():
        files.check_regular(path, path.stat().st_mode)
        kind, notes = _kind(path)
        return Found(kind=kind, folder=path.parent, files={"train": path.name}, notes=notes)
    if any((path / name).is_file() for name in _SAVED):
        return Found(kind="saved", folder=path, files={})
    return _folder(path)


def kind_of(named: Mapping[str, str | Sequence[str]]) -> str:
    """Return how files that a person names for each split are read, by the suffix of the first."""
    first = next(iter(named.values()), "")
    return KINDS.get(_suffix(Path(first if isinstance(first, str) else first[0])), "csv")


def split_of(name: str) -> str | None:
    """Return the split that a name speaks of (`dev` -> validation, `train-00000-of-00002` -> train), or None."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    meant = [split for split, known in WORDS.items() if words & known]
    return meant[0] if len(meant) == 1 else None


def _folder(folder: Path) -> Found:
    paths = [path for path in sorted(folder.rglob("*")) if _is_data(path, folder)]
    # What `datasets` and the Hub write beside the data.
    paths = [path for path in paths if path.name not in ("dataset_infos.json", "dataset_info.json")]
    if not paths:
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        holds = f"it holds {_listed(others)}" if others else "it is empty"
        raise DataError(f"the folder {str(folder)!r} has no data file ({', '.join(KINDS)}); {holds}")
    by_split: dict[str, list[Path]] = {}
    unknown: list[Path] = []
    for path in paths:
        split = split_of(_stem(path)) or next(
            (split for parent in path.relative_to(folder).parents if (split := split_of(parent.name))), None
        )
        if split is None:
            unknown.append(path)
        else:
            by_split.setdefault(split, []).append(path)
    if not by_split:
        if not _are_shards(unknown):
            first = _below(unknown, folder)[0]
            _refuse_several("none is named after a split", unknown, folder, {"train": first}, one_file=True)
        by_split["train"], unknown = unknown, []
    told = {split: _below(chosen, folder)[0] for split, chosen in by_split.items()}
    if "train" not in by_split and unknown:
        why = f"none is called train, and {_listed(_below(unknown, folder))} may be it"
        _refuse_several(why, paths, folder, {"train": _below(unknown, folder)[0], **told})
    for split, chosen in by_split.items():
        if not _are_shards(chosen):
            # Of two for one split, the other may be the test.
            second = {"test": _below(chosen, folder)[1]} if split == "validation" and "test" not in told else {}
            _refuse_several(f"each could be the split {split!r}", chosen, folder, {**told, **second})
    kinds = {path: _kind(path) for chosen in by_split.values() for path in chosen}
    if len({kind for kind, _ in kinds.values()}) > 1:
        each_first = [chosen[0] for chosen in by_split.values()]
        suffix = _suffix(each_first[0])
        alike = {split: name for split, name in told.items() if _suffix(Path(name)) == suffix}
        _refuse_several(
            "they are of different kinds, and a data set is of one", each_first, folder, alike, one_file=True
        )
    notes = [note for _, each in kinds.values() for note in each]
    if unknown:
        notes.append(f"not used, for the name says no split: {_listed(_below(unknown, folder))}")
    found: dict[str, str | list[str]] = {}
    for split in (split for split in WORDS if split in by_split):
        names = _below(by_split[split], folder)
        found[split] = names if len(names) > 1 else names[0]
    return Found(kind=next(iter(kinds.values()))[0], folder=folder, files=found, notes=tuple(dict.fromkeys(notes)))


def _is_data(path: Path, folder: Path) -> bool:
    inside = path.relative_to(folder).parts
    hidden = any(part.startswith((".", "_")) for part in inside)
    return len(inside) <= _DEPTH and not hidden and _suffix(path) in KINDS and path.is_file()


def _suffix(path: Path) -> str:
    """Return the last suffix in lower case, without that of a compression."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix


def _stem(path: Path) -> str:
    return path.name[: path.name.lower().rindex(_suffix(path))]


def _are_shards(paths: Sequence[Path]) -> bool:
    """Return whether files are one, or the numbered parts of one."""
    return len({(path.parent, _suffix(path), _unnumbered(_stem(path))) for path in paths}) == 1


def _unnumbered(stem: str) -> str:
    return stem if _VERSION.search(stem) else _SHARD.sub("", stem)


def _refuse_several(
    why: str, paths: Iterable[Path], folder: Path, line: Mapping[str, str], *, one_file: bool = False
) -> None:
    """Raise DataError for files that do not say which split they are. line: split -> file, as it may be written."""
    names = ", ".join(f"{split}: {_word(line[split])}" for split in WORDS if split in line)
    ways = "name one file as `path`, or the splits" if one_file else "name the files of the splits"
    raise DataError(
        f"the folder {str(folder)!r} has several data files, {_listed(_below(paths, folder))}: {why}; {ways}, as "
        f"`source: {{files: {{{names}}}}}`"
    )


def _word(name: str) -> str:
    return name if re.fullmatch(r"[\w./-]*[A-Za-z_][\w./-]*", name) else json.dumps(name, ensure_ascii=False)


def _below(paths: Iterable[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _kind(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return how a file is read, by its suffix, and a note where JSON lines are in a file that is called `.json`."""
    suffix = _suffix(path)
    if suffix not in KINDS:
        hint = "; export the sheet as CSV" if suffix in (".xlsx", ".xls", ".ods") else ""
        raise DataError(f"{path}: the name must end in {', '.join(KINDS)}, got {suffix or 'no suffix'!r}{hint}")
    if suffix == ".json" and _has_json_lines(path):
        return "jsonl", (f"{path.name} is read as JSON lines: each of its lines is an object",)
    return KINDS[suffix], ()


def _has_json_lines(path: Path) -> bool:
    with files.text(path, "\n", []) as stream:
        lines = [line for line in (stream.readline(), stream.readline()) if line.strip()]
    try:
        return len(lines) == 2 and all(isinstance(json.loads(line), dict) for line in lines)
    except ValueError:
        return False
