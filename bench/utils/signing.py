"""Signs what is written to be read back: HMAC-SHA256 with a key that only this person can read.

In $XDG_CONFIG_HOME/finetune-bench/key, else ~/.config/finetune-bench/key, else, where that can't be written, in a
folder for temporary files; made at the first signature. Whoever can write into a run's folder or a cache, but not into
that of the key, can't sign.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from pathlib import Path

from bench.errors import SetupError
from bench.utils import files

KEY_BYTES = 32


def key_path() -> Path:
    """Return where the key is looked for first. Raises SetupError where the user has no home."""
    base = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    # A relative path there is to be ignored (XDG Base Directory Specification).
    base = base if base.is_absolute() else Path("~/.config")
    try:
        return base.expanduser() / "finetune-bench" / "key"
    except RuntimeError as error:
        raise SetupError("there is no home folder for the key that signs; set XDG_CONFIG_HOME") from error


def sign(purpose: str, content: bytes) -> str:
    """Return the signature of some content, in hexadecimal digits; the key is made where there is none yet.

    purpose: what the content is, so that a signature of one thing is none of another. Raises SetupError where there is
    no key and none can be made, or where others can read it.
    """
    return _digest(_key(create=True), purpose, content)


def is_signed(purpose: str, content: bytes, signature: object) -> bool:
    """Return whether a signature is that of this content with this person's key; False where there is no usable key."""
    try:
        expected = _digest(_key(create=False), purpose, content)
    except SetupError:
        return False
    return isinstance(signature, str) and hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))


def _digest(key: bytes, purpose: str, content: bytes) -> str:
    return hmac.digest(key, purpose.encode() + b"\0" + hashlib.sha256(content).digest(), "sha256").hex()


def _paths() -> list[Path]:
    """Return where the key may be: in the user's configuration; where that can't be written, among temporary files."""
    paths = []
    with contextlib.suppress(SetupError):
        paths.append(key_path())
    return [*paths, Path(tempfile.gettempdir()) / f"finetune-bench-{os.geteuid()}" / "key"]


def _key(*, create: bool) -> bytes:
    problems = []
    for path in _paths():
        try:
            return _read(path, create=create)
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
    raise SetupError(f"no key to sign with can be read or made: {'; '.join(problems)}")


def _read(path: Path, *, create: bool) -> bytes:
    """Return a key that only this person can read; it is made where there is none, if `create`.

    Raises OSError where it is not there, and SetupError for one that is not to be trusted.
    """
    if create and not path.is_symlink() and not path.exists():
        _create(path)
    try:
        with files.open_regular(path, follow=False) as stream:
            status, text = os.fstat(stream.fileno()), stream.read(4 * KEY_BYTES)
    except OSError as error:
        if not os.path.lexists(path):
            raise
        raise SetupError(f"the key {path} can't be read: {error.strerror or error}") from error
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise SetupError(f"the key {path} must be yours, and readable for you alone: chmod 600 {path}, or remove it")
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise SetupError(f"the key {path} is damaged; remove it, and a new one is made")
    return key


def _create(path: Path) -> None:
    """Make a key, unless another process makes one first."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without such links
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
