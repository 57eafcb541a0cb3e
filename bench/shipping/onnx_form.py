"""The form `onnx`: transformers' own exporter makes a graph, onnxruntime runs it."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.errors import SetupError
from bench.models import heads
from bench.shipping import names
from bench.shipping.form import Loaded, Workshop
from bench.shipping.names import FormName
from bench.shipping.other_engine import EngineModel

GRAPH = "model.onnx"


class Onnx:
    """A graph for rows and tokens of any number; heads, and the logits of decoders."""

    def why_not(self, work: Workshop, name: FormName) -> str | None:
        """Return what is not installed, or that the model would have to write."""
        if (lacking := names.lacking(name.kind)) is not None:
            return lacking
        if work.writes:
            return "the run's answers are written token by token, and the graph that is made here holds one forward"
        family = work.source.description["model_card"]["family"]
        if work.source.recipe.objective == "text" and family == "encoder_decoder":
            return "an encoder-decoder takes two graphs, and only one is made here"
        return None

    def make(self, work: Workshop, name: FormName, folder: Path) -> None:
        """Export the graph. Raises SetupError with the exporter's own reason."""
        from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

        model = work.load_whole(work.whole(), dtype=torch.float32)
        inputs = _sample(work, model)
        try:
            with _quiet():
                exported = OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic=True))
                exported.save_pretrained(folder)
        except Exception as error:  # torch, onnxscript and transformers raise many kinds
            line = (str(error).strip().splitlines() or ["no message"])[0]
            raise SetupError(
                f"ONNX can't be made of {type(model).__name__}: {type(error).__name__}: {line[:300]}"
            ) from error

    def load(self, work: Workshop, name: FormName, folder: Path) -> Loaded:
        """Open the graph on the CPU."""
        import onnxruntime
        import transformers

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as many as all other forms have
        session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
        config = transformers.AutoConfig.from_pretrained(work.whole(), trust_remote_code=False)
        wanted = [item.name for item in session.get_inputs()]
        given = [item.name for item in session.get_outputs()]

        def _run(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            found = session.run(given, {part: _input(part, inputs).numpy() for part in wanted})
            return dict(zip(given, map(torch.from_numpy, found), strict=True))

        return Loaded(model=EngineModel(config, _run).eval(), scoring=work.plain_scoring())


def _input(name: str, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return an input of the graph; readers leave out masks of ones, and types of tokens where all are of one text."""
    if name in inputs:
        return inputs[name]
    return torch.ones_like(inputs["input_ids"]) if name == "attention_mask" else torch.zeros_like(inputs["input_ids"])


def _sample(work: Workshop, model: Any) -> dict[str, Any]:
    """Return inputs of two texts of different lengths: none of the graph's sizes may be 1, or equal."""
    tokenizer = work.source.scoring.tokenizer
    inputs = dict(tokenizer(["a text", "another text that is longer"], padding=True, return_tensors="pt"))
    if heads.is_generative(model):
        return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
    return inputs


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the exporters' progress and warnings from the console."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
