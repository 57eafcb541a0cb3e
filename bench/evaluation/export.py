"""Exports a run's model as a folder that transformers and peft load by its path alone: `bench export RUN [--merge]`.

After writing, the folder is loaded by these libraries, without anything of the harness, and compared with the run's own
model: the folder's README gives the largest difference of a log-probability.
"""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import console
from bench.config.cards import DatasetCard
from bench.config.data_part import DataPart
from bench.data import dataset
from bench.data.sources import Row, Rows
from bench.errors import BenchError, DataError, SetupError
from bench.evaluation import export_loaders, export_page, saved_model
from bench.evaluation.export_page import Comparison
from bench.models import heads, own_writers, saving, tfidf
from bench.records import store
from bench.records.record import Record
from bench.reporting.hub import cards, push
from bench.utils import files

# So many examples of the run's data are compared, each by itself.
EXAMPLES = 8
# Where the data can't be had.
SENTENCES = ("The first sentence is short.", "The second one is a little longer, and it ends here.")
# Files of an adapter; what lies beside them in the run's folder is the harness's own.
ADAPTER_FILES = ("adapter_config.json", saving.ADAPTER)
BASE, RECORD, PAGE = "base", store.FILE, "README.md"
# A difference beyond this is said on the console too: a model that was loaded as another one differs by far more.
LARGE = 0.05


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """Options of an export. out: the new folder. unfinished: also export the model of a run that did not end well."""

    run: Path
    out: Path
    merge: bool = False
    unfinished: bool = False


def export(request: ExportRequest) -> list[Comparison]:
    """Write the folder; return how its model compares with the run's, for each way to load it.

    Raises DataError or SetupError for a run that has no such model, before anything is written; a folder that turns
    out not to load is removed again.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed looks for a GPU, and complains
    console.quiet_libraries()
    record, description = _checked(request)
    model, tokenizer, _ = saved_model.load(request.run)
    is_adapter = hasattr(model, "peft_config")
    loaders = export_loaders.of(model, description, is_adapter=is_adapter and not request.merge)
    if request.merge and not is_adapter:
        raise SetupError(f"--merge: method {record.method} trained the model itself; there is no adapter to merge")
    choices = description["task"] == "multiple_choice" and description["objective"] == "head"
    rows, of_data = _examples(store.read(request.run), choices)  # whose paths are not shortened
    wanted = _log_probabilities(model, tokenizer, description, rows)
    request.out.mkdir(parents=True, exist_ok=True)
    try:
        _save_tokenizer(tokenizer, description, request.out)
        if not is_adapter:
            _save_whole(model, description, request)
        elif request.merge:
            _save_merged(model, description, request)
        else:
            _save_adapter(model, tokenizer, description, request)
        del model
        done = [
            Comparison(
                loader=loader.name,
                num_examples=len(rows),
                of_data=of_data,
                difference=_largest_difference(loader.kind, request.out, description, rows, wanted),
            )
            for loader in loaders
        ]
        _write_pages(request, record, description, done, tokenizer, is_adapter=is_adapter)
    except BaseException:
        shutil.rmtree(request.out, ignore_errors=True)
        raise
    return done


def _checked(request: ExportRequest) -> tuple[Record, dict[str, Any]]:
    """Return the record, without paths and texts, and what the run wrote about its model."""
    if request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        raise DataError(f"--out {request.out}: this is not an empty folder; give another one")
    folder = saved_model.find(request.run)
    record = push.shareable_record(request.run)
    if record.status != "ok" and not request.unfinished:
        raise DataError(
            f"{request.run} has status `{record.status}` ({record.reason}); --unfinished exports its model even so"
        )
    description = saved_model.describe(folder)
    refuse_own_kinds(request.run, description)
    return record, description


def refuse_own_kinds(run: Path, description: dict[str, Any]) -> None:
    """Raise SetupError for a run's model that only this harness can load: of words, probes, MLP heads."""
    if description.get("method") == tfidf.METHOD:
        raise SetupError(
            f"the run {run} has no model of transformers or peft: method tfidf is a classifier of words; use `predict`"
        )
    if description.get("pooling") is not None or description["head"]["kind"] != "own":
        kind = "a linear probe" if description.get("pooling") is not None else "an MLP head"
        raise SetupError(
            f"the model of {run} has {kind} of the harness's own, which transformers and peft have no class "
            "for; use `predict`, or repeat the run with head.kind: own"
        )


def _examples(record: Record, choices: bool) -> tuple[Rows, bool]:
    """Return some rows of a split that the run scored, or, where its data can't be had, sentences; and which it is.

    choices: of each row the texts that are chosen from, too.
    """
    content = record.recipe.resolved
    try:
        card = DatasetCard.model_validate_json(json.dumps(content["dataset"]))
        split = next(iter(content["evaluation"]["splits"]))
        part = DataPart.model_validate_json(json.dumps(content.get("data") or {}))
        corpus = dataset.load(card, content.get("limit") or {}, {split}, part, record.seed or 0)
        rows = corpus.splits[split].rows
        texts = [row for row in rows if isinstance(row.get("text"), str)][:EXAMPLES]
        if texts:
            kept = ("text", "text_pair", *(["choices"] if choices else []))
            return [{key: row.get(key) for key in kept} for row in texts], True
    except (BenchError, KeyError, StopIteration, ValueError):
        pass
    more = {"choices": list(SENTENCES)} if choices else {}
    return [{"text": text, "text_pair": None, **more} for text in SENTENCES], False


def _log_probabilities(model: Any, tokenizer: Any, description: dict[str, Any], rows: Rows) -> list[torch.Tensor]:
    """Return of each row, by itself, the log-probabilities of a head's outputs, or of a text's own tokens."""
    found = []
    for row in rows:
        if "choices" in row:
            found.append(_of_choices(model, tokenizer, description, row))
            continue
        pair = row["text_pair"] if description.get("pairs") else None
        encoded = tokenizer(
            row["text"], pair, truncation="longest_first", max_length=description["max_length"], return_tensors="pt"
        )
        if description["objective"] == "text":
            encoded.pop("token_type_ids", None)
        with torch.no_grad():
            found.append(_of_outputs(model, encoded, description))
    return found


def _of_choices(model: Any, tokenizer: Any, description: dict[str, Any], row: Row) -> torch.Tensor:
    """Return the log-probabilities of a row's choices, each scored by itself behind the text."""
    scores = []
    for choice in row["choices"]:
        second = " ".join([*([row["text_pair"]] if row["text_pair"] else []), choice])
        encoded = tokenizer(
            row["text"], second, truncation="longest_first", max_length=description["max_length"], return_tensors="pt"
        )
        grouped = export_loaders.takes_groups(model)
        with torch.no_grad():
            inputs = {name: ids[None] if grouped else ids for name, ids in encoded.items()}
            scores.append(model(**inputs).logits.double().flatten())
    return torch.cat(scores).log_softmax(-1)


def _of_outputs(model: Any, encoded: Any, description: dict[str, Any]) -> torch.Tensor:
    ids = encoded["input_ids"]
    if description["objective"] == "text":
        more = {"decoder_input_ids": ids} if heads.unwrapped(model).config.is_encoder_decoder else {}
        logits = model(**encoded, **more).logits.double().log_softmax(-1)
        return logits[0, :-1].gather(-1, ids[0, 1:, None]).flatten()
    outputs = model(**encoded)
    if hasattr(outputs, "start_logits"):
        return torch.stack([outputs.start_logits, outputs.end_logits]).double().log_softmax(-1).flatten()
    logits = outputs.logits.double()
    if logits.shape[-1] == 1:  # a number, not a probability
        return logits.flatten()
    several = description["multi_label"]
    return (torch.nn.functional.logsigmoid(logits) if several else logits.log_softmax(-1)).flatten()


def _save_tokenizer(tokenizer: Any, description: dict[str, Any], out: Path) -> None:
    """Save the tokenizer, whose `truncation=True` then cuts where the run did. Raises DataError where it changes."""
    import transformers

    tokenizer.model_max_length = description["max_length"]
    tokenizer.save_pretrained(out)
    read = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=False)
    for text in SENTENCES:
        if read(text)["input_ids"] != tokenizer(text)["input_ids"]:
            raise DataError(
                f"AutoTokenizer reads the tokenizer of this run as {type(read).__name__}, which gives other tokens, so "
                "nothing but the harness can use the model: use `predict`"
            )


def _save_merged(model: Any, description: dict[str, Any], request: ExportRequest) -> None:
    """Merge the adapter into the base model, that of a quantised one in 16 bits, and save it."""
    if description["quantization"] is not None:
        if (saved_model.find(request.run) / BASE).is_dir():
            raise SetupError(
                "--merge: the base model of this run has random weights in 4 bits, of which there are none in 16 bits; "
                "export it without --merge"
            )
        whole = saving.load_unquantized(saved_model.find(request.run))
    else:
        whole = model
    try:
        merged = whole.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError) as error:
        kind = type(whole.peft_config["default"]).__name__
        raise SetupError(f"--merge: adapters of {kind} can't be merged ({error}); export it without --merge") from error
    _save_whole(merged, description, request)


def _save_whole(model: Any, description: dict[str, Any], request: ExportRequest) -> None:
    model.save_pretrained(request.out)
    if own_writers.is_made(model):
        saving.complete(model, request.out, description)


def _save_adapter(model: Any, tokenizer: Any, description: dict[str, Any], request: ExportRequest) -> None:
    """Save the adapter, and its base model too where an adapter alone would lose something.

    Neither library stores label names, or their number, with an adapter: they are those of the base's config.
    """
    saved = saved_model.find(request.run)
    for name in ADAPTER_FILES:
        shutil.copyfile(saved / name, request.out / name)
    content = json.loads(files.read_text(saved / "adapter_config.json"))
    if (saved / BASE).is_dir():
        shutil.copytree(saved / BASE, request.out / BASE)
    elif description["objective"] != "text":
        # transformers can't write again what it has quantised.
        whole = saving.load_unquantized(saved) if description["quantization"] is not None else model
        _without_adapter(whole).save_pretrained(request.out / BASE)
    if (request.out / BASE).is_dir():
        tokenizer.save_pretrained(request.out / BASE)
        content |= {"base_model_name_or_path": str((request.out / BASE).resolve()), "revision": None}
    else:
        card = description["model_card"]
        content |= {"base_model_name_or_path": saving.base_of(description), "revision": card.get("revision")}
    files.write_text(request.out / "adapter_config.json", json.dumps(content, indent=2) + "\n")


def _without_adapter(model: Any) -> Any:
    """Return the base model of an adapter, with the head that was trained beside it."""
    try:
        return model.unload()
    except (AttributeError, NotImplementedError) as error:
        kind = type(model.peft_config["default"]).__name__
        raise SetupError(f"adapters of {kind} can't be taken off their base model: {error}") from error


def _largest_difference(
    loader: Any, folder: Path, description: dict[str, Any], rows: Rows, wanted: list[torch.Tensor]
) -> float:
    """Return the largest difference of a log-probability, of a folder that is loaded by its path alone."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = loader.from_pretrained(folder, trust_remote_code=False).eval()
        found = _log_probabilities(model, tokenizer, description, rows)
    except Exception as error:  # transformers and peft raise many kinds
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SetupError(f"{loader.__name__}.from_pretrained can't load what was exported: {line[:300]}") from error
    if [one.shape for one in found] != [one.shape for one in wanted]:
        raise SetupError(f"{loader.__name__}.from_pretrained loads another head than the run's")
    largest = max(float((one - other).abs().max()) for one, other in zip(found, wanted, strict=True))
    if not math.isfinite(largest):
        raise SetupError(f"{loader.__name__}.from_pretrained gives numbers that are not finite")
    return largest


def _write_pages(
    request: ExportRequest,
    record: Record,
    description: dict[str, Any],
    done: list[Comparison],
    tokenizer: Any,
    *,
    is_adapter: bool,
) -> None:
    """Write the record and the README, and the chat template at the run's date where it writes one."""
    adapter = is_adapter and not request.merge
    usage = export_page.usage(description, tokenizer, request.out, done, is_adapter=adapter, is_merged=request.merge)
    card = cards.model_card(record, description, request.out.name, None, adapter=adapter, usage=usage)
    files.write_text(request.out / PAGE, card)
    files.write_text(request.out / RECORD, record.model_dump_json(by_alias=True, indent=1) + "\n")
