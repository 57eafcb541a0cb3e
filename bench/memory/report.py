"""Memory plans for people: the lines of `python -m bench plan`, and the tables of `reports/plan.md`."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config import prices, registry, resolve, without_model
from bench.config.cards import GENERATION_TASK
from bench.config.resolve import SHIPPED, Resolved
from bench.data import dataset
from bench.data import tokenizer as tokenizers
from bench.data.rows import texts_of
from bench.errors import BenchError, SetupError
from bench.evaluation import reference_examples, text_examples
from bench.memory import cautions, disk, fragmentation, inference, largest, needs, phases, search, state_sizes, timing
from bench.memory.needs import Needs
from bench.memory.planner import Lengths, MemoryPlan, Parallelism, Prediction, assumed, longest_texts
from bench.memory.scoring import scoring_bytes
from bench.memory.verdict import (
    Card,
    Judged,
    asked_card,
    gib,
    others_of_this_size,
    precision_of,
    refused_products,
    verdict,
)
from bench.models import build
from bench.utils import hardware
from bench.utils.hardware import GIB

# Texts that are tokenised to know their lengths; more would cost time and move the longest one but little.
MOST_TEXTS = 2000
# Sizes of a split for which the memory of its scoring is shown.
SCORED_EXAMPLES = (1_000, 100_000)
# Memory of a host for which the largest model with offload is said.
HOST_BYTES = 512 * GIB


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """A plan as it is asked for. gpu: a size or a device's name; None for all of SIZES.

    rows, length: in place of the recipe's micro-batch, and of all texts' length. records: of runs whose time a forecast
    of time rests on, where they are of the same device. costs: a file of prices; see `prices.load`. gpus_per_host: for
    what a run needs of each host; None: as many as a host has at most.
    """

    path: Path
    overrides: tuple[str, ...] = ()
    gpu: str | None = None
    parallelism: Parallelism = field(default_factory=Parallelism)
    precision: str | None = None
    rows: int | None = None
    length: int | None = None
    records: Path | None = None
    costs: Path | None = None
    gpus_per_host: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The lines of a plan, the verdict first, and whether it fits what was asked for; or anything, if nothing was.

    needs: bytes that a machine must have for it. refused: why a run would be refused there though it fits.
    """

    lines: list[str]
    fits: bool
    needs: Needs = field(default_factory=Needs)
    refused: list[str] = field(default_factory=list)


def lines(request: PlanRequest) -> list[str]:
    """Return the plan in plain text. Raises BenchError for what can't be planned."""
    return answer(request).lines


def answer(request: PlanRequest) -> Answer:
    """Return the plan of a recipe. Raises BenchError for what can't be planned."""
    card, costs = asked_card(request.gpu), prices.load(request.costs)
    if request.records is not None:
        timing.check_records(request.records, card)
    load = _loader(request)
    resolved = load(())
    if not without_model.uses_model(resolved.recipe.method.name):
        return Answer(lines=_without_model(resolved), fits=True)
    precision = precision_of(request.precision, card)
    load_plan = state_sizes.load_plan(resolved, trained=False)[1]
    refused = refused_products(card, resolved.recipe, load_plan, precision)
    if not resolved.by_gradients:
        return _of_scoring(resolved, card, request, refused)
    plan = MemoryPlan.of(
        resolved, request.parallelism, precision=precision, lengths=lengths_of(resolved), capability=card.capability
    )
    plan.lengths = _asked_lengths(request, plan.lengths, search.longest_read(plan))
    length = plan.lengths.longest
    rows, said = search.planned(plan, length, card.usable)
    prediction = plan.predict(rows, length)
    where = f"micro-batches of {rows} x {length} tokens"
    fits, first = verdict(prediction.needed, card, where)
    narrow = fragmentation.tight(prediction, card.usable) if card.usable is not None else []
    kind, world = plan.parallelism.kind, plan.parallelism.world
    tight, evidence = cautions.of_sharding(prediction.needed, card.usable, kind, world)

    def _judge(other: Card) -> Judged:
        own = precision_of(request.precision, other)
        needed = dataclasses.replace(plan, precision=own, capability=other.capability).predict(rows, length).needed
        no_bf16 = refused_products(other, resolved.recipe, load_plan, own)
        near = cautions.of_sharding(needed, other.usable, kind, world)[0]
        return Judged(needed=needed, precision=own, refused=no_bf16, tight=near)

    shown = [cautions.headline(first, tight), *narrow, *refused, *others_of_this_size(card, _judge), *evidence]
    shown += [*cautions.of_fp16(plan.model.config, precision), *_summary(plan, prediction), *said]
    shown += [*cautions.of_overrides(resolved), *_parts(prediction), *phases.lines(plan, prediction)]
    if card.usable is not None:
        shown += _largest(plan, prediction, card.usable)
    if card.usable is not None and not fits:
        shown += _to_make_it_fit(plan, length, card.usable, request)
    if card.usable is not None and plan.parallelism.shards_weights:
        shown.append(largest.sentence(card.usable, plan.parallelism, HOST_BYTES))
    shown += [*_scoring(resolved), *disk.lines(plan), *timing.lines(plan, rows, card, request.records, costs)]
    per_host = request.gpus_per_host or phases.GPUS_PER_HOST
    return Answer(lines=shown, fits=fits, needs=needs.of_training(plan, prediction, per_host), refused=refused)


def _without_model(resolved: Resolved) -> list[str]:
    """Return the plan of a method that uses no model, and so no GPU."""
    name = resolved.recipe.method.name
    first = f"fits any GPU: method {name!r} uses no model and no GPU; it is fitted on the CPU, in the host's memory"
    return [first, *_scoring(resolved)]


def _to_make_it_fit(plan: MemoryPlan, length: int, usable: int, request: PlanRequest) -> list[str]:
    """Return a line for each set of changes with which a run fits, as arguments of one command."""
    ways = search.ways_to_fit(plan, length, usable, _loader(request))
    if not ways:
        return [f"no known change makes it fit at {length} tokens; take a smaller model or more GPUs"]
    beginnings = [f"to make it fit at {length} tokens", *[f"or else at {length} tokens"] * len(ways)]
    return [way.line(start, _own(request)) for start, way in zip(beginnings, ways, strict=False)]


def _of_scoring(resolved: Resolved, card: Card, request: PlanRequest, refused: list[str]) -> Answer:
    lengths = _asked_lengths(request, lengths_of(resolved), resolved.recipe.model.max_length)

    def _on(other: Card, precision: str) -> inference.InferencePlan:
        return inference.plan(
            resolved,
            precision=precision,
            lengths=lengths,
            usable=other.usable,
            parallelism=request.parallelism,
            capability=other.capability,
        )

    def _judge(other: Card) -> Judged:
        own = precision_of(request.precision, other)
        loaded = state_sizes.load_plan(resolved, trained=False)[1]
        again = refused_products(other, resolved.recipe, loaded, own)
        return Judged(needed=_on(other, own).total, precision=own, refused=again)

    found = _on(card, precision_of(request.precision, card))
    fits, first = verdict(found.total, card, f"batches of {found.tokens} tokens")
    shown = [
        first,
        *refused,
        *others_of_this_size(card, _judge),
        *cautions.of_fp16(found.model.config, found.precision),
    ]
    shown += [*found.lines(), *cautions.of_overrides(resolved), *_scoring(found.resolved)]
    if card.usable is not None and not fits:
        shown += found.to_make_it_fit(card.usable, _loader(request))
    needed = needs.of_scoring(found, request.gpus_per_host or request.parallelism.world)
    return Answer(lines=[*shown, *disk.of_scoring(found)], fits=fits, needs=needed, refused=refused)


def _loader(request: PlanRequest) -> Callable[[tuple[str, ...]], Resolved]:
    return search.loader(request.path, _own(request))


def _own(request: PlanRequest) -> tuple[str, ...]:
    return request.overrides + (() if request.rows is None else (f"{search.ROWS}{request.rows}",))


def _asked_lengths(request: PlanRequest, read: Lengths, longest: int | None) -> Lengths:
    """Return the lengths that are planned for, as --length asks or as they were read. longest: that the model reads."""
    if request.length is None:
        return read
    most = longest or search.LONGEST
    if not 1 <= request.length <= most:
        raise SetupError(f"--length {request.length} is outside of what the model reads: 1 to {most} tokens")
    return dataclasses.replace(
        read,
        longest=request.length,
        mean=float(request.length),
        answers=request.length if read.answers >= read.longest else min(read.answers, request.length),
        source="as asked for with --length",
    )


def lengths_of(resolved: Resolved) -> Lengths:
    """Read lengths from the data, if these and the tokenizer need no download; else what the recipe allows."""
    reason = _why_not_readable(resolved)
    if reason is not None:
        return dataclasses.replace(assumed(resolved.recipe), source=f"max_length of the recipe; {reason}")
    try:
        return _read(resolved)
    except BenchError as error:
        return dataclasses.replace(assumed(resolved.recipe), source=f"max_length of the recipe; {error}")


def _why_not_readable(resolved: Resolved) -> str | None:
    card, source = resolved.recipe.model, resolved.recipe.dataset.source
    if source.kind == "hub":
        return "the data are on the Hub"
    place = card.tokenizer.id or card.id
    if card.tokenizer.train is None and card.package is None and place is not None and not Path(place).is_dir():
        from huggingface_hub import try_to_load_from_cache

        if not isinstance(try_to_load_from_cache(place, "tokenizer_config.json"), str):
            return "the tokenizer is not in the local cache"
    return None


def _read(resolved: Resolved) -> Lengths:
    given = resolved.recipe
    needed = {"train", *given.evaluation.splits}
    limits = {name: min(given.limit.get(name, MOST_TEXTS), MOST_TEXTS) for name in needed}
    part, limit = given.data, limits["train"]
    if part.train_examples is not None:
        part = part.model_copy(update={"train_examples": min(part.train_examples, limit)})
    corpus = dataset.load(given.dataset, limits, needed, part, given.seed)
    rows = corpus.splits["train"].rows
    texts = (text for row in rows for text in texts_of(row))
    tokenizer, _ = tokenizers.build(given.model, build.locate(given.model), texts)
    task, answers = registry.load("tasks", given.dataset.task), 0
    if given.objective == "text":
        writes = given.dataset.task == GENERATION_TASK
        encode_corpus = reference_examples.encode_corpus if writes else text_examples.encode_corpus
        asked = encode_corpus(given, state_sizes.load_plan(resolved, trained=False)[1], corpus, task, tokenizer)
        features = asked.train.features if asked.train is not None else []
        answers = max((sum(label != -100 for label in row["token_labels"]) for row in features), default=0)
        if asked.train is None:  # what trains nothing reads the texts that it scores
            features = [row for split in asked.splits.values() for row in split.features]
            rows = features
    else:
        train = dataclasses.replace(corpus, splits={"train": corpus.splits["train"]})
        features = task.encode(train, tokenizer, given).train.features
    counts, choices = longest_texts(features)
    whole = len(rows) < limit
    each = f" with up to {choices} choices each" if choices > 1 else ""
    return Lengths(
        longest=max(counts),
        mean=sum(counts) / len(counts),
        answers=answers,
        source=f"the longest of {len(rows)} {'' if whole else 'sampled '}texts{each}, {max(counts)} tokens",
        examples=len(rows) if whole else None,
        choices=choices,
    )


def _summary(plan: MemoryPlan, prediction: Prediction) -> list[str]:
    parallelism, resolved = plan.parallelism, plan.resolved
    how = "" if parallelism.world == 1 else f", {parallelism.kind}"
    how += ", offload to the CPU" if parallelism.offload == "cpu" else ""
    gpus = "1 GPU" if parallelism.world == 1 else f"{parallelism.world} GPUs"
    optimizer = resolved.recipe.training.optimizer
    checkpointed = ", gradient checkpointing" if resolved.recipe.training.gradient_checkpointing else ""
    answers = f", {plan.lengths.answers} of each text in the loss" if plan.lengths.answers else ""
    return [
        f"{resolved.path}: {resolved.recipe.method.name}, {optimizer}{checkpointed}; {gpus}{how}, {plan.precision}",
        f"micro-batch: {prediction.rows} x {prediction.length} tokens{answers} ({plan.lengths.source})",
        f"trainable parameters: {plan.states.num_trainable:,}",
    ]


def _parts(prediction: Prediction) -> list[str]:
    shown = [f"  {name:<20} {gib(size):>12}" for name, size in prediction.parts.items()]
    shown.append(f"  {'each GPU':<20} {gib(prediction.total):>12}  peak, in {prediction.moment}")
    if prediction.whole > prediction.total:
        shown.append(
            f"  {'other phases':<20} {gib(prediction.whole):>12}  on each GPU, to load, score or save the model"
        )
    shown += [f"  {'host: ' + name:<20} {gib(size):>12}  over all processes" for name, size in prediction.host.items()]
    shown.append(
        "  CUDA: context, kernels and workspaces take 0.3 to 0.6 GiB, depending on device and driver; 0.5 assumed"
    )
    shown.append(
        "  fragmentation: 5 % of activations and working memory, 10 % of gradients that come meanwhile are allowed for"
    )
    shown.append(f"  {fragmentation.measured()}")
    return shown


def _scoring(resolved: Resolved) -> list[str]:
    """Return what scoring takes on the host, by the labels of the card; of labels found in the data only nothing."""
    card = resolved.recipe.dataset
    if not card.labels or registry.load("tasks", card.task).READS != "labels":
        return []
    sizes = (scoring_bytes(examples, len(card.labels), multi_label=card.multi_label) for examples in SCORED_EXAMPLES)
    shown = " and ".join(f"{gib(size)} of {count:,}" for size, count in zip(sizes, SCORED_EXAMPLES, strict=True))
    return [f"  host: scoring and metrics of {len(card.labels)} labels take {shown} examples"]


def _largest(plan: MemoryPlan, prediction: Prediction, available_bytes: int) -> list[str]:
    dividing, rows = search.largest_dividing(plan, prediction.length, available_bytes)
    share = max(1, plan.resolved.recipe.training.global_batch // plan.parallelism.world)
    length = search.largest_length(plan, prediction.rows, available_bytes)
    more = f"{rows} or more" if rows == search.MOST_ROWS else f"{rows}"
    beside = "" if dividing == rows else f"; {more} would fit"
    return [
        f"largest micro-batch at {prediction.length} tokens: {dividing or 'none'}, of those that divide a GPU's "
        f"{share} examples of a step{beside}",
        f"longest texts at micro-batches of {prediction.rows}: {f'{length} tokens' if length else 'none'}",
    ]


# Recipes of the models of 2025, and encoders of these years: the table shows them on 12 and 24 GiB.
_OF_TODAY = (
    "imdb/qwen3_0_6b-text_lora_12gib",
    "imdb/qwen3_4b-text_qlora_12gib",
    "imdb/qwen3_8b-text_qlora_12gib",
    "imdb/gemma3_270m-text_full_12gib",
    "imdb/gemma3_1b-text_lora_12gib",
    "imdb/gemma3_4b-text_qlora_12gib",
    "imdb/smollm3_3b-text_qlora_12gib",
    "imdb/llama31_8b-text_qlora_12gib",
    "imdb/ministral3_8b-text_qlora_12gib",
    "imdb/olmo3_7b-text_qlora_12gib",
)
_ENCODERS = ("imdb/modernbert_base-full", "imdb/eurobert_210m-full", "imdb/xlm_roberta_base-full")
# Shipped recipe -> the GPU that it is made for. Each must be predicted to fit, with some memory to spare.
MADE_FOR = {
    "sst2/mistral_7b_v03-text_qlora": "12GiB",
    "imdb/mistral_7b_v03-text_qlora_12gib": "12GiB",
    "squad/mistral_7b_v03-text_qlora_12gib": "12GiB",
    "imdb/mistral_7b_v03-text_qlora_24gib": "24GiB",
    "squad/mistral_7b_v03-text_qlora_24gib": "24GiB",
    "sst2/gemma_7b-text_qlora": "12GiB",
    "imdb/gemma_7b-text_qlora_12gib": "12GiB",
    "squad/gemma_7b-text_qlora_12gib": "12GiB",
    "imdb/gemma_7b-text_qlora_24gib": "24GiB",
    "squad/gemma_7b-text_qlora_24gib": "24GiB",
    "sst2/gemma_2b-text_lora_12gib": "12GiB",
    "imdb/gemma_2b-text_lora_12gib": "12GiB",
    "squad/gemma_2b-text_lora_12gib": "12GiB",
    "sst2/llama32_1b-full_24gib": "24GiB",
    "imdb/llama32_1b-full_24gib": "24GiB",
    "squad/llama32_1b-full_24gib": "24GiB",
    **dict.fromkeys(_OF_TODAY, "12GiB"),
}
_FULL = ("method=full", "training.optimizer=adamw_torch_fused")
# (recipe, overrides, GPU, parallelism): what people ask first.
COMBINATIONS: tuple[tuple[str, tuple[str, ...], str, Parallelism], ...] = (
    *((name, (), gpu, Parallelism()) for name, gpu in MADE_FOR.items()),
    *((name, (), "24GiB", Parallelism()) for name in _OF_TODAY),
    *((name, (), gpu, Parallelism()) for name in _ENCODERS for gpu in ("12GiB", "24GiB")),
    ("imdb/gemma_2b-text_qlora", (), "12GiB", Parallelism()),
    ("sst2/llama32_1b-full", (), "24GiB", Parallelism()),
    ("sst2/bert_base_uncased-full", (), "12GiB", Parallelism()),
    ("squad/roberta_base-full", (), "12GiB", Parallelism()),
    ("imdb/distilbert_base_uncased-full", (), "12GiB", Parallelism()),
    ("sst2/mistral_7b_v03-text_qlora", _FULL, "80GiB", Parallelism(world=8, zero=2)),
    ("sst2/mistral_7b_v03-text_qlora", _FULL, "80GiB", Parallelism(world=8, zero=3)),
)
# Llama 2 and 3 of 70 billion parameters, as published.
SEVENTY = {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": "false",
}  # fmt: skip
WORLDS = tuple(2**power for power in range(11))


def report() -> str:
    """Return `reports/plan.md`: predictions for shipped recipes, and on paper for 70 billion parameters."""
    return "\n".join([*_INTRODUCTION, *_combinations(), "", *_seventy()]) + "\n"


_INTRODUCTION = (
    "# What fits where, predicted",
    "",
    "Made by `python -m bench plan --table -o reports/plan.md`, from the recipes alone: nothing was downloaded or",
    "measured. Peak GiB on each GPU of a training step, in bf16, with texts as long as the recipe's max_length.",
    "",
    "A size of GPU stands for what the smallest card that is sold with it gives to programs (24 GB: 23.52 GiB of an",
    "RTX 4090). The largest batch is the largest micro-batch that divides the global batch.",
    "",
)


def _combinations() -> list[str]:
    shown = [
        "| recipe | GPUs | micro-batch | weights | gradients, optimizer | activations | other | total | fits "
        "| largest batch | largest length | to make it fit |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    plans: dict[Any, MemoryPlan] = {}
    for name, overrides, gpu, parallelism in COMBINATIONS:
        available_bytes, load = (
            hardware.memory(gpu),
            _loader(PlanRequest(path=SHIPPED / f"{name}.yaml", overrides=overrides)),
        )
        # One recipe on two sizes of GPU is one plan.
        if (name, parallelism) not in plans:
            plans[name, parallelism] = MemoryPlan.of(load(()), parallelism)
        plan = plans[name, parallelism]
        prediction = plan.predict(plan.budget.per_device_batch, plan.lengths.longest)
        fits = prediction.needed <= available_bytes
        chosen = [] if fits else search.cheapest_fit(plan, prediction.length, available_bytes, load)
        how = f"{parallelism.world} x {gpu}" + (f", ZeRO-{parallelism.zero}" if parallelism.zero else "")
        cells = [
            name + "".join(f", {item}" for item in overrides),
            how,
            f"{prediction.rows} x {prediction.length}",
            *_grouped(prediction),
            "yes" if fits else "no",
            search.largest_dividing(plan, prediction.length, available_bytes)[0] or "none",
            search.largest_length(plan, prediction.rows, available_bytes) or "none",
            ", ".join(change.what for change in chosen) or ("" if fits else "no known change"),
        ]
        shown.append("| " + " | ".join(map(str, cells)) + " |")
    return shown


GROUPS = {
    "weights": ("weights", "adapters and head", "gathered weights", "weights in 16 bits"),
    "trained": ("gradients", "optimizer", "master weights", "communication"),
    "activations": ("activations", "working memory"),
    "other": ("cuBLAS", "CUDA", "fragmentation"),
}


def _grouped(prediction: Prediction) -> list[str]:
    sizes = [sum(prediction.parts.get(name, 0) for name in names) for names in GROUPS.values()]
    return [f"{size / GIB:.2f}" for size in (*sizes, prediction.total)]


def plan_70b() -> MemoryPlan:
    """Plan all weights of a Llama of 70 billion parameters, micro-batches of one text of 2,048 tokens, recomputed."""
    overrides = [f"model.architecture.{name}={value}" for name, value in SEVENTY.items()]
    overrides += ["objective=text", "max_length=2048", "training.global_batch=1024", "training.per_device_batch=1"]
    overrides += ["training.gradient_checkpointing=true"]
    return MemoryPlan.of(resolve.load(SHIPPED / "sst2" / "llama32_1b-full.yaml", tuple(overrides)), Parallelism())


def _seventy() -> list[str]:
    plan: Any = plan_70b()
    count = plan.states.num_trainable / 1e9
    shown = [
        f"## On paper: a Llama of {count:.1f} billion parameters over 1 to {WORLDS[-1]:,} GPUs",
        "",
        "All weights trained in float32 with bf16 autocast, AdamW, one text of 2,048 tokens on each GPU, gradient",
        "checkpointing. Peak GiB on each GPU in training; the last column is what each needs to load, score and save.",
        "",
        "| GPUs | ZeRO-1 | ZeRO-2 | ZeRO-3 | whole |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for world in WORLDS:
        predictions = [
            dataclasses.replace(plan, parallelism=Parallelism(world=world, zero=stage)).predict(1, 2048)
            for stage in (1, 2, 3)
        ]
        sizes = [f"{one.total / GIB:,.1f}" for one in predictions] + [f"{predictions[0].whole / GIB:,.1f}"]
        shown.append(f"| {world} | {' | '.join(sizes)} |")
    return shown
