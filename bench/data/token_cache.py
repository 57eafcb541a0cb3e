"""Tokens of a split, kept between runs: found by content, checked when read, and dropped when there are too many.

$BENCH_CACHE/tokens, else finetune-bench/tokens in the user's cache folder. Deleting it costs nothing but time.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

# Part of every key: what was written in another way is never read.
FORMAT = 1
# Four bytes a token: the 25,000 reviews of IMDB, cut to 256 tokens, take some 20 MiB, so this holds a hundred of them.
LIMIT_BYTES = 2 * 2**30
# Nobody writes for a day; a file of that age was left by a process that was killed.
ABANDONED_S = 24 * 3600
SUFFIX, TEMPORARY = ".tokens", ".writing"
# Bytes of the SHA-256 that an entry begins with; NumPy's npz follows.
CHECKSUM = 32

Features = list[dict[str, Any]]
Encode = Callable[[], tuple[Features, tuple[int, ...]]]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Features of a split's rows, and the numbers of the rows that were cut. hit: whether they had been kept."""

    features: Features
    cut: tuple[int, ...]
    hit: bool


def folder() -> Path:
    """Where tokens are kept. Raises RuntimeError where the user has no home."""
    if os.environ.get("BENCH_CACHE"):
        return Path(os.environ["BENCH_CACHE"]).expanduser() / "tokens"
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    # A relative path there is to be ignored (XDG Base Directory Specification).
    base = base if base.is_absolute() else Path("~/.cache")
    return base.expanduser() / "finetune-bench" / "tokens"


def identity(tokenizer: Any) -> tuple[str | None, str]:
    """(hash of all that decides which tokens a text gets, "") or (None, why this tokenizer can't be told by one)."""
    from transformers import PreTrainedTokenizerFast

    kind = type(tokenizer)
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or not kind.__module__.startswith("transformers."):
        return None, f"{kind.__name__} is not wholly described by its files"
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"].get("dropout"):
        return None, "its tokens are drawn anew each time"
    # Left over from the call before; each call sets its own.
    del state["truncation"], state["padding"]
    state["python"] = {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "special_ids": [tokenizer.all_special_ids, tokenizer.unk_token_id, tokenizer.pad_token_id],
        "split_special_tokens": [tokenizer.split_special_tokens, tokenizer.backend_tokenizer.encode_special_tokens],
        "sides": [tokenizer.padding_side, tokenizer.truncation_side],
        "inputs": list(tokenizer.model_input_names),
    }
    return _digest(state), ""


def key(fingerprint: str, tokenizer: str, max_length: int, sources: Iterable[Path]) -> str:
    """Name of an entry: all that decides what is in it. tokenizer: its `identity`."""
    return _digest(
        {
            "format": FORMAT,
            "rows": fingerprint,
            "tokenizer": tokenizer,
            "max_length": max_length,
            "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in sources],
            "versions": {name: importlib.metadata.version(name) for name in ("tokenizers", "transformers")},
        }
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def local_main_first(state: PartialState) -> Iterator[None]:
    """One process of each machine goes first, and the others follow, also when it failed.

    accelerate's own `local_main_process_first` leaves them waiting for a process that raised an error.
    """
    if not state.is_local_main_process:
        state.wait_for_everyone()
        yield
        return
    try:
        yield
    except Exception:  # one that was interrupted ends at once, and its launcher ends the others
        state.wait_for_everyone()
        raise
    state.wait_for_everyone()


class TokenCache:
    """What one tokenizer made of texts, at one length. It never fails a run: `notes` say what was not kept or not read.

    sources: files whose code makes features of rows; a change in one of them is a change in all of its tokens.
    """

    def __init__(
        self, tokenizer: Any, max_length: int, sources: Sequence[Path], limit_bytes: int = LIMIT_BYTES
    ) -> None:
        self.max_length, self.sources, self.limit_bytes = max_length, sources, limit_bytes
        self.notes: list[str] = []
        self.tokenizer, reason = identity(tokenizer)
        try:
            self.place = folder()
        except RuntimeError as error:
            self.tokenizer, reason = None, _reason(error)
        if self.tokenizer is None:
            self.notes.append(f"token cache: not used ({reason})")

    @property
    def in_use(self) -> bool:
        """Whether anything is kept at all."""
        return self.tokenizer is not None

    def first(self, state: PartialState) -> contextlib.AbstractContextManager[None]:
        """`with cache.first(state):` One process of each machine makes the tokens, the others read them."""
        return local_main_first(state) if self.in_use else contextlib.nullcontext()

    def tokens(self, fingerprint: str, num_rows: int, encode: Encode) -> Tokens:
        """The features of so many rows, read, or else made by `encode` and kept.

        fingerprint: of the rows' ids, texts and labels, in order.
        """
        if self.tokenizer is None:
            features, cut = encode()
            return Tokens(features=features, cut=cut, hit=False)
        path = self.place / f"{key(fingerprint, self.tokenizer, self.max_length, self.sources)}{SUFFIX}"
        found = self._read(path, num_rows)
        if found is not None:
            return found
        features, cut = encode()
        self._keep(path, features, cut)
        return Tokens(features=features, cut=cut, hit=False)

    def _read(self, path: Path, num_rows: int) -> Tokens | None:
        try:
            if not path.is_file():
                return None
            features, cut = _load(path, num_rows)
        except (OSError, ValueError) as error:
            self.notes.append(f"token cache: an entry can't be read ({_reason(error)}); its texts were tokenised again")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used go first
        return Tokens(features=features, cut=cut, hit=True)

    def _keep(self, path: Path, features: Features, cut: tuple[int, ...]) -> None:
        try:
            columns = _columns(features, cut)
            size = sum(column.nbytes for column in columns.values())
            if size > self.limit_bytes:
                raise ValueError(f"{size / 2**30:.1f} GiB are more than all entries may have")
            self.place.mkdir(parents=True, exist_ok=True, mode=0o700)  # tokens are texts, perhaps private ones
            _write(path, columns)
            self._make_room(path)
        except (OSError, ValueError) as error:
            self.notes.append(f"token cache: tokens can't be kept ({_reason(error)})")

    def _make_room(self, newest: Path) -> None:
        """Drops what was used longest ago until the rest is within the limit."""
        sizes: dict[Path, tuple[float, int]] = {}
        for path in self.place.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another run makes room, too
                known = path.stat()
                if path.suffix == TEMPORARY and time.time() - known.st_mtime > ABANDONED_S:
                    path.unlink()
                elif path.suffix == SUFFIX:
                    sizes[path] = (known.st_mtime, known.st_size)
        total, dropped = sum(size for _, size in sizes.values()), 0
        for path in sorted(set(sizes) - {newest}, key=lambda path: (sizes[path], path.name)):
            if total <= self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= sizes[path][1]
            dropped += 1
        if dropped:
            limit = f"{self.limit_bytes / 2**30:.3g} GiB"
            self.notes.append(
                f"token cache: {dropped} entries, the least recently used, were dropped to stay in {limit}"
            )


def _reason(error: BaseException) -> str:
    """Without the path, which says more about the machine than about the error."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _columns(features: Features, cut: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Features as arrays: `feature/<name>` holds all values, `ends/<name>` where each row's end, if it has several.

    Raises ValueError for features that are not the same whole numbers, or rows of them, for each row.
    """
    columns = {"cut": np.array(cut, dtype=np.int64)}
    if any(feature.keys() != features[0].keys() for feature in features):
        raise ValueError("not all rows have the same features")
    for name in features[0] if features else ():
        values: list[Any] = [feature[name] for feature in features]
        if all(isinstance(row, list) for row in values):
            columns[f"ends/{name}"] = np.cumsum([len(row) for row in values])
            values = list(itertools.chain.from_iterable(values))
        if not set(map(type, values)) <= {int}:
            raise ValueError(f"the feature {name!r} is not made of whole numbers")
        columns[f"feature/{name}"] = np.array(values, dtype=np.int64)
    return {name: _narrowed(column) for name, column in columns.items()}


def _narrowed(column: np.ndarray) -> np.ndarray:
    fits = column.size == 0 or np.abs(column).max() < 2**31
    return column.astype(np.int32 if fits else np.int64)


def _write(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Whole or not at all: under another name first."""
    content = io.BytesIO()
    np.savez(content, **columns)  # type: ignore[arg-type]
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem[:16]}-", suffix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(hashlib.sha256(content.getbuffer()).digest())
            stream.write(content.getbuffer())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _load(path: Path, num_rows: int) -> tuple[Features, tuple[int, ...]]:
    """Raises ValueError or OSError for a file that is not what was written."""
    content = memoryview(path.read_bytes())
    # A bit that changed on the disk would be another token.
    if hashlib.sha256(content[CHECKSUM:]).digest() != content[:CHECKSUM]:
        raise ValueError("its checksum is another one")
    with np.load(io.BytesIO(content[CHECKSUM:]), allow_pickle=False) as archive:
        columns = {name: archive[name] for name in archive.files}
    names = [name.removeprefix("feature/") for name in columns if name.startswith("feature/")]
    rows = [_rows(columns[f"feature/{name}"], columns.get(f"ends/{name}"), num_rows) for name in names]
    if not names:
        raise ValueError("it holds no features")
    cut = tuple(columns["cut"].tolist())
    return [dict(zip(names, values, strict=True)) for values in zip(*rows, strict=True)], cut


def _rows(column: np.ndarray, ends: np.ndarray | None, num_rows: int) -> list[Any]:
    values = column.tolist()
    if ends is not None:
        starts = [0, *ends.tolist()]
        if starts[-1] != len(values) or (np.diff(starts) < 0).any():
            raise ValueError("its rows do not fit its values")
        values = [values[start:end] for start, end in itertools.pairwise(starts)]
    if len(values) != num_rows:
        raise ValueError(f"it holds {len(values)} rows instead of {num_rows}")
    return values
