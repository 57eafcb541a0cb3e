"""Push a run's saved model, or records of runs, to the Hugging Face Hub; only by this command, never during a run.

    python -m bench push RUN --to owner/name [--private]
    python -m bench push RUN... --records-to owner/dataset [--with-predictions]
    python -m bench push RUN --to owner/name --dry-run --out FOLDER

All files of a repository change in one commit. Loads no torch.
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
from bench.analysis import accessors, disagreements, predictions, verify_beside
from bench.config import without_model
from bench.errors import BenchError, DataError, SetupError
from bench.records import store
from bench.records.record import Record
from bench.reporting import cells, run_page
from bench.reporting import markdown as md
from bench.reporting.hub import cards, redact
from bench.utils import numbers
from bench.utils.files import open_regular, read_bytes

# Written by `save` and by tokenizers. Anything else is refused, above all pickles, which run code when loaded.
WEIGHTS = ".safetensors"
ALLOWED = (WEIGHTS, ".json", ".jinja", ".txt", ".model", ".md")
# First bytes of a pickle and of PyTorch's zipped one: a file's name does not determine its content.
PICKLES = (b"\x80", b"PK\x03\x04")
# What a sweep writes into its folder beside the runs, and where pages made of records go.
BESIDE_RUNS = ("logs", "choices.json", "array-*.txt", "*.md", "*.html", "*.png")
PAGES = ("report.md", "README.md")
# Vocabularies, in which a path is not one of this machine.
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
# Keys under which libraries store where something was loaded from.
PATH_FIELDS = ("_name_or_path", "name_or_path", "base_model_name_or_path", "id")
LOGIN = "log in with `hf auth login` (`huggingface-cli login` in older versions), or set HF_TOKEN"
HINTS = {
    401: f"the token was not accepted; {LOGIN}",
    403: "the token lacks `write` permission for this owner",
    404: "no such owner or repository, or the token can't access it",
    409: "a concurrent change is in progress; try again",
    412: "the repository changed meanwhile; try again",
    413: "the upload is too large",
    429: "too many requests; try again later",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushRequest:
    """Options of a push. to: repository of the model; records_to: data set of records; each as owner/name."""

    runs: Sequence[Path]
    to: str | None = None
    records_to: str | None = None
    private: bool = False
    with_predictions: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upload:
    """The upload to one repository. files: path in the repository -> content, or the local file."""

    repo: str
    kind: Literal["model", "dataset"]
    files: dict[str, bytes | Path]
    message: str

    @property
    def shown(self) -> str:
        """The repository as named in messages."""
        return f"the {'data set' if self.kind == 'dataset' else 'model'} {self.repo}"


def gather(request: PushRequest, token: str | None = None) -> list[Upload]:
    """Collect and check everything to upload: repository names, run status, file types, secrets, paths.

    token: also refused inside files. Raises BenchError for anything that can't or must not be pushed.
    """
    if request.to is None and request.records_to is None:
        raise BenchError(
            "no repository given: pass --to owner/name for the model, --records-to owner/dataset for records"
        )
    for name in filter(None, (request.to, request.records_to)):
        _check_name(name)
    if request.to is not None and len(request.runs) != 1:
        raise BenchError(f"--to takes a single run, got {len(request.runs)}: a repository holds one model")
    if request.with_predictions and request.records_to is None:
        raise BenchError("--with-predictions needs --records-to: a model repository holds no predictions")
    uploads = [_model(request.runs[0], request.to)] if request.to else []
    uploads += [_records(request.runs, request.records_to, request.with_predictions)] if request.records_to else []
    for upload in uploads:
        for path, content in upload.files.items():
            if isinstance(content, bytes) and (secret := redact.find_secret(content, token)):
                raise DataError(f"{path} for {upload.shown} contains what looks like {secret}; nothing was uploaded")
    return uploads


def _check_name(name: str) -> None:
    try:
        validate_repo_id(name)
        valid = name.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise BenchError(f"invalid repository name {name!r}: expected owner/name of letters, digits, - _ and .")


def shareable_record(folder: Path, *, with_texts: bool = False) -> Record:
    """Return a run's record without absolute paths and, unless requested, without texts of the data set.

    Raises DataError where the predictions contradict the record, for a secret, and where the texts of a data set that
    may not be quoted are requested.
    """
    _refuse_links(folder / store.FILE, folder)
    record, paths = store.read(folder), redact.PathShortener()
    path = folder / store.FILE
    contradiction = predictions.find_contradiction(path, record) or verify_beside.find_contradiction(path, record)
    if contradiction:
        raise DataError(f"{contradiction}; nothing was uploaded")
    if with_texts and (hidden := disagreements.why_hidden(record)):
        if disagreements.task_of(record) in disagreements.TEXT_ANSWERS:
            raise DataError(f"{folder}: {hidden}, and its predictions are texts; push without --with-predictions")
        with_texts = False
    had_texts = bool(record.prompts and record.prompts.example)
    if record.prompts and not with_texts:
        record.prompts.example = ""
    # Before shortening: a secret that contains slashes would be shortened like a path, and its end be pushed.
    if secret := redact.find_secret(_as_json(record)):
        raise DataError(f"{folder / store.FILE} contains what looks like {secret}; nothing was uploaded")
    content = paths.shorten_all(json.loads(_as_json(record)))
    cleaned = Record.model_validate(content)
    if paths.shortened:
        cleaned.note(f"{len(paths.shortened)} absolute paths in this record were shortened before the push")
    if had_texts and not with_texts:
        cleaned.note("the example prompt was removed before the push, since it contains texts of the data set")
    return cleaned


def _as_json(record: Record) -> bytes:
    try:
        return (record.model_dump_json(by_alias=True, indent=1) + "\n").encode()
    except PydanticSerializationError as error:
        raise DataError(f"the record {record.name!r:.200} can't be serialised as JSON: {error}") from error


def _model(run: Path, to: str) -> Upload:
    folder = run.parent if run.is_file() else run
    record = shareable_record(folder, with_texts=False)
    if record.status != "ok":
        raise DataError(f"{folder} has status `{record.status}`, not `ok`; only models of completed runs are pushed")
    if not without_model.uses_model(record.method):
        raise DataError(f"{folder} has no model of a library to push: method {record.method!r} is fitted on words")
    saved = folder / "model"
    _refuse_links(saved, folder)
    if not (saved / "bench.json").is_file():
        raise DataError(f"{saved} contains no saved model; set `save: true` in the recipe")
    files = _model_files(saved)
    description = json.loads((saved / "bench.json").read_text(encoding="utf-8"))
    labels = list(record.data.labels) if record.data else []
    own = isinstance(description, dict) and description.get("method") == record.method
    if not own or description.get("labels") != labels or not record.recipe.resolved:
        raise DataError(f"{saved} is not the model of {folder / store.FILE}: method or labels differ")
    page = f"{constants.ENDPOINT}/{to}"
    card = cards.model_card(record, description, to, page, adapter="adapter_config.json" in files)
    files |= {"README.md": card.encode(), store.FILE: _as_json(record)}
    return Upload(repo=to, kind="model", files=files, message=f"Model of the run {cells.title(record)}")


def _model_files(saved: Path) -> dict[str, bytes | Path]:
    files: dict[str, bytes | Path] = {}
    for path in sorted(saved.rglob("*")):
        name = path.relative_to(saved).as_posix()
        _refuse_links(path, saved)
        if path.is_dir() or name == "README.md":  # peft's card, which names the base model's local path
            continue
        with open_regular(path) as stream:
            pickled = path.suffix != WEIGHTS and stream.read(4).startswith(PICKLES)
        if pickled or path.suffix not in ALLOWED:
            raise DataError(f"{path} can't be pushed: a model may contain only safetensors and text files, no pickles")
        if path.suffix == WEIGHTS:
            _check_weights(path)
        files[name] = path if path.suffix == WEIGHTS else _without_absolute_paths(path)
    if not any(name.endswith(WEIGHTS) for name in files):
        raise DataError(f"{saved} contains no {WEIGHTS} file, so there is no model to push")
    return files


def _refuse_links(path: Path, folder: Path) -> None:
    """Raise DataError if a path or one of its parents below `folder` is a symbolic link."""
    for part in (path, *path.parents):
        if part == folder:
            return
        if part.is_symlink():
            raise DataError(f"{part} is a symbolic link, which may point anywhere; replace it by its target")


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, "numpy") as weights:
            empty = not list(weights.keys())
            metadata = json.dumps(weights.metadata() or {}).encode()
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a complete safetensors file: {error}") from error
    if empty:
        raise DataError(f"{path} contains no tensors")
    if secret := redact.find_secret(metadata):
        raise DataError(f"the metadata of {path} contain what looks like {secret}; nothing was uploaded")


def _without_absolute_paths(path: Path) -> bytes:
    """Return a file's content with absolute paths under PATH_FIELDS shortened.

    Nothing else changes, since a template must stay intact. Raises DataError for a path below the home folder
    elsewhere.
    """
    content = read_bytes(path)
    if path.suffix == ".model" or path.name in VOCABULARIES:
        return content
    if path.suffix == ".json":
        paths = redact.PathShortener()
        try:
            cleaned = _shorten_path_fields(json.loads(content), paths)
            content = (
                (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode() if paths.shortened else content
            )
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not valid JSON: {error}") from error
    home = str(Path.home()).rstrip("/")
    if home and re.search(rf"(?<![\w.]){re.escape(home)}/\w".encode(), content):
        raise DataError(f"{path} names a file below your home folder {home}; remove it before pushing")
    return content


def _shorten_path_fields(tree: Any, paths: redact.PathShortener) -> Any:
    if isinstance(tree, dict):
        return {
            key: paths.shorten(item)
            if key in PATH_FIELDS and isinstance(item, str)
            else _shorten_path_fields(item, paths)
            for key, item in tree.items()
        }
    return [_shorten_path_fields(item, paths) for item in tree] if isinstance(tree, list) else tree


def _records(runs: Sequence[Path], to: str, with_predictions: bool) -> Upload:
    kept = [path for path in runs if len(runs) == 1 or not _is_beside_runs(path)]
    for path in (path for path in runs if path not in kept):
        console.say(f"passed over: {path} is not a run, but what a sweep or a report keeps beside runs")
    runs = kept or runs
    for path in runs:
        store.locate([path])  # raises for a path without any record
    folders = sorted({path.parent.resolve() for path in store.locate(runs)})
    records: dict[str, Record] = {}
    files: dict[str, bytes | Path] = {}
    for folder in folders:
        name = re.sub(r"[^\w.-]+", "-", folder.name, flags=re.ASCII).lstrip(".")
        if not name or name in records:
            raise DataError(f"{folder}: another run already uses the folder name {name!r} in the data set; rename one")
        records[name] = shareable_record(folder, with_texts=with_predictions)
        own = _run_files(folder, records[name], name, with_predictions)
        files |= {f"{name}/{path}": content for path, content in own.items()}
    card = cards.records_card(records, to, with_predictions=with_predictions)
    files["README.md"] = card.encode()
    return Upload(repo=to, kind="dataset", files=files, message=f"Records of {len(records)} runs")


def _is_beside_runs(path: Path) -> bool:
    """Return whether a path is of those that `sw/*` names as well: a sweep's logs and tuning trials, and pages."""
    if path.is_dir():
        holds_none = path.name in BESIDE_RUNS or any((path / name).is_file() for name in PAGES)
        return (path / store.TRIALS_MARK).exists() or (holds_none and not store.find([path]))
    return any(path.match(pattern) for pattern in BESIDE_RUNS)


def _run_files(folder: Path, record: Record, name: str, with_predictions: bool) -> dict[str, bytes]:
    files = {
        store.FILE: _as_json(record),
        "report.md": run_page.run_report(record, folder, texts_from="nowhere").encode(),
    }
    rows = cards.score_rows(record, name)
    if rows:
        lines = [json.dumps({**row, "value": numbers.finite(row["value"])}, ensure_ascii=False) for row in rows]
        files["scores.jsonl"] = ("\n".join(lines) + "\n").encode()
    patterns = ["figures/*.png", "train_log.jsonl", *(["predictions/*.jsonl"] if with_predictions else [])]
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        _refuse_links(path, folder)
        files[path.relative_to(folder).as_posix()] = read_bytes(path)
    return files


def write(uploads: Sequence[Upload], out: Path) -> list[Path]:
    """Write the uploads to `out`/models/owner/name and `out`/datasets/owner/name; return these folders.

    Raises BenchError if `out` is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BenchError(f"{out} is not an empty folder; pass another --out")
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


def push(request: PushRequest) -> Iterator[str]:
    """Upload one repository after the other; yield each commit's URL.

    Raises BenchError; its message never contains the token.
    """
    if constants.HF_HUB_OFFLINE:
        raise SetupError("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: unset it to push, or pass --dry-run")
    token = None
    with _as_setup_error("reading the Hub token", None):
        token = get_token()
    if token is None:
        raise SetupError(f"no Hugging Face Hub token found: {LOGIN}")
    uploads = gather(request, token)
    if not console.is_live():
        disable_progress_bars()
    api = HfApi(token=token)
    with _as_setup_error("checking the Hub token", token):
        who = api.whoami()
    if ((who.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise SetupError(f"the Hub token is read-only; create a token with `write` permission, then {LOGIN}")
    for upload in uploads:
        yield _commit(api, upload, request.private, token)


def _commit(api: HfApi, upload: Upload, private: bool, token: str) -> str:
    with _as_setup_error(f"creating {upload.shown}", token):
        # None, not False: an organisation's default may be private repositories.
        api.create_repo(upload.repo, repo_type=upload.kind, private=private or None, exist_ok=True)
        known = api.repo_info(upload.repo, repo_type=upload.kind)
    if private and not known.private:
        # The Hub ignores `private` for an existing repository.
        raise SetupError(f"{upload.shown} already exists and is public; make it private first, or omit --private")
    present = [item.rfilename for item in getattr(known, "siblings", None) or []]
    stale = [name for name in present if name not in upload.files and _belongs(name, upload)]
    changes: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in stale]
    changes += [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in upload.files.items()
    ]
    with _as_setup_error(f"uploading {upload.shown}", token), warnings.catch_warnings(record=True) as caught:
        done = api.create_commit(
            upload.repo,
            changes,
            repo_type=upload.kind,
            commit_message=upload.message,
            parent_commit=known.sha,
        )
    for warning in caught:
        console.complain(f"huggingface_hub: {_one_line(str(warning.message), token)}")
    if stale:
        console.say(f"removed files of an earlier push from {upload.shown}: {', '.join(stale)}")
    return str(done.commit_url)


def _belongs(name: str, upload: Upload) -> bool:
    """Return whether a file on the Hub is left from an earlier push and would look like part of this one."""
    if upload.kind == "model":
        weights = (WEIGHTS, ".bin", ".index.json")
        return name.endswith(weights) or name in ("config.json", "adapter_config.json", "bench.json")
    return "/" in name and any(path.startswith(f"{name.partition('/')[0]}/") for path in upload.files)


@contextmanager
def _as_setup_error(what: str, token: str | None) -> Iterator[None]:
    """Convert any exception into a SetupError of one sentence without secrets.

    Of any type, and without its cause: messages of the library and of servers may quote a request and so the token.
    """
    try:
        yield
    except Exception as error:
        # An upload of weights wraps the server's response in another error.
        answer = next((one for one in (error, error.__cause__) if isinstance(one, HfHubHTTPError)), None)
        reason = f"{error}" or type(error).__name__
        words = _describe_http_error(answer) if answer else f"{constants.ENDPOINT}: {reason}"
        raise SetupError(_one_line(f"{what} failed: {words}", token)) from None


def _describe_http_error(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    phrase = next((one.phrase for one in http.HTTPStatus if one == status), "an unknown status")
    hint = HINTS.get(status, "try again later" if status >= 500 else "")
    message = error.server_message and f"server message: {error.server_message}"
    return f"HTTP {status} {phrase}" + "".join(f"; {text}" for text in (hint, message) if text)


def _one_line(text: str, token: str | None) -> str:
    return md.clean(redact.remove_secrets(text, token))[: accessors.MAX_CHARACTERS]
