"""Cached tokenization: features of a split on disk, keyed by content, signed, with a limit of bytes.

In $BENCH_CACHE/tokens, else finetune-bench/tokens in the user's cache folder. Deleting it costs nothing but time. An
entry is read where it has its own name and this person's signature, from a folder that nobody else can write.
The cache of `datasets.map` is as fast, but has no signature and no limit, and its key does not change with the code of
an imported function, so that it returns what older code made.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import itertools
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from accelerate import PartialState

from bench.data.examples import Feature
from bench.errors import SetupError
from bench.utils import files, signing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Part of every key: entries in another format are never read.
FORMAT = 2
# Four bytes a token: the 25,000 reviews of IMDB, cut to 256 tokens, take some 20 MiB, so this holds a hundred of them.
LIMIT_BYTES = 2 * 2**30
# No write takes a day; a temporary file of that age was left by a process that was killed.
ABANDONED_S = 24 * 3600
SUFFIX, TEMPORARY = ".tokens", ".writing"
# Bytes of the signature at the start of an entry, a HMAC-SHA256; NumPy's npz follows.
SIGNATURE_BYTES = 32
_PURPOSE = "tokens"

Features = list[Feature]
Encode = Callable[[], tuple[Features, tuple[int, ...]]]
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Features of a split's rows, and the numbers of the truncated rows. hit: they were read from the cache."""

    features: Features
    cut: tuple[int, ...]
    hit: bool


def folder() -> Path:
    """Return the folder of the cache. Raises RuntimeError where the user has no home."""
    if os.environ.get("BENCH_CACHE"):
        return Path(os.environ["BENCH_CACHE"]).expanduser() / "tokens"
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    # A relative path there is to be ignored (XDG Base Directory Specification).
    base = base if base.is_absolute() else Path("~/.cache")
    return base.expanduser() / "finetune-bench" / "tokens"


def identity(tokenizer: "PreTrainedTokenizerBase") -> tuple[str | None, str]:
    """Return (hash of everything that decides a text's tokens, ""), or (None, why this tokenizer can't be hashed)."""
    from transformers import PreTrainedTokenizerFast

    kind = type(tokenizer)
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or not kind.__module__.startswith("transformers."):
        return None, f"{kind.__name__} is not fully described by its files"
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"].get("dropout"):
        return None, "its tokens are random (BPE dropout)"
    # State left by the previous call; each call sets its own.
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
    """Return the name of an entry, a hash of everything that decides its content. tokenizer: its `identity`."""
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


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def local_main_first(state: PartialState) -> Iterator[None]:
    """Let one process of each machine go first, and the others follow, also when it failed.

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
    """Cached tokenization by one tokenizer at one length. It never fails a run: `notes` say what could not be cached.

    sources: files whose code turns rows into features; a change in one of them changes the key of every entry.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int,
        sources: Sequence[Path],
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self.max_length, self.sources, self.limit_bytes = max_length, sources, limit_bytes
        self.notes: list[str] = []
        self.tokenizer, reason = identity(tokenizer)
        try:
            self.place = folder()
            if self.tokenizer is not None and (problem := _find_strangers(self.place)):
                self.tokenizer, reason = None, problem
        except RuntimeError as error:
            self.tokenizer, reason = None, _reason(error)
        if self.tokenizer is None:
            self.notes.append(f"token cache: not used ({reason})")

    @property
    def in_use(self) -> bool:
        """Return whether this tokenizer's tokens are cached."""
        return self.tokenizer is not None

    def first(self, state: PartialState) -> contextlib.AbstractContextManager[None]:
        """Return a context in which one process of each machine tokenizes first, and the others read its tokens."""
        return local_main_first(state) if self.in_use else contextlib.nullcontext()

    def tokens(self, fingerprint: str, num_rows: int, encode: Encode) -> Tokens:
        """Return the features of so many rows, read from the cache, or else made by `encode` and written to it.

        fingerprint: of the rows' ids, texts and labels, in order.
        """
        if self.tokenizer is None:
            features, cut = encode()
            return Tokens(features=features, cut=cut, hit=False)
        path = self.place / f"{key(fingerprint, self.tokenizer, self.max_length, self.sources)}{SUFFIX}"
        cached = self._read(path, num_rows)
        if cached is not None:
            return cached
        features, cut = encode()
        self._write(path, features, cut)
        return Tokens(features=features, cut=cut, hit=False)

    def _read(self, path: Path, num_rows: int) -> Tokens | None:
        try:
            features, cut = _load(path, num_rows)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            self.notes.append(f"token cache: an entry can't be read ({_reason(error)}); its texts were tokenized again")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used go first
        return Tokens(features=features, cut=cut, hit=True)

    def _write(self, path: Path, features: Features, cut: tuple[int, ...]) -> None:
        try:
            columns = _columns(features, cut)
            size = sum(column.nbytes for column in columns.values())
            if size > self.limit_bytes:
                raise ValueError(f"{size / 2**30:.1f} GiB exceed the limit of the whole cache")
            self.place.mkdir(parents=True, exist_ok=True, mode=0o700)  # tokens are texts, perhaps private ones
            _write_file(path, columns)
            self._evict(path)
        except (OSError, ValueError, SetupError) as error:
            self.notes.append(f"token cache: tokens can't be written ({_reason(error)})")

    def _evict(self, newest: Path) -> None:
        """Delete the least recently used entries until the rest is within the limit."""
        sizes: dict[Path, tuple[float, int]] = {}
        for path in self.place.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another run evicts, too
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


def _find_strangers(place: Path) -> str | None:
    """Return how others could write into the cache; None where they can't, or where it is not there yet."""
    for path in (place, place.parent):
        try:
            status = path.stat()
        except OSError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            continue  # which is said when it is to be written
        if status.st_uid != os.geteuid() and (path == place or status.st_uid != 0):
            return "its folder belongs to another user"
        # A sticky folder, such as /tmp, lets nobody replace what is another's. A group may be that of one user alone.
        shared = status.st_mode & (0o022 if path == place else 0o002)
        if shared and (path == place or not status.st_mode & stat.S_ISVTX):
            return "its folder can be written by others; chmod go-w it"
    return None


def _signed_content(path: Path, features: memoryview) -> bytes:
    return path.name.encode() + hashlib.sha256(features).digest()


def _reason(error: BaseException) -> str:
    """Return the message without the path, which says more about the machine than about the error."""
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _columns(features: Features, cut: tuple[int, ...]) -> dict[str, Integers]:
    """Return features as arrays: all values as `feature/<name>`, where each row's end as `ends/<name>`, for lists.

    Raises ValueError for features that are not the same whole numbers, or rows of them, for each row.
    """
    columns: dict[str, Integers] = {"cut": np.array(cut, dtype=np.int64)}
    if any(feature.keys() != features[0].keys() for feature in features):
        raise ValueError("not all rows have the same features")
    for name in features[0] if features else ():
        values: list[Any] = [feature[name] for feature in features]
        if all(isinstance(row, list) for row in values):
            columns[f"ends/{name}"] = np.cumsum([len(row) for row in values])
            values = list(itertools.chain.from_iterable(values))
        if not set(map(type, values)) <= {int}:
            raise ValueError(f"the feature {name!r} has values that are not whole numbers")
        columns[f"feature/{name}"] = np.array(values, dtype=np.int64)
    return {name: _narrowed(column) for name, column in columns.items()}


def _narrowed(column: Integers) -> Integers:
    fits = column.size == 0 or np.abs(column).max() < 2**31
    return column.astype(np.int32 if fits else np.int64)


def _write_file(path: Path, columns: dict[str, Integers]) -> None:
    """Write the whole file or none, under a temporary name first."""
    content = io.BytesIO()
    np.savez(content, **columns)  # type: ignore[arg-type]
    signature = bytes.fromhex(signing.sign(_PURPOSE, _signed_content(path, content.getbuffer())))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem[:16]}-", suffix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(signature)
            stream.write(content.getbuffer())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _load(path: Path, num_rows: int) -> tuple[Features, tuple[int, ...]]:
    """Read an entry. Raises ValueError or OSError for a file that is not what was written."""
    with files.open_regular(path, files.LIMIT_BYTES, follow=False) as stream:
        content = memoryview(stream.read())
    # A bit that changed on the disk would be another token, and so would an entry under the name of another.
    signature, features = content[:SIGNATURE_BYTES].hex(), content[SIGNATURE_BYTES:]
    if not signing.is_signed(_PURPOSE, _signed_content(path, features), signature):
        raise ValueError("its signature does not match")
    with np.load(io.BytesIO(features), allow_pickle=False) as archive:
        columns = {name: archive[name] for name in archive.files}
    names = [name.removeprefix("feature/") for name in columns if name.startswith("feature/")]
    rows = [_rows(columns[f"feature/{name}"], columns.get(f"ends/{name}"), num_rows) for name in names]
    if not names:
        raise ValueError("it holds no features")
    cut = tuple(columns["cut"].tolist())
    return [dict(zip(names, values, strict=True)) for values in zip(*rows, strict=True)], cut


def _rows(column: Integers, ends: Integers | None, num_rows: int) -> list[Any]:
    values: list[Any] = column.tolist()
    if ends is not None:
        starts = [0, *ends.tolist()]
        if starts[-1] != len(values) or (np.diff(starts) < 0).any():
            raise ValueError("its row ends do not match its values")
        values = [values[start:end] for start, end in itertools.pairwise(starts)]
    if len(values) != num_rows:
        raise ValueError(f"it holds {len(values)} rows instead of {num_rows}")
    return values
