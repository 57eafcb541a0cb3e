"""Signs what the processes of a launch tell each other over the launcher's key-value store, and ignores all else.

torch's store listens on all interfaces and asks nobody for a password: whoever reaches its port can write any entry.
So each entry is signed (HMAC-SHA256, over its key, its time and its value) with a secret of the launch: of
BENCH_LAUNCH_SECRET, which has to be the same on all machines, else of a key that only this person can read
(~/.config/finetune-bench/key), which machines with a shared home have in common.
"""

import hashlib
import hmac
import os
import time
from typing import Any

from bench.errors import SetupError
from bench.utils import signing

SECRET = "BENCH_LAUNCH_SECRET"
# Shorter secrets can be guessed from one entry.
SHORTEST_SECRET = 16
# Of a longer entry, not even the signature is computed.
MOST_BYTES = 64 * 1024
# Entries that are older than this process by more are of an earlier launch; clocks of machines differ by less.
OLDEST_S = 600.0


class SignedStore:
    """A client of the launcher's store whose entries are texts, signed. An entry that is not is as good as none."""

    def __init__(self, store: Any, key: bytes) -> None:
        self._store, self._key = store, key
        self._begun_s = time.time()

    def set(self, name: str, value: str) -> None:
        """Write an entry."""
        self._store.set(name, self._sealed(name, value))

    def append(self, name: str, value: str) -> None:
        """Add a line to an entry that holds many; what a stranger has left there does not run into it."""
        self._store.append(name, f"\n{self._sealed(name, value)}\n")

    def get(self, name: str) -> str | None:
        """Return an entry; None where there is none that is signed."""
        return self._opened(name, self._store.get(name)) if self._store.check([name]) else None

    def get_many(self, names: list[str]) -> list[str | None]:
        """Return entries that are known to be there; None for one that is not signed."""
        values = self._store.multi_get(names) if names else []
        return [self._opened(name, value) for name, value in zip(names, values, strict=True)]

    def lines(self, name: str) -> list[str]:
        """Return the signed lines that were appended, each once."""
        content = self._store.get(name) if self._store.check([name]) else b""
        opened = (self._opened(name, line) for line in content.split(b"\n") if line)
        return list(dict.fromkeys(line for line in opened if line is not None))

    def has(self, name: str) -> bool:
        """Return whether there is an entry of that name, signed or not."""
        return bool(self._store.check([name]))

    def _sealed(self, name: str, value: str) -> str:
        dated = f"{time.time():.3f}|{value}"
        return f"{_signature(self._key, name, dated)}|{dated}"

    def _opened(self, name: str, content: bytes) -> str | None:
        if len(content) > MOST_BYTES:
            return None
        signature, _, dated = content.decode("utf-8", "replace").partition("|")
        if not hmac.compare_digest(_signature(self._key, name, dated).encode(), signature.encode()):
            return None
        at_s, _, value = dated.partition("|")
        return value if float(at_s) > self._begun_s - OLDEST_S else None


def _signature(key: bytes, name: str, dated: str) -> str:
    return hmac.digest(key, f"{name}\0{dated}".encode(), "sha256").hex()


def launch_key(prefix: str) -> bytes:
    """Return the key of this launch, the same in all of its processes that share a secret.

    prefix: the beginning of the keys in the store. Raises SetupError where there is no secret, or a weak one.
    """
    environment = (os.environ.get(name, "") for name in ("MASTER_PORT", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"))
    identity = "\0".join(("launch", prefix, *environment))
    given = os.environ.get(SECRET, "").strip()
    if given and len(given) < SHORTEST_SECRET:
        raise SetupError(f"{SECRET} has {len(given)} characters; take at least {SHORTEST_SECRET}: openssl rand -hex 32")
    if given:
        return hmac.digest(hashlib.sha256(given.encode()).digest(), identity.encode(), "sha256")
    try:
        return bytes.fromhex(signing.sign("launch", identity.encode()))
    except SetupError as error:
        raise SetupError(f"the messages between processes can't be signed: {error}; or set {SECRET}") from error


def fingerprint() -> str:
    """Return what tells whether two processes hold the same secret, and nothing of it."""
    return hmac.digest(launch_key("fingerprint"), b"", "sha256").hex()[:16]


def check_agreement(fingerprints: list[str]) -> None:
    """Raise SetupError where the processes of a launch hold different secrets: none would believe another."""
    if len(set(fingerprints)) > 1:
        raise SetupError(
            f"the machines of this launch hold different secrets, since they share no home folder; set {SECRET} to the "
            "same value on all of them, e.g. of `openssl rand -hex 32`"
        )
