"""Pushes a run's saved model, and records of runs, to the Hugging Face Hub; only when asked, never by a run itself.

    python -m bench push RUN --to owner/name [--private]
    python -m bench push RUN... --records-to owner/dataset [--with-predictions]
    python -m bench push RUN --to owner/name --dry-run --out FOLDER

A repository's files are changed by one commit or not at all. Loads no torch.
"""

import dataclasses
import http
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id
from pydantic_core import PydanticSerializationError
from safetensors import SafetensorError, safe_open

from bench import console
from bench.analysis import accessors, predictions
from bench.errors import BenchError, DataError, SetupError
from bench.records import store
from bench.records.record import Record
from bench.reporting import cells, run_page
from bench.reporting import markdown as md
from bench.reporting.hub import cards, redact
from bench.utils import numbers

# What `save` and the tokenizers write. Anything else is refused, above all a pickle, which runs code when it is loaded.
WEIGHTS = ".safetensors"
ALLOWED = (WEIGHTS, ".json", ".jinja", ".txt", ".model", ".md")
# Beginnings of a pickle and of PyTorch's zipped one: a name says nothing about what is inside.
PICKLES = (b"\x80", b"PK\x03\x04")
# Other people's words, among which a path is no trace of this machine.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
# Where libraries keep the place that something was loaded from.
PLACES = ("_name_or_path", "name_or_path", "base_model_name_or_path", "id")
LOGIN = "log in with `hf auth login` (`huggingface-cli login` in older versions), or set HF_TOKEN"
HINTS = {
    401: f"the token is not accepted; {LOGIN}",
    403: "the token may not write there; it needs the `write` permission for this owner",
    404: "there is no such owner or repository, or the token can't see it",
    409: "somebody else is changing it; try again",
    412: "it was changed meanwhile; try again",
    413: "it is too large",
    429: "too many requests; wait, and try again",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be pushed. to: the model's repository; records_to: the data set of records; each as owner/name."""

    runs: Sequence[Path]
    to: str | None = None
    records_to: str | None = None
    private: bool = False
    with_predictions: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upload:
    """What one repository gets. files: path in the repository -> content, or the file that holds it."""

    repo: str
    kind: Literal["model", "dataset"]
    files: dict[str, bytes | Path]
    message: str

    @property
    def shown(self) -> str:
        """As messages name it."""
        return f"the {'data set' if self.kind == 'dataset' else 'model'} {self.repo}"


def gather(asked: Asked, token: str | None = None) -> list[Upload]:
    """Everything that would be uploaded, checked: form of names, states of runs, kinds of files, secrets, paths.

    token: one more text that no file may hold. Raises BenchError for what can't or must not be pushed.
    """
    if asked.to is None and asked.records_to is None:
        raise BenchError("say where to push: --to owner/name for the model, --records-to owner/dataset for records")
    for name in filter(None, (asked.to, asked.records_to)):
        _check_name(name)
    if asked.to is not None and len(asked.runs) != 1:
        raise BenchError(f"one model goes into one repository: --to takes a single run, not {len(asked.runs)}")
    if asked.with_predictions and asked.records_to is None:
        raise BenchError("--with-predictions goes with --records-to: a model's repository gets no predictions")
    uploads = [_model(asked.runs[0], asked.to)] if asked.to else []
    uploads += [_records(asked.runs, asked.records_to, asked.with_predictions)] if asked.records_to else []
    for upload in uploads:
        for path, content in upload.files.items():
            if isinstance(content, bytes) and (found := redact.secret_in(content, token)):
                raise DataError(f"{path} for {upload.shown} holds what looks like {found}; nothing was uploaded")
    return uploads


def _check_name(name: str) -> None:
    try:
        validate_repo_id(name)
        valid = name.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise BenchError(f"{name!r} is no name of a repository: write owner/name, in letters, digits, - _ and .")


def _clean(folder: Path, *, with_texts: bool) -> Record:
    """A run's record without absolute paths, and without texts of the data set unless they are asked for.

    Raises DataError where the run's predictions deny what it says, and for a secret.
    """
    _refuse_links(folder / store.FILE, folder)
    record, paths = store.read(folder), redact.Paths()
    if denied := predictions.contradiction(folder / store.FILE, record):
        raise DataError(f"{denied}; nothing was uploaded")
    had_texts = bool(record.prompts and record.prompts.example)
    if record.prompts and not with_texts:
        record.prompts.example = ""
    # Now, since a secret with slashes in it would be shortened as if it were a path, and what is left be pushed.
    if found := redact.secret_in(_as_json(record)):
        raise DataError(f"{folder / store.FILE} holds what looks like {found}; nothing was uploaded")
    content = paths.shorten_all(json.loads(_as_json(record)))
    cleaned = Record.model_validate(content)
    if paths.found:
        cleaned.note(f"before it was pushed, {len(paths.found)} absolute paths in this record were shortened")
    if had_texts and not with_texts:
        cleaned.note("before it was pushed, the example of a prompt was left out: it holds texts of the data set")
    return cleaned


def _as_json(record: Record) -> bytes:
    try:
        return (record.model_dump_json(by_alias=True, indent=1) + "\n").encode()
    except PydanticSerializationError as error:
        raise DataError(f"the record {record.name!r:.200} can't be written as JSON: {error}") from error


def _model(run: Path, to: str) -> Upload:
    folder = run.parent if run.is_file() else run
    record = _clean(folder, with_texts=False)
    if record.status != "ok":
        raise DataError(f"{folder} ended as `{record.status}`, not `ok`; only a finished run's model is pushed")
    saved = folder / "model"
    _refuse_links(saved, folder)
    if not (saved / "bench.json").is_file():
        raise DataError(f"{saved} holds no saved model; the recipe needs `save: true`")
    files = _model_files(saved)
    description = json.loads((saved / "bench.json").read_text(encoding="utf-8"))
    labels = list(record.data.labels) if record.data else []
    own = isinstance(description, dict) and description.get("method") == record.method
    if not own or description.get("labels") != labels or not record.recipe.resolved:
        raise DataError(f"{saved} is not the model of {folder / store.FILE}: methods or labels differ")
    page = f"{constants.ENDPOINT}/{to}"
    card = cards.model_card(record, description, to, page, adapter="adapter_config.json" in files)
    files |= {"README.md": card.encode(), store.FILE: _as_json(record)}
    return Upload(repo=to, kind="model", files=files, message=f"Model of the run {cells.title(record)}")


def _model_files(saved: Path) -> dict[str, bytes | Path]:
    found: dict[str, bytes | Path] = {}
    for path in sorted(saved.rglob("*")):
        name = path.relative_to(saved).as_posix()
        _refuse_links(path, saved)
        if path.is_dir() or name == "README.md":  # peft writes a card of its own, with the base model's local path
            continue
        with path.open("rb") as stream:
            pickled = path.suffix != WEIGHTS and stream.read(4).startswith(PICKLES)
        if pickled or path.suffix not in ALLOWED:
            raise DataError(f"{path} is not pushed: beside text files, a model may hold only safetensors, no pickles")
        if path.suffix == WEIGHTS:
            _check_weights(path)
        found[name] = path if path.suffix == WEIGHTS else _without_places(path)
    if not any(name.endswith(WEIGHTS) for name in found):
        raise DataError(f"{saved} holds no {WEIGHTS} file, so there is no model to push")
    return found


def _refuse_links(path: Path, folder: Path) -> None:
    """Raises DataError for a file below a folder that is a link, or to which one leads."""
    for part in (path, *path.parents):
        if part == folder:
            return
        if part.is_symlink():
            raise DataError(f"{part} is a link, which may lead anywhere; put there what it leads to")


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, "numpy") as weights:
            empty = not list(weights.keys())
            said = json.dumps(weights.metadata() or {}).encode()
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a whole safetensors file: {error}") from error
    if empty:
        raise DataError(f"{path} holds no tensors")
    if found := redact.secret_in(said):
        raise DataError(f"the metadata of {path} hold what looks like {found}; nothing was uploaded")


def _without_places(path: Path) -> bytes:
    """A file's content, where the places that something was loaded from are shortened if they are absolute paths.

    Nothing else is touched, for a template must stay as it is: a home folder there is refused.
    """
    content = path.read_bytes()
    if path.suffix == ".model" or path.name in VOCABULARIES:
        return content
    if path.suffix == ".json":
        paths = redact.Paths()
        try:
            cleaned = _shorten_places(json.loads(content), paths)
            content = (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode() if paths.found else content
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not whole JSON: {error}") from error
    home = str(Path.home()).rstrip("/")
    if home and re.search(rf"(?<![\w.]){re.escape(home)}/\w".encode(), content):
        raise DataError(f"{path} names a file below your home folder, {home}; take that out first")
    return content


def _shorten_places(tree: Any, paths: redact.Paths) -> Any:
    if isinstance(tree, dict):
        return {
            key: paths.shorten(item) if key in PLACES and isinstance(item, str) else _shorten_places(item, paths)
            for key, item in tree.items()
        }
    return [_shorten_places(item, paths) for item in tree] if isinstance(tree, list) else tree


def _records(runs: Sequence[Path], to: str, with_predictions: bool) -> Upload:
    for path in runs:
        store.locate([path])  # each must hold one at least
    folders = sorted({path.parent.resolve() for path in store.locate(runs)})
    records: dict[str, Record] = {}
    files: dict[str, bytes | Path] = {}
    for folder in folders:
        name = re.sub(r"[^\w.-]+", "-", folder.name, flags=re.ASCII).lstrip(".")
        if not name or name in records:
            raise DataError(f"{folder}: two runs can't both be the folder {name!r} of a data set; rename one")
        records[name] = _clean(folder, with_texts=with_predictions)
        own = _run_files(folder, records[name], name, with_predictions)
        files |= {f"{name}/{path}": content for path, content in own.items()}
    card = cards.records_card(records, to, with_predictions=with_predictions)
    files["README.md"] = card.encode()
    return Upload(repo=to, kind="dataset", files=files, message=f"Records of {len(records)} runs")


def _run_files(folder: Path, record: Record, name: str, with_predictions: bool) -> dict[str, bytes]:
    files = {store.FILE: _as_json(record), "report.md": run_page.run_report(record, folder).encode()}
    rows = cards.score_rows(record, name)
    if rows:
        lines = [json.dumps({**row, "value": numbers.finite(row["value"])}, ensure_ascii=False) for row in rows]
        files["scores.jsonl"] = ("\n".join(lines) + "\n").encode()
    patterns = ["figures/*.png", "train_log.jsonl", *(["predictions/*.jsonl"] if with_predictions else [])]
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        _refuse_links(path, folder)
        files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return files


def write(uploads: Sequence[Upload], out: Path) -> list[Path]:
    """Writes what would be uploaded: `out`/models/owner/name, `out`/datasets/owner/name; returns these folders.

    Raises BenchError where `out` already holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BenchError(f"{out} is not an empty folder; give another --out")
    places = [out / f"{upload.kind}s" / upload.repo for upload in uploads]
    for upload, place in zip(uploads, places, strict=True):
        for name, content in upload.files.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)
    return places


def push(asked: Asked) -> Iterator[str]:
    """Uploads one repository after the other; yields each commit's address as soon as it is there.

    Raises BenchError, whose text never holds the token.
    """
    if constants.HF_HUB_OFFLINE:
        raise SetupError("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: take it away to push, or try --dry-run")
    token = None
    with _in_words("reading the Hub's token", None):
        token = get_token()
    if token is None:
        raise SetupError(f"there is no token of the Hugging Face Hub: {LOGIN}")
    uploads = gather(asked, token)
    if not console.is_live():
        disable_progress_bars()
    api = HfApi(token=token)
    with _in_words("asking the Hub whose token this is", token):
        who = api.whoami()
    if ((who.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise SetupError(f"the Hub's token may only read; make one that may write, then {LOGIN}")
    for upload in uploads:
        yield _commit(api, upload, asked.private, token)


def _commit(api: HfApi, upload: Upload, private: bool, token: str) -> str:
    with _in_words(f"making {upload.shown}", token):
        # None, not False: an organisation may have set that its new repositories are private.
        api.create_repo(upload.repo, repo_type=upload.kind, private=private or None, exist_ok=True)
        known = api.repo_info(upload.repo, repo_type=upload.kind)
    if private and not known.private:
        # The Hub ignores the wish where a repository is there already.
        raise SetupError(f"{upload.shown} is there already and is public; make it private first, or drop --private")
    present = [item.rfilename for item in getattr(known, "siblings", None) or []]
    stale = [name for name in present if name not in upload.files and _belongs(name, upload)]
    changes: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in stale]
    changes += [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in upload.files.items()
    ]
    with _in_words(f"uploading {upload.shown}", token), warnings.catch_warnings(record=True) as said:
        done = api.create_commit(
            upload.repo,
            changes,
            repo_type=upload.kind,
            commit_message=upload.message,
            parent_commit=known.sha,
        )
    for warning in said:
        console.complain(f"the Hub's library: {_one_line(str(warning.message), token)}")
    if stale:
        console.say(f"removed from {upload.shown}, since they belong to an earlier push: {', '.join(stale)}")
    return str(done.commit_url)


def _belongs(name: str, upload: Upload) -> bool:
    """Whether a file that only the Hub has is left from an earlier push, and would be taken for a part of this one."""
    if upload.kind == "model":
        weights = (WEIGHTS, ".bin", ".index.json")
        return name.endswith(weights) or name in ("config.json", "adapter_config.json", "bench.json")
    return "/" in name and any(path.startswith(f"{name.partition('/')[0]}/") for path in upload.files)


@contextmanager
def _in_words(what: str, token: str | None) -> Iterator[None]:
    """Whatever goes wrong inside becomes one sentence without secrets.

    Errors of every kind, and without their causes: texts of the library and of servers may quote a request, and so
    the token.
    """
    try:
        yield
    except Exception as error:
        # An upload of weights wraps the server's answer in an error of its own.
        answer = next((one for one in (error, error.__cause__) if isinstance(one, HfHubHTTPError)), None)
        reason = f"{error}" or type(error).__name__
        words = _answer_in_words(answer) if answer else f"{constants.ENDPOINT}: {reason}"
        raise SetupError(_one_line(f"{what} failed: {words}", token)) from None


def _answer_in_words(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    phrase = next((one.phrase for one in http.HTTPStatus if one == status), "an unknown status")
    hint = HINTS.get(status, "the Hub has a problem of its own; try again later" if status >= 500 else "")
    said = error.server_message and f"the server says: {error.server_message}"
    return f"HTTP {status} {phrase}" + "".join(f"; {text}" for text in (hint, said) if text)


def _one_line(text: str, token: str | None) -> str:
    return md.clean(redact.hide(text, token))[: accessors.LONG]
