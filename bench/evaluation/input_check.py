"""Checks before anything is scored that a model has rows for all tokens, positions and kinds of text of the data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.data.examples import Encoded, Feature
from bench.errors import SetupError
from bench.models import input_limits
from bench.models.heads import is_generative, unwrapped
from bench.models.input_limits import InputLimits


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A text that a model reads, and the tokens that it writes behind it. types: of the tokens read.

    answer: tokens of the longest answer that are not among those read.
    """

    read: Sequence[int]
    written: Sequence[int] = ()
    types: Sequence[int] = ()
    answer: int = 0


def check(model: Any, tokenizer: Any, splits: Mapping[str, Encoded], max_new_tokens: int | None = None) -> list[str]:
    """Return findings that a reader should know of; raise SetupError for what the model has no row for.

    On a CPU it would be an IndexError in the midst of a run, on a GPU a failed assertion of the device that says
    nothing. max_new_tokens: where answers are written. splits: encoded; nothing is written to "train".
    """
    reads = input_limits.of_input(model)
    writes = input_limits.of_answers(model) if is_generative(model) else reads
    apart = bool(unwrapped(model).config.is_encoder_decoder) and is_generative(model)
    findings = _check_tokens(tokenizer, splits, min(reads.tokens, writes.tokens), apart=apart)
    for name, split in splits.items():
        new_tokens = None if name == "train" else max_new_tokens
        text, answer = _longest(split, apart=apart, new_tokens=new_tokens)
        findings += _check_positions(f"{name}: the longest text", text, reads)
        if apart:
            findings += _check_positions(f"{name}: the longest answer", answer, writes)
        if reads.types is not None:
            _check_types(name, split, reads.types)
    return findings


def _rows(feature: Feature, *, apart: bool) -> Iterator[_Row]:
    """Yield the rows that are run for one example: its text, or its windows, pairs, or prompt with the labels.

    apart: an encoder-decoder writes its answers apart from what it reads.
    """
    for key in ("windows", "pairs", "content_free"):
        for part in feature.get(key, ()):
            yield from _rows(part, apart=apart)
    if "windows" in feature or "pairs" in feature:
        return
    if "continuation_ids" in feature:
        answers = feature["continuation_ids"]
        tokens = [token for ids in answers for token in ids]
        yield _Row(read=feature["prompt_ids"], written=tokens, answer=max(map(len, answers), default=0))
    else:
        labels = [token for token in feature.get("token_labels", ()) if token >= 0] if apart else ()
        types = feature.get("token_type_ids", ())
        yield _Row(read=feature["input_ids"], written=labels, types=types, answer=len(labels))


def _check_tokens(tokenizer: Any, splits: Mapping[str, Encoded], rows: int, *, apart: bool) -> list[str]:
    sizes = f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary {rows}"
    advice = "take the tokenizer that the model was trained with, or a checkpoint whose embeddings were resized to it"
    pad = tokenizer.pad_token_id
    if pad is not None and pad >= rows:
        raise SetupError(f"{sizes}: its pad token {tokenizer.pad_token!r} is number {pad}; {advice}")
    if max(tokenizer.get_vocab().values(), default=0) < rows:
        return []
    for name, split in splits.items():
        for identity, feature in zip(split.ids, split.features, strict=True):
            token = max((max([*row.read, *row.written], default=0) for row in _rows(feature, apart=apart)), default=0)
            if token >= rows:
                shown = tokenizer.convert_ids_to_tokens(token)
                raise SetupError(f"{sizes}: {name} {identity!r} holds {shown!r}, which is number {token}; {advice}")
    return [f"{sizes}; no text of these data holds one of those beyond"]


def _longest(split: Encoded, *, apart: bool, new_tokens: int | None) -> tuple[int, int]:
    """Return the positions that the longest text needs, and those of the longest answer that is written apart."""
    texts, answers = [0], [0]
    for feature in split.features:
        for row in _rows(feature, apart=apart):
            answer = row.answer if new_tokens is None else new_tokens
            # The last token of an answer is not read, unless it is not known yet which one is the last.
            behind = 0 if apart else answer if new_tokens is not None else max(0, answer - 1)
            texts.append(len(row.read) + behind)
            answers.append(answer)
    return max(texts), max(answers)


def _check_positions(what: str, longest: int, limits: InputLimits) -> list[str]:
    if limits.positions is not None:
        if longest > limits.positions:
            raise SetupError(
                f"{what} needs {longest} positions, and the model has {limits.positions}; set max_length to "
                f"{limits.positions} or less, or take a model with more positions"
            )
        return []
    if limits.context is None or longest <= limits.context:
        return []
    return [
        f"{what} has {longest} tokens, and the model was made for {limits.context} (max_position_embeddings): what it "
        "makes of longer ones is not what it learned"
    ]


def _check_types(name: str, split: Encoded, types: int) -> None:
    for identity, feature in zip(split.ids, split.features, strict=True):
        for row in _rows(feature, apart=False):
            if max(row.types, default=0) >= types:
                raise SetupError(
                    f"{name} {identity!r}: the tokenizer numbers the parts of a text up to {max(row.types)}, and the "
                    f"model knows {types} kinds (type_vocab_size); take the tokenizer that belongs to the model"
                )
