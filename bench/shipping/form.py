"""Contract of a form of a shipped model, and what all forms are made from: the run's whole model in a plain folder."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from bench.errors import BenchError, SetupError
from bench.evaluation import export
from bench.evaluation.engines.completions_api import Server
from bench.evaluation.reader import Scoring
from bench.records import store
from bench.shipping.names import FormName
from bench.shipping.source import Source

WHOLE = "whole"
# Files of weights, by which a form's size is told.
WEIGHTS = (".safetensors", ".onnx", ".data", ".gguf")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A form that answers. scoring: the run's own, as this model can be scored. close: gives up what is no memory."""

    model: Any
    scoring: Scoring
    notes: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None


class Form(Protocol):
    """A module of this package that makes one kind of form."""

    def why_not(self, work: "Workshop", name: FormName) -> str | None:
        """Return why this form can't be made of the run's model, in one sentence; None where nothing is known yet."""

    def make(self, work: "Workshop", name: FormName, folder: Path) -> None:
        """Write the form's files into a folder. Raises BenchError where that is impossible."""

    def load(self, work: "Workshop", name: FormName, folder: Path) -> Loaded:
        """Return the form, loaded from its files alone."""


@dataclass(kw_only=True)
class Workshop:
    """Where forms are made. place: of their files. server: for the form `vllm`. keep: files are needed to the end."""

    source: Source
    place: Path
    server: Server | None = None
    keep: bool = False
    _loader: str | None = field(default=None, init=False)
    _refusal: str | None = field(default=None, init=False)

    def whole(self) -> Path:
        """Return the folder of the run's whole model, an adapter merged; made when it is first needed.

        Raises SetupError, each time with the same sentence, where transformers has no class for it.
        """
        if self._refusal is not None:
            raise SetupError(self._refusal)
        folder = self.place / WHOLE
        if self._loader is None:
            request = export.ExportRequest(run=self.source.run, out=folder, merge=self.source.is_adapter)
            try:
                self._loader = export.export(request)[0].loader
            except BenchError as error:
                self._refusal = str(error).removeprefix("--merge: ").split("; export it")[0]
                raise SetupError(self._refusal) from error
            (folder / store.FILE).unlink()  # a report over the run's folder would count it as another run
        return folder

    def load_whole(self, folder: Path, **options: Any) -> Any:
        """Return a model in evaluation mode from a folder, by the class of transformers for the whole model."""
        import transformers

        assert self._loader is not None, "the whole model is made first"
        model = getattr(transformers, self._loader).from_pretrained(folder, trust_remote_code=False, **options)
        return model.eval()

    def build_whole(self, folder: Path) -> Any:
        """Return a model of the same class with random weights, by the config in a folder."""
        import transformers

        assert self._loader is not None, "the whole model is made first"
        kind = getattr(transformers, self._loader)
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
        return model.eval()

    @property
    def writes(self) -> bool:
        """Return whether answers are written, not chosen by a head or a likelihood."""
        recipe = self.source.recipe
        return recipe.objective == "text" and recipe.prompting.answer != "label_likelihood"

    def plain_scoring(self) -> Scoring:
        """Return the run's scoring without what reaches into a model of torch: rows by ordinary forwards."""
        from bench.models.batch_budget import CPU_BUDGET

        tokens = self.source.scoring.batch_tokens or CPU_BUDGET
        return replace(self.source.scoring, shared_prefix=False, batch_tokens=tokens)


def size_of(folder: Path) -> int:
    """Return the bytes of the files of weights in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in WEIGHTS)
