"""Makes all forms of a run one after the other, scores each, and compares it with the saved model."""

import gc
import math
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench import console
from bench.errors import BenchError, DataError
from bench.evaluation import saved_model
from bench.evaluation.engines.completions_api import Server
from bench.evaluation.metric_set import Predictions
from bench.evaluation.readers.head import HeadReader
from bench.records import failures
from bench.shipping import names, page, results, timing, verdict
from bench.shipping import source as sources
from bench.shipping.form import Form, Loaded, Workshop, size_of
from bench.shipping.gguf_form import Gguf
from bench.shipping.names import FormName
from bench.shipping.onnx_form import Onnx
from bench.shipping.results import FormResult, Shipped
from bench.shipping.served import Vllm
from bench.shipping.source import Asked, Source
from bench.shipping.whole import Int8, Merged, Nf4
from bench.utils import files, secret_formats, system
from bench.utils.loading_errors import reason

MAKERS: Mapping[str, Form] = {
    names.MERGED: Merged(),
    names.INT8: Int8(),
    names.NF4: Nf4(),
    names.ONNX: Onnx(),
    names.GGUF: Gguf(),
    names.VLLM: Vllm(),
}
SAVED = "as saved"


@dataclass(frozen=True, kw_only=True)
class ShipRequest:
    """Options of a ship check. forms: None for all that are installed and fit. margin: None for 0.01 of the metric."""

    asked: Asked
    out: Path
    forms: tuple[FormName, ...] | None = None
    margin: float | None = None
    keep: bool = False
    server: Server | None = None

    @property
    def command(self) -> str:
        """Return the command line that asks for the same."""
        asked = self.asked
        given = {
            "--as": None if self.forms is None else ",".join(map(str, self.forms)),
            "--split": asked.split,
            "--metric": asked.metric,
            "--examples": asked.examples,
            "--margin": self.margin,
            "--server": None if self.server is None else self.server.url,
            "--served-model": None if self.server is None else self.server.model,
        }
        words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        return secret_formats.remove(shlex.join(["python", "-m", "bench", "ship", str(asked.run), *words]))


def ship(request: ShipRequest) -> Shipped:
    """Make, score and compare all forms; write ship.json and ship.md. Raises BenchError before any of it is begun."""
    console.quiet_libraries()
    source = sources.prepare(request.asked)
    margin = verdict.default_margin(source.metric) if request.margin is None else request.margin
    verdict.check_margin(source.metric, margin)
    forms, left_out = _forms(request, source)
    claimed = results.claim(request.out, [name.folder for name in forms] if request.keep else [])
    try:
        work = Workshop(source=source, place=claimed.place, server=request.server, keep=request.keep)
        console.say(f"{SAVED}: scoring {len(source.split.ids)} examples of {source.split.name}")
        model, reference = _reference(source, margin)
        found = tuple(_form(work, name, model, margin) for name in forms)
        if request.keep:
            _kept(claimed.place, request.out / results.FORMS, forms)
        shipped = _shipped(source, request.command, margin, reference, found, left_out)
        files.write_text(request.out / results.JSON, shipped.as_json())
        files.write_text(request.out / results.PAGE, page.markdown(shipped))
    finally:
        claimed.give_up()
    return shipped


def _forms(request: ShipRequest, source: Source) -> tuple[tuple[FormName, ...], dict[str, str]]:
    """Return the forms to make, and of those that were not asked for why they are left out."""
    if request.forms is not None:
        return request.forms, {}
    work = Workshop(source=source, place=request.out, server=request.server)
    found, left_out = [], {}
    for kind, maker in MAKERS.items():
        name = FormName(kind=kind, variant=names.DEFAULT_GGUF_TYPE if kind == names.GGUF else None)
        if (why := maker.why_not(work, name)) is None:
            found.append(name)
        else:
            left_out[str(name)] = why
    return tuple(found), left_out


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A form's answers, and what they cost."""

    found: Predictions
    load: timing.Timed
    per_100: timing.Timed
    notes: tuple[str, ...]


def _measured(source: Source, load: Callable[[], Loaded], title: str) -> _Measured:
    """Load a form, score it on all examples, and time it on some; it is given up again."""
    loaded, seconds = timing.loads(load)
    try:
        scored = source.score(loaded.model, loaded.scoring, title)
        make = loaded.scoring.reader or HeadReader
        per_100 = timing.per_100(make(loaded.model, source.timed, loaded.scoring), len(source.timed.ids))
    finally:
        loaded.close()
        del loaded
        gc.collect()
    notes = [*scored.notes]
    if per_100.is_noisy:
        notes.append("its times differ by more than a fifth between repeats: the machine was busy, or they are short")
    return _Measured(found=scored.predictions, load=seconds, per_100=per_100, notes=tuple(notes))


def _reference(source: Source, margin: float) -> tuple[Predictions, FormResult]:
    """Score the saved model again; compare it with the run's own predictions."""

    def _load() -> Loaded:
        model, _, _ = saved_model.load(source.run)
        return Loaded(model=model, scoring=source.scoring)

    try:
        measured = _measured(source, _load, SAVED)
    except BenchError:
        raise
    except Exception as error:  # of any kind, from the libraries that run it
        why = failures.sentence(error, "its scoring")
        raise DataError(f"the saved model of {source.run} can't be scored again: {why}") from error
    notes = measured.notes
    if source.is_adapter and not (source.folder / "base").is_dir():
        notes = (*notes, "the size is the adapter's alone, without its base model")
    result = FormResult(
        name=SAVED,
        compared=verdict.compare(source.answers(measured.found), source.given, source.metric, margin),
        size_bytes=size_of(source.folder),
        load=measured.load,
        per_100=measured.per_100,
        notes=notes,
    )
    return measured.found, result


def _form(work: Workshop, name: FormName, model: Predictions, margin: float) -> FormResult:
    """Make, score and compare one form; what keeps it from that is its reason, and the others go on."""
    maker, folder = MAKERS[name.kind], work.place / name.folder
    console.say(f"{name}: making, loading and scoring it")
    try:
        if (why := maker.why_not(work, name)) is not None:
            return FormResult(name=str(name), reason=why)
        folder.mkdir()
        maker.make(work, name, folder)
        notes: list[str] = []

        def _load() -> Loaded:
            loaded = maker.load(work, name, folder)
            notes[:] = loaded.notes
            return loaded

        measured = _measured(work.source, _load, str(name))
        found = measured.found
        compared = verdict.compare(work.source.answers(found), work.source.answers(model), work.source.metric, margin)
    except BenchError as error:
        return FormResult(name=str(name), reason=str(error))
    except Exception as error:  # of any kind, from the libraries that make and run it
        known = failures.is_disk_full(error) or failures.is_out_of_memory(error)
        why = failures.sentence(error, "its making") if known else f"{type(error).__name__}: {reason(error)[:300]}"
        return FormResult(name=str(name), reason=why)
    else:
        return FormResult(
            name=str(name),
            compared=compared,
            largest_change=_largest_change(found, model),
            size_bytes=size_of(folder) or None,
            load=measured.load,
            per_100=measured.per_100,
            notes=(*notes, *measured.notes),
        )
    finally:
        if not work.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _largest_change(form: Predictions, model: Predictions) -> float | None:
    """Return the largest change of a probability; None where answers have none."""
    if form.scores.shape != model.scores.shape or form.scores.ndim != 2 or not form.scores.shape[1]:
        return None
    largest = float(np.abs(form.scores.astype(float) - model.scores.astype(float)).max())
    return largest if math.isfinite(largest) else None


def _kept(place: Path, folder: Path, forms: tuple[FormName, ...]) -> None:
    """Move the files of the forms to where they stay."""
    folder.mkdir(exist_ok=True)
    for name in forms:
        if (place / name.folder).is_dir() and any((place / name.folder).iterdir()):
            shutil.move(place / name.folder, folder / name.folder)


def _shipped(
    source: Source,
    command: str,
    margin: float,
    reference: FormResult,
    found: tuple[FormResult, ...],
    left_out: dict[str, str],
) -> Shipped:
    record, launch = source.record, source.record.launch
    notes = []
    if launch is not None and (launch.device != "cpu" or launch.mixed_precision != "no"):
        notes.append(
            f"The run itself was scored on {launch.device} with mixed precision {launch.mixed_precision}, all forms "
            "here on the CPU in their own types."
        )
    if launch is not None and launch.world_size > 1:
        notes.append(f"The run had {launch.world_size} processes, and this check one.")
    return Shipped(
        command=command,
        name=record.name,
        seed=record.seed,
        recipe=record.recipe.path,
        recipe_hash=record.recipe.hash,
        split=source.split.name,
        metric=source.metric,
        examples=len(source.split.ids),
        margin=margin,
        machine={
            "processor": system.processor_name(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        reference=reference,
        forms=tuple(found),
        left_out=left_out,
        notes=tuple(notes),
    )
