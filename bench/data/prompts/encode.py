"""Rows -> tokens of prompts, of the possible answers behind them, and of training examples.

A prompt has exactly one beginning-of-text token, no text of the data becomes a special token, and only one field of
a row is truncated.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data.examples import Feature
from bench.data.prompts import shared_affixes
from bench.data.prompts.few_shot import ShotSampler
from bench.data.prompts.shared_affixes import CharSpans, EncodedTexts, TokenIds
from bench.data.prompts.template import Renderer, Shot
from bench.errors import SetupError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """A task's texts for a row: the fields of the template, and the answer in words.

    choices: the words of every possible answer, or () where the answer is free. choices_of: those of a row, where every
    row has its own. truncated: the field that may be cut.
    """

    fields: Callable[[Mapping[str, Any]], dict[str, str]]
    answer: Callable[[Mapping[str, Any]], str]
    choices: tuple[str, ...] = ()
    choices_of: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None
    truncated: str = "text"


@dataclass
class PromptEncoder:
    """Encodes rows as features. `notes`: what was decided on the way, for the record.

    max_length: tokens of a prompt and its longest answer together. max_new_tokens: room for the answer where the model
    writes it, None where the possible answers are known. per_example: other shots for each row. scores_end: the end of
    an answer is a part of its likelihood. learns_prompt: a decoder's prompts are in the loss of training too.
    """

    tokenizer: "PreTrainedTokenizerBase"
    renderer: Renderer
    wording: Wording
    family: str
    max_length: int
    shots: ShotSampler | None = None
    per_example: bool = False
    max_new_tokens: int | None = None
    notes: list[str] = field(default_factory=list)
    scores_end: bool = False
    learns_prompt: bool = False

    def __post_init__(self) -> None:
        if self.renderer.frame is not None and self.renderer.frame.writes_date:
            self.notes.append(
                f"the chat template writes a date: prompting.date, {self.renderer.frame.date}, on every day"
            )
        self.begin_ids, self.close_ids = _special_ids_around(self.tokenizer, self.family)
        self.end_ids = self._end_ids()
        self._escaped: set[str] = set()  # ids of rows
        self._fixed_shots: list[Shot] | None = None
        if self.wording.choices and self.max_new_tokens is None:
            self.scores_end = self._must_score_end()

    def _end_ids(self) -> TokenIds:
        """Return the tokens that end an answer; none follows the first special one."""
        if not self.renderer.chat and self.renderer.end == self.tokenizer.eos_token:
            return [self.tokenizer.eos_token_id]
        lead = self.renderer.lead + "x"
        (alone, _), (with_end, _) = self.tokenize([lead, lead + self.renderer.end])
        ids = with_end[len(alone) :]
        special = [place for place, token in enumerate(ids) if token in self.tokenizer.all_special_ids]
        return ids[: special[0] + 1] if special else ids

    def _must_score_end(self) -> bool:
        """Return whether one answer is the beginning of another, and would always be the likelier one without its end.

        Raises SetupError for two answers with the same tokens.
        """
        ids_of = {words: tuple(self._answer_ids(words)) for words in self.wording.choices}
        for number, words in enumerate(self.wording.choices):
            same = [other for other in self.wording.choices[:number] if ids_of[other] == ids_of[words]]
            if same:
                raise SetupError(
                    f"the answers {same[0]!r} and {words!r} have the same tokens, so the model can't distinguish them; "
                    "reword one of them in prompt.answers"
                )
        for words, ids in ids_of.items():
            longer = [other for other, others in ids_of.items() if others != ids and others[: len(ids)] == ids]
            if longer:
                self.notes.append(
                    f"the answer {words!r} is a prefix of {longer[0]!r}: every answer is scored with its end token, "
                    "else the shorter one would always be the likelier one"
                )
                return True
        return False

    def _answer_ids(self, words: str) -> TokenIds:
        # Behind a letter and a colon: the first token of an answer must not look like that of a text.
        before = "" if self.family == "encoder_decoder" else "a:"
        (alone, _), (with_answer, _) = self.tokenize([before, before + self._answer_text(words)])
        return with_answer[len(alone) :] if before else with_answer

    def _answer_text(self, words: str) -> str:
        return words if self.family == "encoder_decoder" else self.renderer.lead + words

    def num_answer_tokens(self, words: str) -> int:
        """Count the tokens of these words as an answer, without its end."""
        return len(self._answer_ids(words))

    def encode_prompts(self, rows: Sequence[Row]) -> tuple[list[Feature], int]:
        """Return a feature for each row, and how many texts were truncated.

        A feature: {"input_ids": the whole prompt, "prompt_ids": the tokens that the prompt alone and the prompt with
        each answer share, "continuation_ids": the tokens of each answer behind them, "labels": the row's own, "cut",
        "prompt_hash", and "shot_ids" where every row has its own}. Raises SetupError when a prompt leaves no room for
        its text.
        """
        fields, shots = [self._fields(row) for row in rows], [self._shots_of(row) for row in rows]
        encoded, cut = self._encode(rows, fields, shots, own=self._own_choices(rows))
        features: list[Feature] = []
        for number, row in enumerate(rows):
            text_ids, continuation_ids = encoded.text_ids[number], self._with_ends(encoded.continuation_ids[number])
            features.append(
                {
                    "input_ids": self.with_special_ids(text_ids),
                    "prompt_ids": self.with_special_ids(encoded.prompt_ids[number]),
                    "continuation_ids": continuation_ids,
                    # Gold answers, where an answer is free.
                    "labels": row.get("answers", row["label"]),
                    "cut": number in cut,
                    "prompt_hash": prompt_hash(text_ids, continuation_ids),
                }
            )
            if "choices" in row:
                features[-1]["choices"] = row["choices"]
            if self.shots is not None and self.per_example:
                features[-1]["shot_ids"] = [str(shot["id"]) for shot in self.shots.of(str(row["id"]))]
        self.check_beginnings([feature["input_ids"] for feature in features])
        return features, len(cut)

    def encode_train_examples(self, rows: Sequence[Row]) -> tuple[list[Feature], int]:
        """Return a feature {"input_ids", "token_labels", "labels"} for each row, and how many texts were truncated.

        The loss falls on the answer and its end only, or, with `learns_prompt`, on all tokens behind the first.
        Decoders: token_labels are as long as input_ids, -100 on what is not learned. Encoder-decoders: token_labels are
        the answer and its end.
        """
        answers = [self.wording.answer(row) for row in rows]
        fields, shots = [self._fields(row) for row in rows], [self._shots_of(row) for row in rows]
        if self.wording.choices_of is not None:
            # With all choices, so that a prompt ends, and is cut, where that of a scored row is.
            encoded, cut = self._encode(rows, fields, shots, own=self._own_choices(rows))
            chosen = [row["label"] for row in rows]
        else:
            longest = max((self.num_answer_tokens(words) for words in set(answers)), default=0) + len(self.end_ids)
            encoded, cut = self._encode(rows, fields, shots, answers=tuple(dict.fromkeys(answers)), longest=longest)
            places = {words: place for place, words in enumerate(dict.fromkeys(answers))}
            chosen = [places[words] for words in answers]
        features, prompts = [], [self.with_special_ids(ids) for ids in encoded.prompt_ids]
        for number, row in enumerate(rows):
            prompt_ids = prompts[number]
            answer_ids = encoded.continuation_ids[number][chosen[number]] + self.end_ids
            feature: Feature = {"input_ids": prompt_ids, "token_labels": answer_ids}
            if self.family != "encoder_decoder":
                learned = prompt_ids if self.learns_prompt else [-100] * len(prompt_ids)
                feature = {"input_ids": prompt_ids + answer_ids, "token_labels": learned + answer_ids}
            features.append({**feature, "labels": row["label"]})
        self.check_beginnings(prompts)
        return features, len(cut)

    def encode_content_free(self, row: Row, texts: Sequence[str]) -> list[Feature]:
        """Return {"prompt_ids", "continuation_ids"} of texts without content, with the shots that this row gets."""
        fields = [{**self._fields(row), self.wording.truncated: text} for text in texts]
        encoded, cut = self._encode([row] * len(texts), fields, [self._shots_of(row)] * len(texts))
        if cut:
            self.note(f"{len(cut)} of {len(texts)} content-free texts were truncated")
        return [
            {"prompt_ids": self.with_special_ids(ids), "continuation_ids": self._with_ends(continuation_ids)}
            for ids, continuation_ids in zip(encoded.prompt_ids, encoded.continuation_ids, strict=True)
        ]

    def _with_ends(self, continuation_ids: list[TokenIds]) -> list[TokenIds]:
        return [ids + self.end_ids for ids in continuation_ids] if self.scores_end else continuation_ids

    def _shots_of(self, row: Row) -> list[Shot]:
        if self.shots is None:
            return []
        if self.per_example:
            return [self._shot(shot) for shot in self.shots.of(str(row["id"]))]
        if self._fixed_shots is None:
            self._fixed_shots = [self._shot(shot) for shot in self.shots.fixed()]
        return self._fixed_shots

    def _shot(self, row: Row) -> Shot:
        answer = self.wording.answer(row)
        # Words of a card are its author's, those of a row are data.
        return self._fields(row), answer if self.wording.choices_of is None else self._escape(answer, row)

    def _fields(self, row: Row) -> dict[str, str]:
        """Return the row's fields; in a chat, special tokens that are spelt out in them are broken up."""
        fields = self.wording.fields(row)
        return {name: self._escape(text, row) for name, text in fields.items()}

    def _own_choices(self, rows: Sequence[Row]) -> list[tuple[str, ...]] | None:
        """Return the words of each row's choices; None where all rows have the same ones."""
        choices_of = self.wording.choices_of
        if choices_of is None:
            return None
        return [tuple(self._escape(words, row) for words in choices_of(row)) for row in rows]

    def _escape(self, text: str, row: Row) -> str:
        for token in self.tokenizer.all_special_tokens if self.renderer.chat else ():
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
                self._escaped.add(str(row["id"]))
        return text

    def _encode(
        self,
        rows: Sequence[Row],
        fields: list[dict[str, str]],
        shots: list[list[Shot]],
        answers: tuple[str, ...] | None = None,
        longest: int | None = None,
        own: list[tuple[str, ...]] | None = None,
    ) -> tuple[EncodedTexts, set[int]]:
        """Return the tokens of all prompts and their continuations, and the numbers of the rows that were truncated.

        answers: the words of the continuations, by default the wording's choices. longest: tokens to keep free for
        an answer, by default those of the longest one, or max_new_tokens. own: the words of each row's continuations,
        where every row has its own; tokens are then kept free for these alone.
        """
        words = self.wording.choices if answers is None else answers
        texts = [self.renderer.render(given, examples) for given, examples in zip(fields, shots, strict=True)]
        encoded = self._encode_texts(texts, words, own)
        rooms = [len(self.end_ids) + max(map(len, ids), default=0) for ids in encoded.continuation_ids]
        if own is None:
            usual = max(rooms, default=0) if self.max_new_tokens is None else self.max_new_tokens
            rooms = [usual if longest is None else longest] * len(rows)
        num_special = len(self.begin_ids) + len(self.close_ids)
        limits = [self.max_length - num_special - (0 if self.family == "encoder_decoder" else room) for room in rooms]
        too_long = [number for number, ids in enumerate(encoded.text_ids) if len(ids) > limits[number]]
        for number in too_long:
            texts[number] = self._truncated(rows[number], fields[number], shots[number], limits[number])
        if too_long:
            # Encoded again as a whole: the prefix and the end that all have in common are the same as before.
            encoded = self._encode_texts(texts, words, own)
        if encoded.is_fallback:
            self.note("every prompt was tokenized whole: tokenizing their common parts once would change tokens")
        if self._escaped:
            self.note(f"{len(self._escaped)} texts spell out a special token; a space was put into it")
        return encoded, set(too_long)

    def _encode_texts(
        self, texts: list[str], words: Sequence[str], own: list[tuple[str, ...]] | None = None
    ) -> EncodedTexts:
        if own is not None:
            return self._encode_own(texts, own)
        if self.family == "encoder_decoder":
            # The answer is the decoder's own text, not a continuation of the prompt.
            encoded = shared_affixes.encode(self.tokenize, texts, ())
            answers = [self._answer_ids(word) for word in words]
            return replace(encoded, prompt_ids=encoded.text_ids, continuation_ids=[answers] * len(texts))
        return shared_affixes.encode(self.tokenize, texts, [self._answer_text(word) for word in words])

    def _encode_own(self, texts: list[str], own: list[tuple[str, ...]]) -> EncodedTexts:
        """Encode texts of which each has continuations of its own."""
        if self.family == "encoder_decoder":
            encoded = shared_affixes.encode(self.tokenize, texts, ())
            answers = [[self._answer_ids(words) for words in each] for each in own]
            return replace(encoded, prompt_ids=encoded.text_ids, continuation_ids=answers)
        return shared_affixes.encode_each(
            self.tokenize, texts, [[self._answer_text(words) for words in each] for each in own]
        )

    def note(self, sentence: str) -> None:
        """Keep a sentence for the record, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _truncated(self, row: Row, fields: dict[str, str], shots: list[Shot], limit: int) -> str:
        """Return the prompt with the end of its text cut off, so that it has at most `limit` tokens."""
        name = self.wording.truncated
        text, (_, spans) = fields[name], self.tokenize([fields[name]])[0]
        # Without spans a tokenizer's tokens are taken for evenly long.
        ends = [right for _, right in spans] if spans else [round(len(text) * (i + 1) / 100) for i in range(100)]
        keep = len(ends)
        while True:
            prompt = self.renderer.render({**fields, name: text[: ends[keep - 1]] if keep else ""}, shots)
            over = len(self.tokenize([prompt])[0][0]) - limit
            if over <= 0:
                return prompt
            keep -= over
            if keep < 1:
                shown = f"its {len(shots)} shot{'s' if len(shots) > 1 else ''}, " if shots else ""
                raise SetupError(
                    f"the prompt of {row['id']} does not fit max_length {self.max_length}: {shown}the question and "
                    f"{self.max_length - limit} tokens kept for the answer leave no room for the text; raise "
                    f"max_length{' or use fewer shots' if shots else ''}"
                )

    def tokenize(self, texts: list[str]) -> list[tuple[TokenIds, CharSpans | None]]:
        """Return tokens without any of the tokenizer's own around them, and the characters that they stand for."""
        options = {"split_special_tokens": not self.renderer.chat, "return_offsets_mapping": self.tokenizer.is_fast}
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False, **options)
        ids = encoded["input_ids"]
        if not self.renderer.chat:
            # Unigram models find `</s>` among their pieces although it is to be taken as text.
            unknown, special = self.tokenizer.unk_token_id, set(self.tokenizer.all_special_ids)
            if unknown is not None:
                ids = [[unknown if token in special else token for token in row] for row in ids]
        spans = encoded["offset_mapping"] if self.tokenizer.is_fast else [None] * len(ids)
        return list(zip(ids, spans, strict=True))

    def with_special_ids(self, ids: TokenIds) -> TokenIds:
        """Return tokens with what the tokenizer itself puts before and behind a text."""
        opened = ids[: len(self.begin_ids)] == self.begin_ids  # a chat template writes its own beginning
        return ([] if opened else self.begin_ids) + ids + self.close_ids

    def check_beginnings(self, prompts: list[TokenIds]) -> None:
        """Raise SetupError for two beginning-of-text tokens, a known way to lose points without noticing."""
        for ids in prompts if self.begin_ids else ():
            if ids[0] != self.begin_ids[0] or ids.count(self.begin_ids[0]) != 1:
                raise SetupError(
                    f"a prompt has {ids.count(self.begin_ids[0])} beginning-of-text tokens; expected one, at its start"
                )
        bos = self.tokenizer.bos_token_id
        if self.begin_ids or bos is None or bos == self.tokenizer.eos_token_id or self.family == "encoder_decoder":
            return
        most = max((ids.count(bos) for ids in prompts), default=0)
        if most > 1:
            raise SetupError(f"a prompt has {most} beginning-of-text tokens; expected one, at its start")
        if not most:
            self.note(
                f"prompts begin without {self.tokenizer.bos_token!r}: the tokenizer has this beginning-of-text token, "
                "and does not add it"
            )


def _special_ids_around(tokenizer: "PreTrainedTokenizerBase", family: str) -> tuple[TokenIds, TokenIds]:
    """Return the tokens that the tokenizer itself puts before and behind a text."""
    with_special, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    has_begin = with_special and with_special[0] == tokenizer.bos_token_id and with_special[0] not in bare
    # A decoder goes on writing where the prompt stops: no end may stand there.
    return with_special[:1] if has_begin else [], [tokenizer.eos_token_id] if family == "encoder_decoder" else []


def prompt_hash(prompt_ids: TokenIds, continuation_ids: list[TokenIds]) -> str:
    """Return the SHA-256 of the tokens of a prompt and of its answers, shortened to 16 digits."""
    digest = hashlib.sha256()
    for ids in (prompt_ids, *continuation_ids):
        digest.update(np.array([len(ids), *ids], dtype=np.int64).tobytes())
    return digest.hexdigest()[:16]


def prompt_identity(feature: Feature) -> dict[str, Any]:
    """Return what a prediction's line says of its prompt: the hash, and the ids of the row's own shots."""
    return {name: feature[name] for name in ("prompt_hash", "shot_ids") if name in feature}
