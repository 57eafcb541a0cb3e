"""Examples of a task of lm-evaluation-harness: its own prompts and few-shot examples, tokenized as its HFLM does.

So scores are lm_eval's own, document by document, and the training split is learned from with the same prompt.
"""

import functools
import hashlib
import importlib.metadata
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from bench.config.cards import LM_EVAL_TASK
from bench.config.contracts import LoadPlan
from bench.config.recipe import Prompting, Recipe
from bench.data import card_from_lm_eval, dataset, lm_eval_tasks
from bench.data.examples import Encoded, Feature
from bench.data.prompts.encode import prompt_hash
from bench.data.rows import Split
from bench.errors import SetupError
from bench.evaluation.reader import Reader, Scoring
from bench.evaluation.readers import choices
from bench.evaluation.readers.until import Until, UntilReader
from bench.evaluation.text_examples import TextExamples
from bench.records import record

TokenIds = list[int]
# New tokens where a task does not say how many: the default of lm_eval's HFLM.
MAX_GEN_TOKS = 256
# Documents by which what surrounds a text is known.
_ALIKE = 8


@dataclass(kw_only=True)
class PairEncoder:
    """Tokenizes context and continuation as lm_eval's HFLM does (lm_eval 0.4.13, `LM._encode_pair`).

    max_length: tokens that the model reads; of what is longer the beginning is cut. num_cut: how many contexts were.
    """

    tokenizer: Any
    family: str
    max_length: int
    num_cut: int = 0

    def pair(self, context: str, continuation: str) -> tuple[TokenIds, TokenIds]:
        """Return the tokens of both; spaces at the end of the context belong to the continuation."""
        if not context:
            return self._after_nothing(continuation)
        spaces = len(context) - len(context.rstrip())
        if spaces:
            continuation, context = context[-spaces:] + continuation, context[:-spaces]
        if self.family == "encoder_decoder":
            return self._encode(context), self._encode(continuation, add_special_tokens=False)
        whole, alone = self._encode(context + continuation), self._encode(context)
        return alone, whole[len(alone) :]

    def alone(self, context: str) -> TokenIds:
        """Return the tokens of a prompt that an answer is written to."""
        return self._encode(context) if context else [self._begin_id()]

    def _after_nothing(self, continuation: str) -> tuple[TokenIds, TokenIds]:
        ids, begin = self._encode(continuation, add_special_tokens=False), self._begin_id()
        return ([begin], ids) if begin != ids[0] else (ids[:1], ids[1:])

    def _begin_id(self) -> int:
        first = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if first is None else first)

    def _encode(self, text: str, **options: Any) -> TokenIds:
        if not options and text.startswith(self.tokenizer.decode(self._begin_id())):
            options = {"add_special_tokens": False}  # a chat template has written it
        return list(self.tokenizer.encode(text, **options))

    def row(self, context: str, continuations: Sequence[str], identity: str) -> tuple[TokenIds, list[TokenIds]]:
        """Return the tokens of a context and of what may follow it. Raises SetupError for a continuation without one.

        What is too long for the longest continuation is cut at the beginning of the context.
        """
        pairs = [self.pair(context, continuation) for continuation in continuations]
        empty = next((text for text, (_, ids) in zip(continuations, pairs, strict=True) if not ids), None)
        if empty is not None:
            raise SetupError(f"the continuation {empty!r:.60} of document {identity} has no token of its own")
        ids = pairs[0][0]
        longest = max(len(own) for _, own in pairs)
        # The last token of a continuation is predicted, not read.
        most = self.max_length - (0 if self.family == "encoder_decoder" else longest - 1)
        if most < 1:
            raise SetupError(f"document {identity}: max_length {self.max_length} leaves no room beside its choices")
        self.num_cut += len(ids) > most
        return ids[-most:], [own for _, own in pairs]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The prompts of one split, in the order of lm_eval's documents: context and continuations of each.

    A document with a context for each of its choices has one continuation, the same for all.
    """

    contexts: list[str | list[str]]
    continuations: list[list[str]]


def ask(task: Any, split: str, shots: int, tokenizer: Any, *, chat: bool, most: int | None = None) -> Asked:
    """Return the prompts of all documents of a split, or of the first ones: few-shot examples are drawn one by one."""
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=lm_eval_tasks.FEWSHOT_SEED)
    template = partial(_chat, tokenizer) if chat else None
    contexts, continuations = [], []
    for number, doc in enumerate(itertools.islice(lm_eval_tasks.documents(task, split), most)):
        context = task.fewshot_context(
            doc,
            num_fewshot=shots,
            apply_chat_template=chat,
            fewshot_as_multiturn=True,
            chat_template=template,
            gen_prefix=task.doc_to_prefix(doc),
        )
        about = {"metadata": (task.config.task, number, 1), "apply_chat_template": chat, "chat_template": template}
        requests = task.construct_requests(doc=doc, ctx=context, **about)
        contexts.append(context)
        if task.OUTPUT_TYPE == "generate_until":
            golds = task.doc_to_target(doc)
            gold = golds[0] if isinstance(golds, list) else golds
            continuations.append([f"{'' if chat else task.config.target_delimiter}{gold}"])
        else:
            # Behind them stand those without a context, where a task compares the two.
            own = requests[: len(task.doc_to_choice(doc))]
            continuations.append([request.args[1] for request in own])
            if lm_eval_tasks.asks_by_choice(task):
                contexts[-1], continuations[-1] = [request.args[0] for request in own], continuations[-1][:1]
    return Asked(contexts=contexts, continuations=continuations)


def _chat(tokenizer: Any, turns: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """Render a conversation as lm_eval's HFLM does; a template that knows no system role gets none."""
    import jinja2

    options = {
        "tokenize": False,
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": not add_generation_prompt,
    }
    try:
        return str(tokenizer.apply_chat_template(turns, **options))
    except jinja2.exceptions.TemplateError:
        others = [turn for turn in turns if turn["role"] != "system"]
        return str(tokenizer.apply_chat_template(others, **options))


def encode_corpus(recipe: Recipe, plan: LoadPlan, corpus: dataset.Corpus, tokenizer: Any) -> TextExamples:
    """Encode the splits to score and to train on. Raises SetupError for prompts that can't be made of these data."""
    source, chat = recipe.dataset.source, recipe.prompting.format == "chat"
    if chat and not tokenizer.chat_template:
        raise SetupError("prompting.format is chat, but the tokenizer has no chat template; set format: plain")
    file = lm_eval_tasks.of(source)
    if plan.shots and file.settings.get("num_fewshot") == 0:
        raise SetupError(f"the lm_eval task {file.name!r} sets num_fewshot: 0, so that lm_eval never shows it examples")
    task = lm_eval_tasks.build(file.path)
    encoder = PairEncoder(tokenizer=tokenizer, family=recipe.model.family, max_length=recipe.max_length)
    splits: dict[str, Encoded] = {}
    first, written = "", _until(task, recipe.prompting)
    for name in (name for name in corpus.splits if name != "train" or name in recipe.evaluation.splits):
        asked = ask(task, recipe.dataset.splits[name], plan.shots, tokenizer, chat=chat)
        make = _prompts if task.OUTPUT_TYPE == "generate_until" else _encoded
        splits[name] = make(corpus.splits[name], asked, encoder, written)
        first = first or tokenizer.decode(splits[name].features[0]["input_ids"])
    train = None
    if plan.trains == "gradient":
        if tokenizer.eos_token_id is None:
            raise SetupError("the tokenizer has no end token, so the model can't learn where an answer ends")
        asked = ask(task, recipe.dataset.splits["train"], 0, tokenizer, chat=chat)
        train = _train_examples(corpus.splits["train"], asked, encoder)
    generates = task.OUTPUT_TYPE == "generate_until"
    prompts = record.Prompts(
        format=recipe.prompting.format,
        answer="generate" if generates else "label_likelihood",
        signature=_signature(recipe, plan, file, written if generates else None),
        template_hash=_template_hash(file),
        shots=plan.shots,
        draw=f"lm_eval, seed {lm_eval_tasks.FEWSHOT_SEED}" if plan.shots else None,
        example=first,
    )
    by_choice = lm_eval_tasks.asks_by_choice(task)
    kind = choices.ContextReader if by_choice else choices.ChoiceReader
    reader: Callable[[Any, Encoded, Scoring], Reader] = partial(kind, normalization=recipe.dataset.normalization)
    if generates:
        reader = partial(_until_reader, until=written, judges=_judges(task, recipe, file))
    notes = [] if generates or by_choice else choices.notes(splits.values())
    return TextExamples(splits=splits, train=train, reader=reader, prompts=prompts, notes=notes)


def described(recipe: Recipe, tokenizer: Any) -> dict[str, Any]:
    """Return what a saved model's description says of written answers: what surrounds a text, and what ends an answer.

    "around" is [before, after] of a prompt without shots, None where that depends on the document. Of multiple choice
    only whether prompts hold choices. {} for data of another source.
    """
    if recipe.dataset.source.kind != "lm_eval":
        return {}
    task = lm_eval_tasks.build(lm_eval_tasks.of(recipe.dataset.source).path)
    if recipe.dataset.task != LM_EVAL_TASK:
        return {"choices_in_prompts": True} if lm_eval_tasks.asks_by_choice(task) else {}
    split = recipe.dataset.splits[next(iter(recipe.evaluation.splits))]
    asked = ask(task, split, 0, tokenizer, chat=recipe.prompting.format == "chat", most=_ALIKE)
    texts = [task.doc_to_text(doc) for doc in itertools.islice(lm_eval_tasks.documents(task, split), _ALIKE)]
    pairs = zip(map(str, asked.contexts), texts, strict=True)
    around = {tuple(context.split(text)) for context, text in pairs if text}
    alike = len(around) == 1 and len(next(iter(around))) == 2
    return {"until": {"around": list(around.pop()) if alike else None, **asdict(_until(task, recipe.prompting))}}


def _until_reader(
    model: Any,
    split: Encoded,
    scoring: Scoring,
    *,
    until: Until,
    judges: dict[str, Callable[[Any, str], dict[str, float]]],
) -> UntilReader:
    return UntilReader(model, split, scoring, until, judges[split.name])


def _until(task: Any, prompting: Prompting) -> Until:
    """Return how answers end: as the task says, unless the recipe sets how many tokens they may have."""
    options = task.config.generation_kwargs or {}
    stops = options.get("until") or []
    own = options.get("max_gen_toks", options.get("max_new_tokens", MAX_GEN_TOKS))
    asked = prompting.max_new_tokens
    return Until(
        stops=tuple([stops] if isinstance(stops, str) else stops),
        max_new_tokens=int(own) if asked == Prompting().max_new_tokens else asked,
    )


def _judges(
    task: Any, recipe: Recipe, file: lm_eval_tasks.TaskFile
) -> dict[str, Callable[[Any, str], dict[str, float]]]:
    """Return, by split, what scores the answer to one of its documents, by the task's own filters and functions."""
    from lm_eval.api.instance import Instance
    from lm_eval.filters import build_filter_ensemble

    names = card_from_lm_eval.filter_names(file.settings)
    listed = file.settings.get("filter_list") or [{"name": "none", "filter": [{"function": "take_first"}]}]
    steps = [
        [
            (step["function"], {key: value for key, value in step.items() if key != "function"})
            for step in item["filter"]
        ]
        for item in listed
    ]
    filters = [build_filter_ensemble(name, own) for name, own in zip(names, steps, strict=True)]
    documents = functools.cache(partial(lm_eval_tasks.documents, task))

    def judge(split: str, number: int, text: str) -> dict[str, float]:
        """Return "<metric>,<filter>" -> value."""
        doc = documents(recipe.dataset.splits[split])[number]
        values = {}
        for name, each in zip(names, filters, strict=True):
            asked = Instance("generate_until", doc, ("", {}), 0, metadata=(task.config.task, number, 1), resps=[text])
            each.apply([asked])
            found = task.process_results(doc, [asked.filtered_resps[name]])
            metric = card_from_lm_eval.WRITTEN_METRIC
            if metric not in found or float(found[metric]) not in (0.0, 1.0):
                shown = f"{metric} {found[metric]!r}" if metric in found else f"no {metric}"
                raise SetupError(f"the lm_eval task {file.name!r} gives document {number} {shown}; expected 0 or 1")
            values[f"{metric},{name}"] = float(found[metric])
        return values

    return {name: partial(judge, name) for name in recipe.dataset.splits}


def _prompts(split: Split, asked: Asked, encoder: PairEncoder, written: Until) -> Encoded:
    """Encode prompts whose answers are written, cut at their beginning to leave room for these."""
    features: list[Feature] = []
    before, most = encoder.num_cut, encoder.max_length
    most -= 0 if encoder.family == "encoder_decoder" else written.max_new_tokens
    if most < 1:
        raise SetupError(
            f"max_length {encoder.max_length} leaves no room for a prompt beside {written.max_new_tokens} new tokens; "
            "raise it, or set prompting.max_new_tokens"
        )
    for row in split.rows:
        ids = encoder.alone(str(asked.contexts[int(row["id"])]))
        encoder.num_cut += len(ids) > most
        ids = ids[-most:]
        document = int(row["id"])
        features.append(
            {"input_ids": ids, "labels": row["answers"], "document": document, "prompt_hash": prompt_hash(ids, [])}
        )
    return Encoded(
        name=split.name,
        ids=tuple(row["id"] for row in split.rows),
        features=features,
        truncated=encoder.num_cut - before,
        in_words=True,
    )


def _encoded(split: Split, asked: Asked, encoder: PairEncoder, _: Until) -> Encoded:
    features: list[Feature] = []
    before = encoder.num_cut
    for row in split.rows:
        number = int(row["id"])
        context = asked.contexts[number]
        if isinstance(context, list):
            features.append(_by_choice(row, context, asked.continuations[number], encoder))
            continue
        prompt_ids, continuation_ids = encoder.row(context, asked.continuations[number], row["id"])
        features.append(
            {
                "input_ids": prompt_ids,
                "prompt_ids": prompt_ids,
                "continuation_ids": continuation_ids,
                "labels": row["label"],
                "choices": row["choices"],
                "prompt_hash": prompt_hash(prompt_ids, continuation_ids),
            }
        )
    ids = tuple(row["id"] for row in split.rows)
    return Encoded(name=split.name, ids=ids, features=features, truncated=encoder.num_cut - before)


def _by_choice(row: dict[str, Any], contexts: list[str], continuation: list[str], encoder: PairEncoder) -> Feature:
    """Encode a document that asks by a prompt for each choice. The prompts are cut each by itself, as lm_eval does."""
    pairs = [encoder.row(context, continuation, row["id"]) for context in contexts]
    parts = [{"prompt_ids": ids, "continuation_ids": own} for ids, own in pairs]
    return {
        "input_ids": pairs[0][0],
        "parts": parts,
        "labels": row["label"],
        "choices": row["choices"],
        "continuation_ids": [own[0] for _, own in pairs],
        "prompt_hash": prompt_hash([], [[*ids, *own[0]] for ids, own in pairs]),
    }


def _train_examples(split: Split, asked: Asked, encoder: PairEncoder) -> Encoded:
    """Encode what is learned: the right choice behind its prompt, and the end token."""
    features: list[Feature] = []
    before, end = encoder.num_cut, encoder.tokenizer.eos_token_id
    for row in split.rows:
        number = int(row["id"])
        context, place = asked.contexts[number], row["label"]
        if isinstance(context, list):
            context, place = context[place], 0
        prompt_ids, continuation_ids = encoder.row(context, asked.continuations[number], row["id"])
        # Of written answers there is one continuation, the first gold text.
        answer_ids = [*continuation_ids[place], end]
        if encoder.family == "encoder_decoder":
            feature: Feature = {"input_ids": prompt_ids, "token_labels": answer_ids}
        else:
            labels = [*[-100] * len(prompt_ids), *answer_ids]
            feature = {"input_ids": [*prompt_ids, *answer_ids], "token_labels": labels}
        features.append({**feature, "labels": row["label"]})
    ids = tuple(row["id"] for row in split.rows)
    return Encoded(name=split.name, ids=ids, features=features, truncated=encoder.num_cut - before)


def _signature(recipe: Recipe, plan: LoadPlan, file: lm_eval_tasks.TaskFile, written: Until | None) -> str:
    """Return every setting of the prompts that moves a score."""
    version = (file.settings.get("metadata") or {}).get("version", "none")
    return "|".join(
        [
            f"lm_eval:{importlib.metadata.version('lm_eval')}",
            f"task:{file.name},version:{version}",
            f"answer:{'label_likelihood' if written is None else 'generate'}|format:{recipe.prompting.format}",
            f"normalization:{recipe.dataset.normalization}" if written is None else _ends(written),
            f"shots:{plan.shots}" + (f",seed:{lm_eval_tasks.FEWSHOT_SEED}" if plan.shots else ""),
        ]
    )


def _ends(written: Until) -> str:
    stops = hashlib.sha256(repr(written.stops).encode()).hexdigest()[:8]
    return f"greedy,max_new_tokens:{written.max_new_tokens},until:{stops}"


def _template_hash(file: lm_eval_tasks.TaskFile) -> str:
    """Return the hash of what the task's files say, without where its data lie."""
    kept = sorted((key, repr(value)) for key, value in file.settings.items() if key != "dataset_kwargs")
    return hashlib.sha256(repr(kept).encode()).hexdigest()[:16]
