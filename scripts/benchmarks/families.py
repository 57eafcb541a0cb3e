"""What is built of each family of models: its classes, whose head it has, what is left out, and whether pads are too.

    python scripts/benchmarks/families.py [NAME ...]

Prints a table in Markdown, of all families or of those named. Tiny random checkpoints (tests/helpers/families.py) are
written by transformers and built by the harness from their config alone, as a run does it. Whether a model runs
padding-free is asked of the model itself, with a head and as a language model.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed says among the rows what it chose

from transformers.utils import logging

from bench import console
from bench.config.cards import ModelCard
from bench.config.contracts import LoadPlan
from bench.models import build, checkpoint_head, own_heads
from bench.models.kernels import padding_free
from tests.helpers import families, tiny_cards
from tests.helpers.families import FAMILIES

HEAD = "AutoModelForSequenceClassification"
COLUMNS = ("family", "with a head", "head", "as a language model", "left out", "padding-free")


def built(name: str, folder: Path, auto_class: str) -> Any:
    """The model of a family's checkpoint in a folder, as a run builds it."""
    family = FAMILIES[name]
    labels = tiny_cards.LABELS if auto_class == HEAD else ()
    torch.manual_seed(13)
    return build.build(
        ModelCard(id=str(folder), family=family.kind, licence="none", attention=family.attention),
        LoadPlan(),
        auto_class=auto_class,
        labels=labels,
        tokenizer=tiny_cards.trained_tokenizer("wordpiece", families.VOCABULARY, family.kind),
        weights="pretrained",
        device=torch.device("cpu"),
    )


def pads(model: Any) -> str:
    """Whether a model leaves out pads, or why not, as it says itself."""
    reason = padding_free.attach(model)
    return "yes" if reason is None else f"no: it {reason}"


def row(name: str) -> tuple[str, ...]:
    """The cells of a family."""
    family = FAMILIES[name]
    with tempfile.TemporaryDirectory() as folder:
        place = families.write(name, Path(folder))
        head = built(name, place, HEAD)
        writer = built(name, place, build.GENERATIVE_CLASSES[family.kind]) if family.writer else None
    left_out = [found.sentence for found in checkpoint_head.findings(head) if "text part" in found.sentence]
    answers = dict.fromkeys(pads(model) for model in (head, writer) if model is not None)
    return (
        name,
        type(head).__name__,
        "own" if own_heads.is_own(head) else "transformers",
        type(writer).__name__ if writer is not None else "",
        left_out[0].partition("its ")[2].partition(" part")[0] if left_out else "",
        "; ".join(answers),
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="families; all of them where none is given")
    names = parser.parse_args().names or list(FAMILIES)
    unknown = [name for name in names if name not in FAMILIES]
    if unknown:
        parser.error(f"there is no family {unknown[0]!r}; there are: {', '.join(FAMILIES)}")
    console.quiet_libraries()
    logging.disable_progress_bar()
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"| {' | '.join('---' for _ in COLUMNS)} |")
    for name in names:
        print(f"| {' | '.join(row(name))} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
