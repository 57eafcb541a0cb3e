"""Models and data sets by name: which card, path or Hub id a recipe means, and the card that is made from what it is.

`model: Qwen/Qwen3-0.6B`, `dataset: tickets.csv`, `model: {id: owner/name, dtype: bfloat16}`. A card is made by a module
of the package above (`bench.models`, `bench.data`), which is loaded by its name, as drop-ins are.
"""

import copy
import importlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.config import model_paths
from bench.config.layers import Layers
from bench.config.validation import shortened
from bench.config.yaml_loader import Document
from bench.errors import BenchError, RecipeError, did_you_mean, nearest

# What makes the cards: `make(spec) -> MadeCard`; of a task of lm-evaluation-harness `make("lm_eval:NAME") -> card`.
MAKERS = {"model": "bench.models.card_from_config", "dataset": "bench.data.card_from_source"}
LM_EVAL, LM_EVAL_MAKER = "lm_eval", "bench.data.card_from_lm_eval"
# Keys of a mapping that say where a model or data set is. With them it needs no `card`.
WHERE = {"model": ("id", "path", "package", "architecture"), "dataset": ("id", "path", LM_EVAL)}
# Keys by which a model or data set is found; what the made card says of them is not replaced again.
FINDS = {
    "model": ("id", "path", "revision", "package", "subfolder"),
    "dataset": ("id", "path", "config", "revision", "delimiter", "encoding", "quoting", "compose", LM_EVAL),
}
# Names of data by another library's registry, `lm_eval:arc_easy`.
SCHEMES = {"model": (), "dataset": (LM_EVAL,)}
# Suffix of a data file -> how it is read, and those of the compressions that are undone.
KINDS = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
KINDS |= {".conll": "conll"}
PACKED = (".gz", ".bz2", ".xz")
DATA_SUFFIXES = (*KINDS, *PACKED)
# https://huggingface.co/docs/huggingface_hub/package_reference/utilities#huggingface_hub.utils.validate_repo_id
_HUB_ID = re.compile(r"(?P<id>[\w.-]{1,96}/[\w.-]{1,96})(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")
_made: dict[str, "MadeCard"] = {}


class WrongKeys(RecipeError):
    """Keys of a mapping that names a model or data set, which are wrong: a line for each, `key: what is wrong`."""

    def __init__(self, lines: str) -> None:
        super().__init__("\n".join(line.removeprefix(": ") for line in lines.splitlines()))


@dataclass(frozen=True, kw_only=True)
class MadeCard:
    """A card that was made: `card` in the form of a YAML file.

    notes: sentences for the record. sources: key of the card -> where its value is from. model_type: of a model.
    """

    card: dict[str, Any]
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    model_type: str | None = None

    @property
    def commit(self) -> str | None:
        """Return the commit of the Hub that the card was made at; None of what is local."""
        where = self.card.get("source", self.card)
        commit = where.get("revision") if isinstance(where, Mapping) else None
        return str(commit) if commit else None

    def as_record(self) -> dict[str, Any]:
        """Return what the record keeps of it: the card as it was made, and where its values are from."""
        return {"card": self.card, "sources": dict(self.sources), "notes": list(self.notes)}


@dataclass(frozen=True, kw_only=True)
class Meant:
    """The meaning of a name: a card's name, or the facts to make a card from. place: where the recipe names it.

    spec: of a card, what the recipe says in place of it. beside: of a name on the Hub that may be a misspelt path, what
    lies there.
    """

    kind: str
    place: str
    card: str | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    beside: str = ""

    @property
    def shown(self) -> str:
        """Return the name as a person would write it."""
        return self.card or shown(self.spec)


def meant(kind: str, chosen: Any, place: str, *, starts: Iterable[Path], cards: Iterable[str], is_card: bool) -> Meant:
    """Return what a recipe means by its `model:` or `dataset:`.

    starts: folders where a relative path may start. cards: known names. is_card: whether `chosen`, or its `card`, is
    one of them. Raises RecipeError with what was tried.
    """
    if isinstance(chosen, dict) and "card" not in chosen:
        return Meant(kind=kind, place=place, spec=_inline(kind, chosen, place, list(starts), cards))
    name = chosen.get("card") if isinstance(chosen, dict) else chosen
    if not isinstance(name, str):
        raise _no_name(kind, chosen, place)
    if is_card:
        over = {key: value for key, value in chosen.items() if key != "card"} if isinstance(chosen, dict) else {}
        return Meant(kind=kind, place=place, card=name, spec=over)
    if isinstance(chosen, dict):
        raise RecipeError(f"{place}: there is no {kind} card {name!r:.100}.{did_you_mean(name, cards)}")
    folders = list(starts)
    spec = _of_text(kind, name, place, folders, cards)
    return Meant(kind=kind, place=place, spec=spec, beside=_beside(name, folders) if "id" in spec else "")


def _no_name(kind: str, chosen: Any, place: str) -> RecipeError:
    keys = ", ".join(f"`{key}`" for key in WHERE[kind])
    expected = f"the name of a {kind} card, or a mapping with `card` or one of {keys}"
    return RecipeError(f"{place}: expected {expected}, or a path or Hub id, got {shortened(chosen)}")


def _of_text(kind: str, name: str, place: str, starts: list[Path], cards: Iterable[str]) -> dict[str, Any]:
    scheme, colon, rest = name.partition(":")
    if colon and scheme in SCHEMES[kind]:
        if not (is_path(rest) or "/" in rest or rest.endswith((".yaml", ".yml"))):
            return {scheme: rest}
        file = _existing(kind, rest, starts)
        if file is None:
            raise _no_path(kind, rest, place, starts, cards, what="task file")
        return {scheme: str(file)}
    found = _existing(kind, name, starts)
    if found is not None:
        return {"path": str(found)}
    if is_path(name) or (kind == "dataset" and name.endswith(DATA_SUFFIXES)):
        raise _no_path(kind, name, place, starts, cards)
    hub = _HUB_ID.fullmatch(name)
    if hub is not None and not (kind == "model" and hub["config"]):
        return {key: value for key, value in hub.groupdict().items() if value is not None}
    beside = {path.name for start in starts if start.is_dir() for path in start.iterdir() if path.name != name}
    near = nearest(name, cards) or nearest(name, beside)
    hint = f" Did you mean {near!r}?" if near else did_you_mean(name, cards)
    ways = "" if "mean" in hint else " A name on the Hub is written owner/name, a file or folder ./name."
    raise RecipeError(f"{place}: there is no {kind} card {name!r:.100}.{hint}{ways}")


def is_path(name: str) -> bool:
    """Return whether a name is written as a path, whether it is there or not."""
    return name.startswith((".", "/", "~"))


def _beside(name: str, starts: Iterable[Path]) -> str:
    """Return words on what lies where a name on the Hub would be as a path; empty where there is no such folder."""
    folder = next((start / Path(name).parent for start in starts if (start / Path(name).parent).is_dir()), None)
    if folder is None:
        return ""
    near = nearest(Path(name).name, (path.name for path in folder.iterdir()))
    hint = f" Did you mean {str(Path(name).parent / near)!r}?" if near else ""
    return f"; nor is there a file or folder of this name in {model_paths.absolute(folder)}.{hint}"


def _existing(kind: str, name: str, starts: list[Path]) -> Path | None:
    """Return the absolute path of what is there: a model's folder, a data file or folder of them."""
    if "\0" in name or not name.strip():
        return None
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    for start in [Path("/")] if path.is_absolute() else starts:
        if (start / path).is_dir() or (kind == "dataset" and (start / path).exists()):
            return Path(model_paths.absolute(start / path))
    return None


def _no_path(
    kind: str, name: str, place: str, starts: list[Path], cards: Iterable[str], what: str | None = None
) -> RecipeError:
    what = what or ("folder" if kind == "model" else "file or folder")
    places = [] if Path(name).is_absolute() else list(dict.fromkeys(model_paths.absolute(start) for start in starts))
    looked = f"; looked in {', '.join(places)}" if places else ""
    folders = [Path(name).parent] if Path(name).is_absolute() else [start / Path(name).parent for start in starts]
    beside = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
    near = nearest(Path(name).name, beside) or nearest(Path(name).name, cards)
    hint = f" Did you mean {near!r}?" if near else ""
    return RecipeError(f"{place}: there is no {what} {name!r:.200}{looked}.{hint}")


def _inline(
    kind: str, given: Mapping[str, Any], place: str, starts: list[Path], cards: Iterable[str]
) -> dict[str, Any]:
    """Return an inline mapping as facts to make a card from: its path is absolute, its Hub id without the revision."""
    if is_whole(kind, given):
        return dict(given)
    named = [key for key in WHERE[kind] if given.get(key) is not None and key != "architecture"]
    if not named and given.get("architecture") is None:
        raise _no_name(kind, dict(given), place)
    if len(named) > 1:
        raise RecipeError(f"{place}: {' and '.join(f'`{key}`' for key in named)} each name a {kind}; give one of them")
    spec = dict(given)
    key = named[0] if named else "architecture"
    if key in ("id", "path", LM_EVAL):
        name = spec.pop(key)
        if not isinstance(name, str):
            raise RecipeError(f"{place}.{key}: expected text, got {shortened(name)}")
        told = _of_key(kind, key, name, f"{place}.{key}", starts, cards)
        twice = told.keys() & spec.keys()
        if twice:
            raise RecipeError(f"{place}.{key}: {name!r} says the {min(twice)} too; give it once")
        spec |= told
    return spec


def _of_key(kind: str, key: str, name: str, place: str, starts: list[Path], cards: Iterable[str]) -> dict[str, Any]:
    """Return what a key names. A data set's `id` is never a path; a model's may be a folder, as in cards."""
    if key == LM_EVAL:
        return _of_text(kind, f"{LM_EVAL}:{name}", place, starts, cards)
    if key == "path":
        return _of_text(kind, name if is_path(name) else f"./{name}", place, starts, cards)
    if kind == "dataset" and is_path(name):
        raise RecipeError(f"{place}: expected a data set of the Hub, owner/name; a file or folder is `path: {name}`")
    return _of_text(kind, name, place, [] if kind == "dataset" else starts, cards)


def is_whole(kind: str, given: Mapping[str, Any]) -> bool:
    """Return whether a mapping is a card itself: of data, with its task and its source, and no place beside these."""
    named = any(given.get(key) is not None for key in WHERE[kind])
    return kind == "dataset" and "source" in given and "task" in given and not named


def with_override(named: Meant, override: Document, *, cards: Iterable[str]) -> Meant:
    """Return what is meant with one `model.key=value` of the command line, which may name another model or data set.

    So that what can't be told from the data, as `dataset.columns.label`, can be said there.
    """
    kind, (_, key, *inner) = named.kind, override.inside
    if key in WHERE[kind] and not inner:
        dropped = (*WHERE[kind], "revision", "config")
        rest = {name: value for name, value in named.spec.items() if name not in dropped}
        place = override.where(())
        spec = _inline(kind, {**rest, str(key): override.data}, place.removesuffix(f".{key}"), starts_of(None), cards)
        return replace(named, card=None, place=place, spec=spec)
    spec = copy.deepcopy(named.spec)
    here, path = spec, [key, *inner]
    for part in path[:-1]:
        if not isinstance(here.get(str(part)), dict):
            here[str(part)] = {}
        here = here[str(part)]
    here[str(path[-1])] = override.data
    return replace(named, spec=spec)


def names_another(kind: str, override: Document) -> bool:
    """Return whether `model.key=value` of the command line names what has no card, by a key that no card has.

    `model.id` and the like are keys of cards too: over a card's name they replace the card's own model.
    """
    _, *inner = override.inside
    return len(inner) == 1 and inner[0] in (("path",) if kind == "model" else WHERE[kind])


def starts_of(file: Path | None) -> list[Path]:
    """Return the folders where a relative path of a recipe may start; of the command line (None), the working one."""
    return [Path.cwd()] if file is None else model_paths.starts_of(file)


def make(named: Meant) -> MadeCard:
    """Return the card that is made for a name. Raises RecipeError with the place and what was tried.

    The same name gives the same card in a process: a sweep asks for it at each of its runs.
    """
    if is_whole(named.kind, named.spec):
        return MadeCard(card={}, notes=(f"the {named.kind} card is written in the recipe itself",))
    _check_folder(named)
    key = json.dumps([named.kind, named.spec, _signature(named.spec)], sort_keys=True, default=str)
    if key not in _made:
        try:
            _made[key] = _make(named)
        except ModuleNotFoundError as error:
            if error.name not in (*MAKERS.values(), LM_EVAL_MAKER):
                raise
            raise RecipeError(f"{named.place}: {named.shown!r} has no card, and none can be made of it") from error
        except BenchError as error:
            head = f"{named.place}." if isinstance(error, WrongKeys) else f"{named.place}: "
            said = str(error) if isinstance(error, WrongKeys) else f"{error}{named.beside}"
            raise RecipeError("\n".join(f"{head}{line}" for line in said.splitlines())) from error
        except Exception as error:  # so that the other problems of the recipe are told too
            first = (str(error).splitlines() or [""])[0]
            raise RecipeError(
                f"{named.place}: no card could be made of {named.shown!r}: {type(error).__name__}: {first:.200}"
            ) from error
    return _made[key]


def _check_folder(named: Meant) -> None:
    """Raise RecipeError for a mapping that says twice where its data are."""
    source = named.spec.get("source")
    where = next((key for key in WHERE[named.kind] if key in named.spec), None)
    if where is not None and isinstance(source, Mapping) and source.get("folder") is not None:
        raise RecipeError(
            f"{named.place}: `{where}` says where the data are, and so does `source.folder`; remove one of them "
            "(`source.files` beside a `path` says which files of it are which split)"
        )


def _make(named: Meant) -> MadeCard:
    spec = copy.deepcopy(named.spec)
    if LM_EVAL in spec:
        name = f"{LM_EVAL}:{spec[LM_EVAL]}"
        card = importlib.import_module(LM_EVAL_MAKER).make(name)
        return MadeCard(card=card, notes=(f"the dataset card was made from the task {name} of lm-evaluation-harness",))
    made: MadeCard = importlib.import_module(MAKERS[named.kind]).make(spec)
    return made


def _signature(spec: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return the sizes and times of the files of a local path, so that a changed one is read again."""
    if not spec.get("path"):
        return []
    path = Path(spec["path"])
    files = sorted(path.glob("*")) if path.is_dir() else [path]
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]


def fill_family(layers: Layers) -> None:
    """Put a model's family, read from its config or its architecture, where its card does not say it.

    Raises RecipeError where it can't be read.
    """
    card = layers.get(("model",))
    if not isinstance(card, dict) or card.get("family") is not None:
        return
    known = any(isinstance(card.get(key), str) for key in ("id", "package")) or card.get("architecture")
    if not known or any(nearest(key, ["family"]) for key in card):
        return  # the card's own type says what is missing, or misspelt
    named = Meant(kind="model", place=layers.place(("model",)), spec={k: v for k, v in card.items() if v is not None})
    try:
        card["family"] = make(named).card["family"]
    except RecipeError as error:
        card["family"] = "decoder"  # so that the other keys are checked too
        raise RecipeError(f"{error}; or write `family: encoder`, decoder or encoder_decoder") from error
    layers.places[("model", "family")] = layers.places.get(("model",), ("", ()))


def class_refusal(made: MadeCard, family: str, auto_class: str) -> str | None:
    """Return why the model of a made card can't get the head of a task, or None."""
    if made.model_type is None:
        return None
    refused: str | None = importlib.import_module(MAKERS["model"]).refusal(made.model_type, family, auto_class)
    return refused


def forget() -> None:
    """Forget all cards that were made in this process."""
    _made.clear()


def document(named: Meant) -> Document:
    """Return what stands for the file of a made card in messages."""
    return Document("", f"card made from {named.shown}", numbered=False)


def as_read(value: Any) -> Any:
    """Return a made card's value as the YAML reader gives it: sequences are tuples."""
    if isinstance(value, Mapping):
        return {key: as_read(inner) for key, inner in value.items()}
    return tuple(as_read(inner) for inner in value) if isinstance(value, list | tuple) else value


def replaces(kind: str, key: str) -> bool:
    """Return whether a key of an inline mapping replaces the made card's value: it is not what the card is found by.

    An unknown key does, so that the card's type refuses it.
    """
    return key not in FINDS[kind]


def found_by(kind: str) -> tuple[str, ...]:
    """Return the keys of an inline mapping that its model or data are found by."""
    return tuple(dict.fromkeys((*WHERE[kind], *FINDS[kind])))


def shown(spec: Mapping[str, Any]) -> str:
    """Return a model or data set as a person would write it, without the machine's folders."""
    if spec.get("path"):
        return Path(spec["path"]).name or str(spec["path"])
    name = next((str(spec[key]) for key in ("id", "package") if spec.get(key)), "")
    scheme = f"{LM_EVAL}:{Path(spec[LM_EVAL]).name}" if LM_EVAL in spec else ""
    config = f":{spec['config']}" if spec.get("config") else ""
    revision = f"@{spec['revision']}" if spec.get("revision") else ""
    return f"{name}{config}{revision}" if name else scheme or _model_type(spec) or "an architecture"


def short_name(spec: Mapping[str, Any]) -> str:
    """Return the last part of a name, as part of the names of runs and folders."""
    if spec.get("path"):
        path = Path(spec["path"])
        stem = path.name
        while path.is_file() and stem.endswith(DATA_SUFFIXES):
            stem = stem.rpartition(".")[0]
        return safe_name(stem)
    parts = [str(spec.get("id") or spec.get("package") or spec.get(LM_EVAL) or "").rpartition("/")[2]]
    parts[0] = parts[0].removesuffix(".yaml").removesuffix(".yml")
    parts += [str(spec["config"])] if spec.get("config") else []
    if not parts[0]:
        parts = [_model_type(spec) or "inline"]
    return safe_name("-".join(parts))


def _model_type(spec: Mapping[str, Any]) -> str | None:
    architecture = spec.get("architecture")
    return (
        str(architecture["model_type"]) if isinstance(architecture, dict) and architecture.get("model_type") else None
    )


def safe_name(text: str) -> str:
    """Return a text as a name of files: letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:80] or "unnamed"
