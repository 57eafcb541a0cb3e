"""Names that Kubernetes, SkyPilot and buckets accept: lower-case ASCII letters, digits and hyphens, a letter first.

RFC 1035 labels, as Kubernetes demands of Services (https://kubernetes.io/docs/concepts/overview/working-with-objects/names).
"""

import hashlib
import re
import unicodedata

from bench.errors import SetupError

# A label has 63 characters, and a pod's name is that of its Job with "-", an index and "-" and five more.
LONGEST = 50
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def of_run(name: str, seed: int, recipe_hash: str) -> str:
    """Return the name of a run's objects; seed and hash make it unique where a long or foreign name is cut."""
    return _joined(_plain(name), f"seed{seed}-{recipe_hash[:8]}")


def check(name: str) -> None:
    """Raise SetupError for a name that Kubernetes forbids, with one that it allows."""
    if _LABEL.fullmatch(name) and len(name) <= LONGEST:
        return
    allowed = _joined(_plain(name), "" if len(name) <= LONGEST else hashlib.sha256(name.encode()).hexdigest()[:8])
    raise SetupError(
        f"--name {name:.80}: Kubernetes wants at most {LONGEST} lower-case letters, digits and hyphens, a letter first "
        f"and no hyphen last; for example {allowed}"
    )


def _plain(text: str) -> str:
    ascii_text = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]+", "-", ascii_text).strip("-")


def _joined(start: str, end: str) -> str:
    start = start if start[:1].isalpha() else f"run-{start}".rstrip("-")
    room = LONGEST - len(end) - 1 if end else LONGEST
    return "-".join(filter(None, [start[:room].rstrip("-"), end]))
