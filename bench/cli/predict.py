"""`bench predict`: predicts labels or answers of new texts with a run's saved model."""

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

from bench import console
from bench.cli.options import add_command, refuse_outputs
from bench.errors import BenchError
from bench.utils import arguments, files

# Endings of the file that answers are written to.
OUTPUTS = (".jsonl", ".csv")


def add(commands: Any) -> None:
    """Add the command and its options."""
    predict = add_command(
        commands, "predict", predict_command, "predict labels or answers of new texts with a run's saved model"
    )
    predict.add_argument("run_folder", type=Path)
    predict.add_argument("--text", action="append", default=[], help="a text to predict; may be given several times")
    predict.add_argument(
        "--text-pair", action="append", default=[], metavar="TEXT", help="second text (or question) of each --text"
    )
    predict.add_argument(
        "--file",
        type=Path,
        help="file of texts: one per line, JSON lines, CSV, TSV, Parquet or CoNLL, or of the kind that the model was "
        "trained on; - is standard input",
    )
    predict.add_argument(
        "--format",
        choices=["text", "jsonl", "csv", "tsv", "parquet", "json", "squad", "conll"],
        help="of the --file (default: that of the training data where it ends as they do, else by its ending, else "
        "text)",
    )
    predict.add_argument(
        "--columns",
        metavar="text=NAME,text_pair=NAME",
        help="columns or keys of the --file (default: those of the data that the model was trained on, or text); "
        "where the model reads them, tokens=, choices=, messages= and input= too",
    )
    predict.add_argument(
        "--delimiter", metavar="SIGN", help="of a CSV or TSV --file (default: that of the training data)"
    )
    predict.add_argument(
        "--encoding", metavar="NAME", help="of a CSV or TSV --file (default: that of the training data, else UTF-8)"
    )
    predict.add_argument("--json", action="store_true", help="print one JSON object per line instead of a table")
    predict.add_argument(
        "--out",
        type=arguments.path,
        metavar="FILE",
        help="write the answers to FILE.jsonl or FILE.csv, in the same order",
    )
    predict.add_argument("--overwrite", action="store_true", help="replace the file of --out")


def predict_command(options: argparse.Namespace) -> int:
    """Print a label and its probability for each text, or write them to a file."""
    _check_output(options)
    from bench.evaluation.predict import predict

    answers = predict(options.run_folder, _rows(options))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(options.out, _as_csv(answers) if options.out.suffix.lower() == ".csv" else _as_lines(answers))
        console.say(f"answers: {options.out} ({len(answers)} texts)")
        return 0
    for answer in answers:
        if options.json:
            console.write_json(answer)
        else:
            console.say(_line(answer))
    return 0


def _check_output(options: argparse.Namespace) -> None:
    if options.out is None:
        if options.overwrite:
            raise BenchError("--overwrite goes with --out")
        return
    if options.json:
        raise BenchError("--json is for what is printed; with --out the ending says the format: .jsonl or .csv")
    if options.out.suffix.lower() not in OUTPUTS:
        raise BenchError(f"--out {options.out}: give a name that ends in {' or '.join(OUTPUTS)}")
    refuse_outputs(options.out)
    if options.out.exists() and not options.overwrite:
        raise BenchError(f"--out {options.out}: this file is there already; give another name, or --overwrite")


def _rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the texts of the command line, then those of the file."""
    from bench.evaluation import new_rows, new_texts, saved_model

    if options.text_pair and len(options.text_pair) != len(options.text):
        raise BenchError(
            f"--text-pair is given {len(options.text_pair)} times and --text {len(options.text)} times; each second "
            "text goes with the text of the same place"
        )
    pairs = options.text_pair or [None] * len(options.text)
    rows = [{"text": text, "text_pair": pair} for text, pair in zip(options.text, pairs, strict=True)]
    if options.file is None:
        for name in ("columns", "format", "delimiter", "encoding"):
            if getattr(options, name) is not None:
                raise BenchError(f"--{name} goes with --file")
        if not rows:
            raise BenchError("give a text with --text, a file with --file, or --file - for standard input")
        return rows
    columns = new_texts.parse_columns(options.columns) if options.columns is not None else {}
    trained = new_rows.Trained.of(saved_model.describe(saved_model.find(options.run_folder)))
    written = new_texts.Written(delimiter=options.delimiter, encoding=options.encoding)
    return rows + new_texts.read_texts(options.file, options.format, columns, trained, written)


def _line(answer: dict[str, Any]) -> str:
    label = ", ".join(answer["label"]) or "(none)" if isinstance(answer["label"], list) else answer["label"]
    label = f"{label:.4g}" if isinstance(label, float) else label
    label = "(could not be read)" if label is None else label or "(no answer)"
    shown = repr(answer["written"]) if "written" in answer else ""
    # Numbers and tags of words have no probability of their own.
    shown = f"{max(answer['scores'].values()):.3f}" if answer["scores"] else shown
    cut = "  (text was cut)" if answer["cut"] else ""
    # One line for each text, whatever is in it.
    return f"{label:<20} {shown}  {answer['text'][:80]}{cut}".replace("\n", "\\n")


def _as_lines(answers: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)


def _as_csv(answers: list[dict[str, Any]]) -> str:
    """Return a table with a column for each label's probability; several labels of a text as a JSON list."""
    names = list(dict.fromkeys(name for answer in answers for name in answer["scores"] or ()))
    identity, pair, more = (
        [key] if any(key in answer for answer in answers) else [] for key in ("id", "text_pair", "written")
    )
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow([*identity, "text", *pair, "label", *more, "cut", *(f"score.{name}" for name in names)])
    for answer in answers:
        label = answer["label"]
        shown = json.dumps(label, ensure_ascii=False) if isinstance(label, list) else label
        scores = answer["scores"] or {}
        texts = [*(answer.get(key) for key in identity), answer["text"], *(answer.get(key) for key in pair)]
        cells = [*(answer.get(key) for key in more), str(answer["cut"]).lower(), *(scores.get(name) for name in names)]
        table.writerow([*texts, shown, *cells])
    return stream.getvalue()
