"""The key by which two records may be compared: they were scored on the same examples, in the same way."""

import hashlib
import json

from bench.config.resolve import Resolved
from bench.data.dataset import Corpus
from bench.records.record import Comparability, Prompts


def comparability(
    resolved: Resolved, corpus: Corpus, signatures: dict[str, str], prompts: Prompts | None = None
) -> Comparability:
    """Return hashes of what two runs must share: scored data and metrics make the key.

    Model, method, training budget and precision may differ: they are what is compared. So may the way to ask: a task
    head is compared with a prompt on the same examples. The parts tell which prompts were the same ones.
    """
    recipe = resolved.recipe
    scored = {name: corpus.splits[name].fingerprint for name in recipe.evaluation.splits}
    # One label of several is the most probable one, whatever the threshold.
    threshold = {"threshold": str(recipe.evaluation.threshold)} if recipe.dataset.multi_label else {}
    parts = {
        "data": _digest({"splits": scored, "labels": list(corpus.labels)}),
        "template": None if prompts is None else prompts.template_hash,
        "metrics": _digest({**signatures, **threshold}),
        "generation": None if prompts is None else _digest(prompts.signature),
    }
    shared = {**parts, "template": None, "generation": None}
    return Comparability(key=_digest(shared), parts=parts)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
