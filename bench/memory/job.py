"""A training job of any program, in plain settings: what `bench plan --job FILE` forecasts.

    model: llama32_1b  # a model card, a Hub id or folder whose config is there, or `architecture:` below
    adapter: {peft_type: LORA, r: 16, target_modules: [q_proj, v_proj]}  # or the path of an adapter_config.json
    micro_batch: 4
    lengths: [512]

Nothing of the harness's own training is assumed: weights are held in `dtype`, autocast is off, all tokens get logits.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bench.config import named_cards, registry, resolve, yaml_loader
from bench.config.fields import InvalidKey, PositiveInt, Share, Strict, Text
from bench.config.layers import Layers
from bench.config.validation import Problems, validate
from bench.errors import RecipeError

Sixteen = Literal["bfloat16", "float16", "float32"]
COMMAND_LINE = "command line"


class LitgptLora(Strict):
    """LoRA as litgpt has it. on: the parts of a model that have one."""

    r: PositiveInt = 8
    dropout: Share = 0.05
    on: tuple[Literal["query", "key", "value", "projection", "mlp", "head"], ...] = ("query", "value")


class Job(Strict):
    """Settings of a job. padded: batches hold pads, and have a mask of them.

    code: whose model and loss: transformers' (with PEFT's adapters), or litgpt's. adapter_dtype: None is float32, to
    which PEFT casts adapters by itself; `dtype` leaves them in that. optimizer: its state has the type of what is
    trained, 32 bits in paged_adamw_32bit, and 8 in 8bit. lengths: tokens of the texts of each step, in turn; a single
    one is taken twice. loss_tokens: of each text, which alone get logits, in chunks; None for all, by the model's own
    loss. use_cache: the model returns keys and values, as transformers' do unless told otherwise or checkpointed.
    keeps_outputs: the loop's variable keeps the outputs of a step until the next forward pass has run. clip: gradients
    are clipped by their norm. empty_cache: torch.cuda.empty_cache is called between the steps. old_bitsandbytes:
    litgpt's 4-bit products make the whole weight and keep their input, as those before 0.44 did. stable_embedding: with
    4-bit weights a StableEmbedding takes the embedding's place, as in litgpt from 0.4 on. gpus: over which FSDP shards
    weights, gradients and optimizer, block by block; all else is said of each of them.
    """

    model: Text | None = None
    architecture: dict[str, Any] = Field(default_factory=dict)
    code: Literal["transformers", "litgpt"] = "transformers"
    dtype: Sixteen = "bfloat16"
    quantization: Literal["nf4", "nf4-dq"] | None = None
    adapter: dict[str, Any] | Text | None = None
    lora: LitgptLora | None = None
    adapter_dtype: Sixteen | None = None
    autocast: Literal["bf16", "fp16"] | None = None
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    padded: bool = True
    use_cache: bool = True
    optimizer: Literal[
        "adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "sgd"
    ] = "adamw_torch"
    checkpointing: bool = False
    micro_batch: PositiveInt = 1
    accumulation: PositiveInt = 1
    lengths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    loss_tokens: PositiveInt | None = None
    keeps_outputs: bool = False
    clip: bool = True
    empty_cache: bool = False
    gpus: PositiveInt = 1
    old_bitsandbytes: bool = False
    stable_embedding: bool = True

    @model_validator(mode="after")
    def _together(self) -> "Job":
        if (self.model is None) == (not self.architecture):
            raise InvalidKey("model", "name a `model`, or give its `architecture`: exactly one of them")
        if self.architecture and not isinstance(self.architecture.get("model_type"), str):
            raise InvalidKey("architecture", "transformers' `model_type` is missing, e.g. llama")
        if self.code == "litgpt":
            given = {"adapter": self.adapter, "autocast": self.autocast, "loss_tokens": self.loss_tokens}
            for key in (name for name, value in given.items() if value is not None):
                raise InvalidKey(
                    key, "this is for code transformers; litgpt's LoRA is `lora`, its loss is on all tokens"
                )
        elif self.lora is not None:
            raise InvalidKey(
                "lora", "this is litgpt's (code: litgpt); with transformers give PEFT's config as `adapter`"
            )
        if isinstance(self.adapter, dict) and not isinstance(self.adapter.get("peft_type"), str):
            raise InvalidKey("adapter", "PEFT's `peft_type` is missing, e.g. LORA")
        if self.quantization is not None and self.adapter is None and self.lora is None:
            raise InvalidKey("quantization", "weights in 4 bits are not trained; give an adapter")
        if self.gpus > 1 and (self.quantization is not None or self.optimizer.startswith("paged")):
            raise InvalidKey("gpus", "weights in 4 bits and paged optimizers are planned on one GPU alone")
        return self

    @property
    def steps(self) -> tuple[int, ...]:
        """Return the tokens of the texts of each step."""
        return self.lengths * 2 if len(self.lengths) == 1 else self.lengths


def load(path: Path, overrides: tuple[str, ...] = ()) -> Job:
    """Return the job of a file, YAML or JSON; overrides: as of a recipe, "key.path=value".

    Raises RecipeError with a line for each problem.
    """
    document = yaml_loader.read(path)
    layers, problems = Layers(), Problems()
    layers.lay(document.data, ("job",), document)
    for text in overrides:
        dotted, equals, value = text.partition("=")
        if not equals or not all(dotted.split(".")):
            raise RecipeError(f"{COMMAND_LINE}: {text!r} is not of the form key.path=value")
        given = yaml_loader.override(tuple(dotted.split(".")), value, COMMAND_LINE)
        layers.lay(given.data, ("job", *given.inside), given)
    job = None
    with problems.collect():
        job = validate(Job, layers.data["job"], layers, ("job",))
    problems.raise_any()
    assert job is not None
    if isinstance(job.adapter, str):
        file = path.parent / job.adapter
        found = yaml_loader.read(file if file.is_file() or not Path(job.adapter).is_file() else Path(job.adapter)).data
        job = Job.model_validate({**job.model_dump(), "adapter": found})
    return job


def architecture_of(job: Job) -> tuple[dict[str, Any], str | None]:
    """Return (a transformers config's fields, None), or ({}, the id or folder that has one) where no card is named."""
    if job.model is None:
        return dict(job.architecture), None
    cards = registry.files(resolve.CARD_FOLDERS["model"])
    if job.model in cards:
        card: Any = resolve.load_card("model", cards[job.model])
        if card.architecture:
            return dict(card.architecture), None
        return {}, card.id
    if not named_cards.is_path(job.model) and "/" not in job.model and not Path(job.model).is_dir():
        raise RecipeError(
            f"model: {job.model!r} is neither a model card (`bench list models`), nor a Hub id such as org/name, nor a "
            "folder; its sizes can be given as `architecture`"
        )
    return {}, job.model
