"""Records of results that another tool left: what all of them share."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.errors import DataError
from bench.records.record import RecipePart, Record
from bench.utils import files
from bench.utils.system import utc_now

LIMIT_BYTES = 512 * 2**20
STUDY = "imported"
# What reading a file of another shape raises; pydantic's errors are ValueErrors.
ODD = (AttributeError, KeyError, StopIteration, TypeError, ValueError)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises DataError with what is wrong with it."""
    try:
        return json.loads(files.read_text(path, LIMIT_BYTES))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: can't be read as JSON: {error}") from error


def said(error: Exception) -> str:
    """Return one of ODD in a sentence."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"it has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"


def digest(content: object) -> str:
    """Return 12 hexadecimal digits of SHA-256 over JSON, as the parts of a comparability key."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def begun(
    *, tool: str, file: Path, name: str, method: str, seed: int | None, at: str | None, settings: Mapping[str, Any]
) -> Record:
    """Return a finished record that says where it is from, without scores.

    at: when the result was made, ISO 8601; None where the file does not say. settings: of the system, without its seed.
    """
    record = Record(
        status="ok",
        reason=None,
        name=name,
        study=STUDY,
        method=method,
        seed=seed,
        started_at=at or utc_now(),
        finished_at=at,
        imported={"tool": tool, "file": file.name, "sha256": hashlib.sha256(files.read_bytes(file)).hexdigest()},
        recipe=RecipePart(path=file.name, resolved={**settings, "seed": seed}, hash=digest([name, settings])),
    )
    record.note(f"imported from {tool}: {file.name}; not run by this harness, which only read what the file says")
    return record
