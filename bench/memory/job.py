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
from bench.config.fields import Distinct, InvalidKey, PositiveInt, Share, Strict, Text
from bench.config.layers import Layers
from bench.config.validation import Problems, validate
from bench.errors import RecipeError

# Fields of an architecture that are sizes, by the names that families give them.
SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "n_embd", "n_layer", "n_head", "d_model", "d_ff", "num_layers", "num_heads", "n_positions",
    "max_position_embeddings",
)  # fmt: skip
Sixteen = Literal["bfloat16", "float16", "float32"]
COMMAND_LINE = "command line"


class LitgptLora(Strict):
    """LoRA as litgpt has it. on: the parts of a model that have one."""

    r: PositiveInt = 8
    dropout: Share = 0.05
    on: Annotated[
        tuple[Literal["query", "key", "value", "projection", "mlp", "head"], ...], Field(min_length=1), Distinct
    ] = ("query", "value")


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
        self._check_sizes()
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
        self._check_effects()
        if self.quantization is not None and self.adapter is None and self.lora is None:
            raise InvalidKey("quantization", "weights in 4 bits are not trained; give an adapter")
        if self.gpus > 1 and (self.quantization is not None or self.optimizer.startswith("paged")):
            raise InvalidKey("gpus", "weights in 4 bits and paged optimizers are planned on one GPU alone")
        return self

    def _check_sizes(self) -> None:
        """Raise InvalidKey for sizes of an architecture that no model has."""
        known = self.architecture
        for name in SIZES:
            if isinstance(value := known.get(name), int | float) and value < 1:
                raise InvalidKey(f"architecture.{name}", f"expected a number above 0, got {value}")
        heads, groups = known.get("num_attention_heads"), known.get("num_key_value_heads")
        if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
            raise InvalidKey(
                "architecture.num_key_value_heads",
                f"{heads} heads of queries can't share {groups} heads of keys evenly",
            )

    def _check_effects(self) -> None:
        """Raise InvalidKey for a setting that the job can't honour: what is said of a job must be in its plan."""
        flash_in_32 = self.attention == "flash_attention_2" and self.dtype == "float32" and self.autocast is None
        litgpt, four_bits = self.code == "litgpt", self.quantization is not None
        rules = (
            (not flash_in_32, "attention", "flash_attention_2 computes in 16 bits alone"),
            (not litgpt or self.attention == "sdpa", "attention", "code litgpt calls torch's sdpa alone"),
            (not litgpt or "use_cache" not in self.model_fields_set, "use_cache", "this is for code transformers"),
            (self.adapter_dtype is None or self.adapter is not None, "adapter_dtype", "there is no `adapter`"),
            (not self.old_bitsandbytes or (litgpt and four_bits), "old_bitsandbytes", "only with litgpt in 4 bits"),
            (self.stable_embedding or (litgpt and four_bits), "stable_embedding", "only with litgpt in 4 bits"),
        )
        for holds, key, why in rules:
            if not holds:
                raise InvalidKey(key, f"{why}; remove or change it")

    @property
    def steps(self) -> tuple[int, ...]:
        """Return the tokens of the texts of each step."""
        return self.lengths * 2 if len(self.lengths) == 1 else self.lengths


def load(path: Path, overrides: tuple[str, ...] = ()) -> Job:
    """Return the job of a file, YAML or JSON; overrides: as of a recipe, "key.path=value".

    Raises RecipeError with a line for each problem.
    """
    document = yaml_loader.read(path)
    if {"dataset", "method"} & set(document.data) and "lengths" not in document.data:
        raise RecipeError(f"{path}: this is a recipe, and no job of another program; plan it without --job")
    layers, problems = Layers(), Problems()
    layers.lay(document.data, ("job",), document)
    given_before = set[str]()
    for text in overrides:
        dotted, equals, value = text.partition("=")
        if dotted in given_before:
            raise RecipeError(f"{COMMAND_LINE}: {dotted}: this key is given twice")
        given_before.add(dotted)
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
        if not isinstance(found.get("peft_type"), str):
            raise RecipeError(f"{file}: PEFT's `peft_type` is missing, e.g. LORA")
        job = job.model_copy(update={"adapter": found})
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
