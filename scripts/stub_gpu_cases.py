"""The runs that `scripts/stub_gpu_check` makes to execute every branch that is there for CUDA alone."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Device:
    """A made-up GPU: compute capability, GiB as torch sees them at most, name as CUDA reports it."""

    capability: str
    gib: float
    name: str


DEVICES = {
    "T4": Device(capability="7.5", gib=14.6, name="Tesla T4"),
    "A100": Device(capability="8.0", gib=79.2, name="NVIDIA A100-SXM4-80GB"),
    "RTX 3060": Device(capability="8.6", gib=11.6, name="NVIDIA GeForce RTX 3060"),
    "RTX 4090": Device(capability="8.9", gib=23.6, name="NVIDIA GeForce RTX 4090"),
    "H100": Device(capability="9.0", gib=79.2, name="NVIDIA H100 80GB HBM3"),
    "RTX 5050": Device(capability="12.0", gib=5.7, name="NVIDIA GeForce RTX 5050"),
}
USUAL = "RTX 4090"
# A few steps on a few examples: each branch once.
SHORT = ("limit={train: 36, test: 8}", "evaluation.batch_tokens=2048")
STEPS = ("training.epochs=null", "training.steps=3", "training.warmup=0", "training.log_every=1")
SOLVER = "torch.linalg runs in cuSOLVER, which the stub does not emulate"
TRITON = "TRL's loss is a kernel in Triton, which the stub does not emulate"
FOURIER = "cuFFT, which the stub does not emulate"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run. expects: the status it must end with. hook: what happens to it, e.g. `oom:train`, `stop`.

    refuses: what the sentence says by which the run must be refused. skipped: why the stub can't run it. after: the
    case whose folder it goes on in.
    """

    name: str
    group: str
    recipe: str
    overrides: tuple[str, ...] = ()
    device: str = USUAL
    precision: str = "bf16"
    expects: str = "ok"
    hook: str | None = None
    cap: str | None = None
    refuses: str | None = None
    skipped: str | None = None
    after: str | None = None


TRAINED = {
    "full": "tiny/bert-full", "full, entailment answers": "tiny/bert-entailment", "tags": "tiny/bert-notices",
    "numbers": "tiny/bert-ratings", "several labels": "tiny/distilbert-multilabel", "scratch": "tiny/gpt2-scratch",
    "few_shot": "tiny/gpt2-few_shot", "qlora, head": "tiny/llama-qlora", "qlora, text": "tiny/llama-text_qlora",
    "zero_shot": "tiny/llama-zero_shot", "lora, head": "tiny/mistral-lora", "lora, text": "tiny/mistral-text_lora",
    "probe": "tiny/albert-probe", "encoder-decoder, full": "tiny/t5-full", "head": "tiny/t5-head",
    "last_layers": "tiny/t5-last_layers", "encoder-decoder, text": "tiny/t5-text_full",
    "choices, head": "endings/bert-full", "choices, text": "endings/llama-text_full",
    "spans, head": "passages/bert-full",
    "spans, head, v2": "passages/bert-full_v2", "spans, few_shot": "passages/llama-few_shot",
    "spans, lora": "passages/llama-lora", "spans, text": "passages/llama-text_full",
    "written answers": "written/tiny_llama-full", "written answers, encoder-decoder": "written/tiny_t5-full",
}  # fmt: skip
METHODS = "methods, tasks and objectives"
UNTRAINED = ("few_shot", "zero_shot", "entailment", "probe")

LINEAR = "target_modules: all-linear"
# PEFT's configuration class, its fields, and why the stub can't run it, if so.
ADAPTERS: dict[str, tuple[str, str, str | None]] = {
    "DoRA": ("LoraConfig", f"use_dora: true, r: 4, {LINEAR}", None),
    "rsLoRA": ("LoraConfig", f"use_rslora: true, r: 4, {LINEAR}", None),
    "PiSSA": ("LoraConfig", f"init_lora_weights: pissa, r: 4, {LINEAR}", SOLVER),
    "OLoRA": ("LoraConfig", f"init_lora_weights: olora, r: 4, {LINEAR}", SOLVER),
    "orthogonal LoRA": ("LoraConfig", f"init_lora_weights: orthogonal, r: 4, {LINEAR}", SOLVER),
    "IA3": ("IA3Config", "target_modules: [k_proj, down_proj], feedforward_modules: [down_proj]", None),
    "LoHa": ("LoHaConfig", "r: 4, target_modules: [q_proj, v_proj]", None),
    "LoKr": ("LoKrConfig", "r: 4, target_modules: [q_proj, v_proj]", None),
    "VeRA": ("VeraConfig", "r: 4, target_modules: [q_proj, v_proj]", None),
    "VB-LoRA": ("VBLoRAConfig", "r: 4, num_vectors: 16, vector_length: 32, target_modules: [q_proj, v_proj]", None),
    "OFT": ("OFTConfig", "oft_block_size: 8, target_modules: [q_proj, v_proj]", None),
    "BOFT": ("BOFTConfig", "boft_block_size: 8, target_modules: [q_proj, v_proj]", SOLVER),
    "HRA": ("HRAConfig", "r: 4, target_modules: [q_proj, v_proj]", None),
    "MiSS": ("MissConfig", "r: 4, target_modules: [q_proj, v_proj]", None),
    "RandLoRA": ("RandLoraConfig", "r: 4, target_modules: [q_proj, v_proj]", None),
    "SHiRA": ("ShiraConfig", "r: 4, target_modules: [q_proj, v_proj]", None),
    "FourierFT": ("FourierFTConfig", "n_frequency: 16, target_modules: [q_proj, v_proj]", FOURIER),
    "LN tuning": ("LNTuningConfig", "target_modules: [input_layernorm, post_attention_layernorm]", None),
    "prompt tuning": ("PromptTuningConfig", "num_virtual_tokens: 4", None),
    "prefix tuning": ("PrefixTuningConfig", "num_virtual_tokens: 4", None),
    "P-tuning": ("PromptEncoderConfig", "num_virtual_tokens: 4, encoder_hidden_size: 16", None),
}
OPTIMIZERS = ("adamw_torch", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "adafactor", "sgd")
PHASES = ("load", "score_before", "self_check", "train", "validate", "score_after", "save", "check_saved")
# Of what differs between generations: kernels with and without pads, a shared prefix, answers, generation, 4 bits.
CORE = ("full", "lora, text", "qlora, text", "few_shot", "encoder-decoder, text")
GENERATIONS = (
    ("T4", "fp16"), ("T4", "no"), ("A100", "bf16"), ("RTX 3060", "bf16"), ("RTX 3060", "fp16"), ("H100", "bf16"),
    ("RTX 5050", "bf16"), ("RTX 4090", "no"),
)  # fmt: skip


def _short(group: str, recipe: str, *more: str) -> tuple[str, ...]:
    steps = () if any(word in recipe for word in UNTRAINED) else STEPS
    # A model is saved, and scored again as it was saved, by every method once; a run that goes on is one to its end.
    saved = () if group in (METHODS, "out of memory", "stop and resume") else ("save=false",)
    return (*SHORT, *steps, *saved, *more)


def _case(group: str, name: str, recipe: str, *more: str, **others: str | None) -> Case:
    return Case(name=name, group=group, recipe=recipe, overrides=_short(group, recipe, *more), **others)  # type: ignore[arg-type]


def cases() -> list[Case]:
    """Return every run, in the order in which they are made; names are unique."""
    text, llama = "tiny/mistral-text_lora", "tiny/llama-text_qlora"
    found = [_case(METHODS, name, recipe) for name, recipe in TRAINED.items()]
    for name, (peft, fields, skipped) in ADAPTERS.items():
        given = f"method={{name: lora, peft: {peft}, config: {{{fields}}}}}"
        # Virtual tokens are for a head alone, of an encoder unless they are a prefix of keys and values.
        heads = {"prefix tuning": "tiny/mistral-lora", "prompt tuning": "tiny/bert-full", "P-tuning": "tiny/bert-full"}
        found.append(_case("adapters", name, heads.get(name, text), given, skipped=skipped))
        if heads.get(name) == "tiny/bert-full":
            padding = "would make a decoder's head read padding"
            found.append(_case("adapters", f"{name}, decoder", "tiny/mistral-lora", given, refuses=padding))
    found += [_case("optimizers", name, "tiny/bert-full", f"training.optimizer={name}") for name in OPTIMIZERS]
    found += [
        _case("optimizers", f"{name}, 4 bits", llama, f"training.optimizer={name}")
        for name in ("paged_adamw_8bit", "adamw_bnb_8bit")
    ]
    found += _four_bits(llama)
    found += _engines(text)
    for device, precision in GENERATIONS:
        found += [
            _case("generations", f"{device}, {precision}: {name}", TRAINED[name], device=device, precision=precision)
            for name in CORE
        ]
    found += _before_ampere(text, llama)
    found += _switches(text)
    found += _out_of_memory()
    found += _stopped()
    return found


def _four_bits(recipe: str) -> list[Case]:
    kinds = {
        "fp4": "method.quant_type=fp4", "single quantisation": "method.double_quant=false",
        "computes in bfloat16": "method.compute_dtype=bfloat16", "computes in float16": "method.compute_dtype=float16",
        "stored as bfloat16": "method.storage=bfloat16", "stored as float32": "method.storage=float32",
        "adapters in bfloat16": "method.dtype=bfloat16",
    }  # fmt: skip
    return [_case("4 bits", name, recipe, given) for name, given in kinds.items()]


def _engines(text: str) -> list[Case]:
    # Both engines: the Trainer's child is SFTTrainer where a model learns to write.
    found = []
    for engine in ("trainer", "loop"):
        for name, recipe in (("head", "tiny/bert-full"), ("text", text), ("4 bits", "tiny/llama-text_qlora")):
            for precision in ("bf16", "fp16", "no"):
                label = f"{engine}, {name}, {precision}"
                found.append(_case("engines", label, recipe, f"training.engine={engine}", precision=precision))
        validated = ("training.evaluate_every=2", "training.best=f1_macro")
        found.append(
            _case("engines", f"{engine}, validated", "tiny/bert-full", f"training.engine={engine}", *validated)
        )
    return found


def _before_ampere(text: str, llama: str) -> list[Case]:
    """Return runs that ask a T4 for bfloat16, by the launcher or by a key of the recipe."""
    units, scaled = "has no units for bf16", "whose scaled gradients are for parameters in float32"
    adapters_alone = "method.config.modules_to_save=null"
    in_bf16 = "method={name: lora, dtype: bfloat16, config: {r: 4, target_modules: all-linear}}"
    given: dict[str, tuple[str, str, str | None, tuple[str, ...]]] = {
        "bf16 by the launcher": ("tiny/bert-full", "bf16", units, ()),
        "4 bits computed in bfloat16": (llama, "fp16", units, ("method.compute_dtype=bfloat16",)),
        "4 bits computed in float16": (llama, "fp16", None, ("method.compute_dtype=float16",)),
        "weights in bfloat16": (text, "no", units, ("model.dtype=bfloat16",)),
        "weights in bfloat16, fp16": (text, "fp16", None, ("model.dtype=bfloat16", adapters_alone)),
        "an embedding trained in bfloat16, fp16": (text, "fp16", scaled, ("model.dtype=bfloat16",)),
        "adapters in bfloat16": (text, "no", units, (in_bf16,)),
        "adapters in bfloat16, fp16": (text, "fp16", scaled, (in_bf16,)),
    }
    return [
        _case("generations", f"T4: {name}", recipe, *more, device="T4", precision=precision, refuses=refuses)
        for name, (recipe, precision, refuses, more) in given.items()
    ]


def _switches(text: str) -> list[Case]:
    recomputed = "training.gradient_checkpointing=true"
    offloaded, searched = "training.activation_offload=true", "training.per_device_batch=auto"
    given: dict[str, tuple[str, tuple[str, ...]]] = {
        "activations recomputed, head": ("tiny/bert-full", (recomputed,)),
        "activations recomputed, text": (text, (recomputed,)),
        "activations recomputed, 4 bits": ("tiny/llama-text_qlora", (recomputed,)),
        "activations offloaded, head": ("tiny/bert-full", (recomputed, offloaded)),
        "activations offloaded, text": (text, (recomputed, offloaded)),
        "activations offloaded, loop": (text, (recomputed, offloaded, "training.engine=loop")),
        "batch searched, head": ("tiny/bert-full", (searched,)),
        "batch searched, text": (text, (searched,)),
        "accumulation": (text, ("training.per_device_batch=8",)),
        "pads computed": (text, ("speed.padding_free=false",)),
        "all logits, loop": (text, ("speed.answer_logits=false", "training.engine=loop")),
        "no expandable segments": (text, ("speed.expandable_segments=false",)),
        "16-bit copies kept": (text, (recomputed, "speed.drop_copies=false")),
        "label smoothing": ("tiny/bert-full", ("training.label_smoothing=0.1",)),
        "eager attention": (text, ("model.attention=eager",)),
        "weights in bfloat16": (text, ("model.dtype=bfloat16",)),
        "dropout in LoRA": (text, ("method.config={r: 4, lora_dropout: 0.1, target_modules: all-linear}",)),
        "dropout in attention": (text, ("model.architecture.attention_dropout=0.1",)),
    }
    found = [_case("switches", name, recipe, *more) for name, (recipe, more) in given.items()]
    by_trl = "speed.answer_logits=false"
    return [*found, _case("switches", "all logits, trainer", text, by_trl, skipped=TRITON)]


def _out_of_memory() -> list[Case]:
    validated = ("training.evaluate_every=2", "training.best=f1_macro")
    found = [
        _case("out of memory", f"in phase {phase}", "tiny/bert-full", *validated, expects="oom", hook=f"oom:{phase}")
        for phase in PHASES
    ]
    found += [
        _case("out of memory", f"in phase {phase}, text", "tiny/mistral-text_lora", expects="oom", hook=f"oom:{phase}")
        for phase in ("score_before", "train", "score_after")
    ]
    # Of a cap, CUDA's context is counted as half a GiB: of these, 10 and 31 MiB are left.
    found.append(
        _case("out of memory", "under a cap", "tiny/bert-full", "max_length=128", expects="oom", cap="0.51GiB")
    )
    searched = "training.per_device_batch=auto"
    found.append(_case("out of memory", "a batch searched under a cap", "tiny/bert-full", searched, cap="0.53GiB"))
    return found


def _stopped() -> list[Case]:
    found = []
    for name, recipe, more in (
        ("head", "tiny/bert-full", ()),
        ("text", "tiny/mistral-text_lora", ()),
        ("4 bits", "tiny/llama-text_qlora", ("training.optimizer=paged_adamw_8bit",)),
        ("head, loop", "tiny/bert-full", ("training.engine=loop",)),
        ("head, loop in fp16", "tiny/bert-full", ("training.engine=loop",)),
    ):
        precision = "fp16" if "fp16" in name else "bf16"
        first = f"stopped, {name}"
        found.append(
            _case("stop and resume", first, recipe, *more, expects="interrupted", hook="stop", precision=precision)
        )
        found.append(_case("stop and resume", f"resumed, {name}", recipe, *more, after=first, precision=precision))
    return found
