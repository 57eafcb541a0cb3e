"""Scores a language model on other data than its own before and after training (`evaluation.also`).

Prompts are those of a run without training (`zero_shot`) on these data, in the format of this run. Both stages score
the same examples by the same prompts, so that their difference is the training's.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.analysis import accessors
from bench.analysis import retention as tests
from bench.config import also_cards, registry, rules
from bench.config.cards import GENERATION_TASK, DatasetCard
from bench.config.recipe import MethodChoice, Prompting, Recipe
from bench.config.training import Also, Evaluation
from bench.data import dataset, squad
from bench.data.builtin import corpora
from bench.data.examples import Encoded
from bench.errors import DataError, ScoreError, SetupError
from bench.evaluation import lm_eval_examples, reference_examples, scoring, text_examples
from bench.evaluation.metric_set import MetricSet, Predictions
from bench.evaluation.reader import Scoring
from bench.evaluation.readers.perplexity import PerplexityReader, windows
from bench.records import record, store
from bench.runner import sharded_scoring
from bench.runner.context import RunContext
from bench.utils import files

KEY = "evaluation.also"
PERPLEXITY = "perplexity_per_token"


@dataclass(frozen=True, kw_only=True)
class AlsoScored:
    """Encoded data that are scored beside the run's own. part: by which predictions are named. found: for the record.

    metric: the one that is compared; None for the one that ranks runs.
    """

    part: str
    split: Encoded
    scoring: Scoring
    found: record.Retention
    metric: str | None = None

    @property
    def is_text(self) -> bool:
        """Return whether it is a running text."""
        return self.metric is not None


def prepare(run: RunContext) -> None:
    """Load and encode what `evaluation.also` names. Raises a BenchError for what can't be had."""
    asked = run.resolved.recipe.evaluation.also
    if not asked:
        return
    with run.clock.phase("load"):
        entries = [Also(dataset=entry) if isinstance(entry, str) else entry for entry in asked]
        run.also = [_of_text(run, entry) if entry.perplexity else _of_card(run, entry) for entry in entries]
    _refuse_alike(run)


def _refuse_alike(run: RunContext) -> None:
    """Raise SetupError for the run's own data, and for entries that are the same data, whatever their names."""
    own = {split.fingerprint: name for name, split in run.inputs.corpus.splits.items()}
    known: dict[str, str] = {}
    for item in run.also:
        found = item.found
        if found.fingerprint in own:
            raise SetupError(
                f"{KEY}: {found.name} has the examples of the run's own split {own[found.fingerprint]!r}, which is "
                "scored before and after training anyway; name other data"
            )
        if found.fingerprint in known:
            raise SetupError(
                f"{KEY}: {known[found.fingerprint]} and {found.name} are the same data; remove one of them"
            )
        known[found.fingerprint] = found.name
    parts = [item.part for item in run.also]
    if len(set(parts)) < len(parts):
        raise SetupError(f"{KEY}: two entries have the same name for their files of predictions: {', '.join(parts)}")


def score(run: RunContext, stage: str) -> None:
    """Score all of them, write their predictions, and fill in the record; after training also what was kept."""
    for item in run.also:
        with run.clock.phase(f"retention_{stage}"), sharded_scoring.in_step(run):
            scored = scoring.run(run.model, item.split, item.scoring, f"{stage} {item.found.name}")
        run.clock.move(f"retention_{stage}", "self_check", scored.check_s)
        for note in scored.notes:
            run.record.note(f"{item.found.name}: {note}")
        run.record.check("ids_complete", True, f"{stage} {item.found.name}: {len(scored.predictions.ids)} examples")
        if run.state.is_main_process:
            with run.clock.phase("metrics"):
                _file(run, item, stage, scored.predictions)


def _file(run: RunContext, item: AlsoScored, stage: str, predictions: Predictions) -> None:
    kept = run.record.retention.setdefault(item.part, item.found.model_copy(deep=True))
    if (kept.fingerprint, kept.signature) != (item.found.fingerprint, item.found.signature):
        raise ScoreError(f"{KEY}: the examples or prompts of {item.found.name} are not those of the stage before")
    path = run.folder / "predictions" / f"{stage}-{item.part}.jsonl"
    scoring.write_predictions(path, predictions, item.scoring.metrics, tuple(item.found.labels))
    kept.scores[stage] = _scores(run, item, stage, predictions)
    run.record.artifacts[f"predictions_{stage}_{item.part}"] = str(path.relative_to(run.folder))
    if stage == "after" and "before" in kept.scores:
        _compare(run, item, kept)


def _scores(run: RunContext, item: AlsoScored, stage: str, predictions: Predictions) -> dict[str, record.Score]:
    if item.is_text:
        lines = tests.lines_of(run.folder / store.FILE, stage, item.part, PERPLEXITY)
        return tests.text_scores(lines, item.found.signature or "")
    scores, directions = item.scoring.metrics.scores(predictions), registry.directions()
    for metric, one in scores.items():
        one.higher_is_better = directions.get(metric)
        one.signature = "|".join(part for part in (one.signature, item.found.signature) if part)
    return scores


def _compare(run: RunContext, item: AlsoScored, kept: record.Retention) -> None:
    """Fill in what was kept by the metric that ranks runs; note why it can't be compared."""
    names = [name for name, one in kept.scores["after"].items() if isinstance(one.value, int | float)]
    metric = item.metric or accessors.ranking_metric(names)
    if metric is None:
        run.record.note(f"{KEY}: {kept.name} has no single score that could be compared")
        return
    try:
        before, after = (tests.lines_of(run.folder / store.FILE, one, item.part, metric) for one in ("before", "after"))
        kept.kept = tests.kept(metric, before, after, kept.labels, multi_label=kept.multi_label, scheme=kept.scheme)
    except DataError as error:
        run.record.note(f"{KEY}: {kept.name} before and after training can't be compared: {error}")


# ---------------------------------------------------------------- data sets


def _of_card(run: RunContext, entry: Also) -> AlsoScored:
    name, card = also_cards.find(entry.dataset or "", KEY)
    if card.source == run.resolved.recipe.dataset.source:
        raise SetupError(
            f"{KEY}: {name} is the run's own data set, which it learns and scores anyway; name data that it does not "
            "learn"
        )
    recipe = _recipe_of(run.resolved.recipe, name, card)
    (split,) = recipe.evaluation.splits
    limit = entry.limit or run.resolved.recipe.limit.get(split)
    corpus = dataset.load(card, {split: limit} if limit else {}, {split})
    names = tuple(_metric_names(recipe))
    squad.check_version(corpus.version, names)
    task = registry.load_task(card.task)
    plan = registry.load_method("zero_shot").load_plan(registry.load_method("zero_shot").Options())
    if card.source.kind == "lm_eval":
        encoded = lm_eval_examples.encode_corpus(recipe, plan, corpus, run.inputs.tokenizer)
    else:
        encode = (reference_examples if card.task == GENERATION_TASK else text_examples).encode_corpus
        encoded = encode(recipe, plan, corpus, task, run.inputs.tokenizer)
    for note in (*corpus.notes, *encoded.notes):
        run.record.note(f"{name}: {note}")
    metrics = MetricSet(
        names,
        multi_label=card.multi_label,
        num_labels=len(corpus.labels),
        tags=corpus.labels if task.READS == "tags" else (),
        scheme=card.scheme,
    )
    return AlsoScored(
        part=_part(name),
        split=encoded.splits[split],
        scoring=replace(run.inputs.scoring, metrics=metrics, reader=encoded.reader),
        found=record.Retention(
            name=name,
            data=card.source.id or name,
            split=split,
            examples=len(encoded.splits[split].ids),
            fingerprint=corpus.splits[split].fingerprint,
            signature=encoded.prompts.signature,
            labels=list(corpus.labels),
            multi_label=card.multi_label,
            scheme=card.scheme,
        ),
    )


def _recipe_of(main: Recipe, name: str, card: DatasetCard) -> Recipe:
    """Return the recipe of a run without training on a card. Raises SetupError for data that can't be asked about."""
    reads, objectives = (registry.literals("tasks", card.task)[key] for key in ("READS", "OBJECTIVES"))
    of_lm_eval = card.source.kind == "lm_eval"
    if "text" not in objectives:
        raise SetupError(f"{KEY}: {name}: task {card.task!r} can't be asked of a language model")
    if card.prompt is None and card.task != GENERATION_TASK and not of_lm_eval:
        raise SetupError(f"{KEY}: {name}: the dataset card has no `prompt`, by which it could be asked about")
    defaults = card.defaults
    split = [*(defaults.get("evaluation") or {}).get("splits", ()), *(["test"] if "test" in card.split_names else [])]
    split += [one for one in reversed(card.split_names) if one != "train"]
    if not split:
        raise SetupError(f"{KEY}: {name}: the data set has only a training split, none to score")
    written = not of_lm_eval and (card.multi_label or reads in ("answers", "numbers"))
    prompting = {
        **(defaults.get("prompting") or {}),
        **{key: getattr(main.prompting, key) for key in ("format", "date", "chat_template_kwargs")},
        "answer": "generate" if written else "label_likelihood",
    }
    longest = [defaults.get("max_length") or main.max_length, main.model.max_length]
    return Recipe(
        dataset=card,
        model=main.model,
        method=MethodChoice(name="zero_shot"),
        objective="text",
        prompting=Prompting(**prompting),
        max_length=min(length for length in longest if length is not None),
        evaluation=Evaluation(splits=(split[0],)),
        seed=main.seed,
    )


def _metric_names(recipe: Recipe) -> Iterator[str]:
    """Yield the card's metrics, or the task's own, that this way to answer has."""
    kind = "multi_label" if recipe.dataset.multi_label else "single_label"
    default = registry.literals("tasks", recipe.dataset.task)["METRICS"]
    given = [name for name in recipe.dataset.metrics or default[kind] if rules.is_defined(name, recipe)]
    yield from dict.fromkeys([*given, *rules.metrics_always(recipe)])


# ---------------------------------------------------------------- running text


def _of_text(run: RunContext, entry: Also) -> AlsoScored:
    recipe, tokenizer, source = run.resolved.recipe, run.inputs.tokenizer, entry.perplexity or ""
    text = _text(source, Path(run.resolved.path).parent)
    split = windows(entry.name, text, tokenizer, recipe.max_length, entry.limit)
    if not split.ids:
        raise DataError(f"{KEY}: {source} has fewer than two tokens, too few to take a perplexity of")
    if "words" not in split.features[0]:
        run.record.note(
            f"{entry.name}: no perplexity per word and no bits per byte: the tokenizer does not say where tokens stand"
        )
    begin = "own" if tokenizer.bos_token_id is None else "bos"
    metrics = MetricSet(("reference_loss",), multi_label=False, num_labels=0)
    return AlsoScored(
        part=_part(entry.name),
        split=split,
        scoring=replace(run.inputs.scoring, metrics=metrics, reader=PerplexityReader),
        found=record.Retention(
            name=entry.name,
            data=source,
            examples=len(split.ids),
            fingerprint=hashlib.sha256(text.encode()).hexdigest(),
            signature=f"windows:{recipe.max_length}_tokens,apart|begin:{begin}",
        ),
        metric=PERPLEXITY,
    )


def _text(source: str, folder: Path) -> str:
    """Return the text of a file, or the texts of a built-in data set's test. Raises DataError for what is not there."""
    if source in corpora.NAMES:
        texts = (row.get("context") or row.get("text") for row in corpora.generate(source)["test"])
        if joined := "\n\n".join(dict.fromkeys(text for text in texts if text)):
            return joined
        raise DataError(f"{KEY}: the built-in data set {source!r} has no running texts")
    for path in (Path(source).expanduser(), folder / source, files.ROOT / source):
        if path.is_file():
            try:
                return files.read_text(path, files.LIMIT_BYTES).removeprefix("\ufeff")
            except (OSError, ValueError) as error:
                raise DataError(f"{KEY}: {path} can't be read as UTF-8 text: {error}") from error
    raise DataError(f"{KEY}: there is no text file {source!r}, and no built-in data set of that name")


def _part(name: str) -> str:
    """Return the name of a part in those of its files of predictions."""
    return "also_" + re.sub(r"[^\w.-]+", "_", name)
