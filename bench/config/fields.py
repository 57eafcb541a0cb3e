"""The strict base of every settings type, and the types of their fields. Nothing is ever converted silently."""

from datetime import datetime
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class InvalidKey(ValueError):
    """A value that does not go with those of other keys. key: where to show it, a dotted path below the settings."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = tuple(int(part) if part.isdigit() else part for part in key.split("."))


def _distinct(items: tuple[Any, ...]) -> tuple[Any, ...]:
    seen: set[Any] = set()
    for item in items:
        if item in seen:
            raise ValueError(f"{item!r} is listed twice")
        seen.add(item)
    return items


def _inside(path: str) -> str:
    if PurePath(path).is_absolute() or ".." in PurePath(path).parts or "\0" in path:
        raise ValueError(f"{path!r} must lie inside the folder: neither absolute, nor with '..'")
    return path


def _calendar_date(text: str) -> str:
    try:
        date = datetime.strptime(text, "%Y-%m-%d")
    except ValueError:
        date = None
    if date is None or f"{date:%Y-%m-%d}" != text:
        raise ValueError(f"{text!r} is no date; write year, month and day, e.g. {CHAT_DATE}")
    return text


# The day that the chat templates of Llama 3.1 name where they are not told another.
CHAT_DATE = "2024-07-26"
# At most 100 characters: names become names of files.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Text = Annotated[str, Field(min_length=1)]
# What fits into 32 bits, as libraries expect of sizes.
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
# A path below a folder that is named elsewhere.
Inside = Annotated[str, AfterValidator(_inside)]
Distinct = AfterValidator(_distinct)
# A day, as 2024-07-26.
Date = Annotated[str, AfterValidator(_calendar_date)]


class Strict(BaseModel):
    """Base of every settings type. Booleans, numbers and text are never converted into one another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)
