"""`bench predict`: predicts labels or answers of new texts with a run's saved model."""

import argparse
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command
from bench.errors import BenchError


def add(commands: Any) -> None:
    """Add the command and its options."""
    predict = add_command(
        commands, "predict", predict_command, "predict labels or answers of new texts with a run's saved model"
    )
    predict.add_argument("run_folder", type=Path)
    predict.add_argument("--text", action="append", default=[], help="a text to predict; may be given several times")
    predict.add_argument("--file", type=Path, help="file of texts, one per line, or JSON lines with `text`")
    predict.add_argument("--json", action="store_true", help="print one JSON object per line instead of a table")


def predict_command(options: argparse.Namespace) -> int:
    """Print a label and its probability for each text."""
    from bench.evaluation.new_texts import read_texts
    from bench.evaluation.predict import predict

    rows = [{"text": text, "text_pair": None} for text in options.text]
    rows += read_texts(options.file) if options.file else []
    if not rows:
        raise BenchError("give a text with --text, or a file with --file")
    for answer in predict(options.run_folder, rows):
        if options.json:
            console.write_json(answer)
        else:
            label = ", ".join(answer["label"]) or "(none)" if isinstance(answer["label"], list) else answer["label"]
            label = f"{label:.4g}" if isinstance(label, float) else label
            label = "(could not be read)" if label is None else label or "(no answer)"
            shown = repr(answer["written"]) if "written" in answer else ""
            # Numbers and tags of words have no probability of their own.
            shown = f"{max(answer['scores'].values()):.3f}" if answer["scores"] else shown
            cut = "  (text was cut)" if answer["cut"] else ""
            # One line for each text, whatever is in it.
            console.say(f"{label:<20} {shown}  {answer['text'][:80]}{cut}".replace("\n", "\\n"))
    return 0
