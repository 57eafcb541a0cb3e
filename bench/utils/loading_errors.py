"""Shortens the errors of loading a model or tokenizer to a sentence for people."""

from pathlib import Path

# torch names every weight of another shape: hundreds.
MOST_CHARACTERS = 500
# Of a model in several files, what follows the name of its weights in the name of their index.
INDEX = ".index.json"


def shown(place: str) -> str:
    """Return a model's place without the machine's folders: the last two parts of an absolute path."""
    path = Path(place)
    return "/".join(path.parts[-2:]) if path.is_absolute() else place


def is_missing_folder(place: str) -> bool:
    """Return whether a place can't be a Hub id (`name` or `owner/name`), and is not a folder either."""
    path_like = Path(place).is_absolute() or place.startswith((".", "~")) or place.count("/") > 1
    return path_like and not Path(place).is_dir()


def reason(error: BaseException, place: str | None = None) -> str:
    """Return an error's first sentence in one line, or its type's name; `place` is shortened as by `shown`."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = " ".join(lines) if lines and lines[0].endswith(":") else "".join(lines[:1])
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__} {text}".strip()
    text = text.replace(place, shown(place)) if place else text
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."


def damage_in(place: str) -> str:
    """Return which file of a model's folder is damaged, or that its index is missing, in a sentence; "" where none is.

    safetensors names no file, and a large model has a hundred.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(place)
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        try:
            with safe_open(path, "np"):
                pass
        except (OSError, SafetensorError):
            return f"{path.name} is damaged (copy or download it again)"
    if files and not any((folder / name).is_file() for name in ("model.safetensors", f"model.safetensors{INDEX}")):
        return f"there is no model.safetensors{INDEX}, which says what is in {files[0].name} and the other files"
    return ""
