"""Rows -> questions in tokens: the prompt, the possible answers behind it, and examples to learn from.

Exactly one beginning-of-text token, no text of the data taken for a special token, and only the text field shortened.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.data.prompts import shared_affixes
from bench.data.prompts.few_shot import Shots
from bench.data.prompts.template import Renderer, Solved
from bench.errors import SetupError

Tokens = list[int]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What a task says of its rows: fields of the template, the answer in words, and the texts that may be cut.

    choices: the words of every possible answer, or () where the answer is free. shortened: the field to cut.
    """

    fields: Callable[[Mapping[str, Any]], dict[str, str]]
    answer: Callable[[Mapping[str, Any]], str]
    choices: tuple[str, ...] = ()
    shortened: str = "text"


@dataclass
class Asker:
    """Makes features of rows. max_length: tokens of a prompt and its longest answer together.

    room: tokens to keep free for what is written, or None when the answers are known. `notes`: what was decided.
    """

    tokenizer: Any
    renderer: Renderer
    wording: Wording
    family: str
    max_length: int
    shots: Shots | None = None
    per_example: bool = False
    room: int | None = None
    notes: list[str] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        self.begin, self.close = _around(self.tokenizer, self.family)
        self.end_ids = self._end_ids()
        self._mangled: set[str] = set()
        self._fixed: list[Solved] | None = None
        if self.wording.choices and self.room is None:
            self.ended = self._must_end()

    def _end_ids(self) -> Tokens:
        """The tokens that end an answer; none follows the first special one."""
        if not self.renderer.chat and self.renderer.end == self.tokenizer.eos_token:
            return [self.tokenizer.eos_token_id]
        lead = self.renderer.lead + "x"
        (alone, _), (ended, _) = self._tokens_of([lead, lead + self.renderer.end])
        ids = ended[len(alone) :]
        special = [place for place, token in enumerate(ids) if token in self.tokenizer.all_special_ids]
        return ids[: special[0] + 1] if special else ids

    def _must_end(self) -> bool:
        """Whether answers must be scored with their end: one begins another, and would always be the likelier one."""
        endings = {words: tuple(self._ending(words)) for words in self.wording.choices}
        for number, words in enumerate(self.wording.choices):
            same = [other for other in self.wording.choices[:number] if endings[other] == endings[words]]
            if same:
                raise SetupError(
                    f"the answers {same[0]!r} and {words!r} have the same tokens, so the model can't tell them apart; "
                    "give one of them other words in prompt.answers"
                )
        for words, tokens in endings.items():
            longer = [other for other, found in endings.items() if found != tokens and found[: len(tokens)] == tokens]
            if longer:
                self.notes.append(
                    f"the answer {words!r} begins {longer[0]!r}: every answer is scored with its end, else the shorter "
                    "one would always be the likelier one"
                )
                return True
        return False

    def _ending(self, words: str) -> Tokens:
        # Behind a letter and a line break: the first token of an answer must not look like that of a text.
        before = "" if self.family == "encoder_decoder" else "a:"
        (alone, _), (ended, _) = self._tokens_of([before or "", before + self._answer_text(words)])
        return ended[len(alone) :] if before else ended

    def _answer_text(self, words: str) -> str:
        return words if self.family == "encoder_decoder" else self.renderer.lead + words

    def tokens_of_answer(self, words: str) -> int:
        """How many tokens these words have as an answer, without its end."""
        return len(self._ending(words))

    def questions(self, rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
        """Features {"input_ids", "trunk", "rests", "labels", "cut", "prompt_hash"} of rows, and how many were cut.

        input_ids: the whole prompt. trunk: what the prompt and the prompt with each answer have in common; rests: each
        answer's tokens behind it. labels: the row's own. Raises SetupError when a prompt leaves no room for its text.
        """
        asked = [self._fields(row) for row in rows]
        solved = [self._solved(row) for row in rows]
        spliced, cut = self._encoded(rows, asked, solved)
        features: list[dict[str, Any]] = []
        for number, row in enumerate(rows):
            prompt, trunk = spliced.prompts[number], spliced.trunks[number]
            rests = spliced.rests[number]
            if self.ended:
                rests = [rest + self.end_ids for rest in rests]
            features.append(
                {
                    "input_ids": self._framed(prompt),
                    "trunk": self._framed(trunk),
                    "rests": rests,
                    # Gold answers, where an answer is free.
                    "labels": row.get("answers", row["label"]),
                    "cut": number in cut,
                    "prompt_hash": digest(prompt, rests),
                }
            )
        self._check_beginnings([feature["input_ids"] for feature in features])
        return features, len(cut)

    def lessons(self, rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
        """Features {"input_ids", "token_labels", "labels"} to learn from, and how many texts were cut.

        The loss falls on the answer and its end only. Decoders: token_labels are as long as input_ids, -100 on the
        prompt. Encoder-decoders: token_labels are the answer and its end.
        """
        answers = [self.wording.answer(row) for row in rows]
        asked = [self._fields(row) for row in rows]
        solved = [self._solved(row) for row in rows]
        longest = max((len(self._ending(words)) for words in set(answers)), default=0) + len(self.end_ids)
        spliced, cut = self._encoded(rows, asked, solved, answers=tuple(dict.fromkeys(answers)), longest=longest)
        places = {words: place for place, words in enumerate(dict.fromkeys(answers))}
        features, trunks = [], [self._framed(trunk) for trunk in spliced.trunks]
        for number, row in enumerate(rows):
            trunk = trunks[number]
            answer = spliced.rests[number][places[answers[number]]] + self.end_ids
            lesson = (
                {"input_ids": trunk, "token_labels": answer}
                if self.family == "encoder_decoder"
                else {"input_ids": trunk + answer, "token_labels": [-100] * len(trunk) + answer}
            )
            features.append({**lesson, "labels": row["label"]})
        self._check_beginnings(trunks)
        return features, len(cut)

    def contentless(self, row: Mapping[str, Any], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Questions of texts without content, with the shots that this row gets."""
        empty = [{**self._fields(row), self.wording.shortened: text} for text in texts]
        spliced, cut = self._encoded([row] * len(texts), empty, [self._solved(row)] * len(texts))
        if cut:
            self._note(f"{len(cut)} of {len(texts)} texts without content were cut")
        return [
            {"trunk": self._framed(trunk), "rests": [rest + (self.end_ids if self.ended else []) for rest in rests]}
            for trunk, rests in zip(spliced.trunks, spliced.rests, strict=True)
        ]

    def _solved(self, row: Mapping[str, Any]) -> list[Solved]:
        if self.shots is None:
            return []
        if self.per_example:
            return [(self._fields(shot), self.wording.answer(shot)) for shot in self.shots.of(str(row["id"]))]
        if self._fixed is None:
            self._fixed = [(self._fields(shot), self.wording.answer(shot)) for shot in self.shots.fixed()]
        return self._fixed

    def _fields(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The row's fields; in a chat, special tokens that stand spelt out in them are broken up."""
        fields = self.wording.fields(row)
        if not self.renderer.chat:
            return fields
        for name, text in fields.items():
            for token in self.tokenizer.all_special_tokens:
                if token in text:
                    text = text.replace(token, f"{token[0]} {token[1:]}")
                    self._mangled.add(str(row["id"]))
            fields[name] = text
        return fields

    def _encoded(
        self,
        rows: Sequence[Mapping[str, Any]],
        asked: list[dict[str, str]],
        solved: list[list[Solved]],
        answers: tuple[str, ...] | None = None,
        longest: int | None = None,
    ) -> tuple[shared_affixes.Spliced, set[int]]:
        words = self.wording.choices if answers is None else answers
        texts = [self.renderer.render(fields, shots) for fields, shots in zip(asked, solved, strict=True)]
        spliced = self._spliced(texts, words)
        if longest is None:
            tails = [len(rest) for rests in spliced.rests for rest in rests]
            longest = self.room if self.room is not None else max(tails, default=0) + len(self.end_ids)
        own = len(self.begin) + len(self.close)
        room = self.max_length - own - (0 if self.family == "encoder_decoder" else longest)
        long = [number for number, tokens in enumerate(spliced.prompts) if len(tokens) > room]
        for number in long:
            texts[number] = self._shortened(rows[number], asked[number], solved[number], room)
        if long:
            # Encoded again as a whole: the prefix and the end that all have in common are the same as before.
            spliced = self._spliced(texts, words)
        if spliced.whole:
            self._note("prompts were encoded whole: their common parts can't be encoded apart")
        if self._mangled:
            self._note(f"{len(self._mangled)} texts spell out a special token; a space was put into it")
        return spliced, set(long)

    def _spliced(self, texts: list[str], words: Sequence[str]) -> shared_affixes.Spliced:
        if self.family == "encoder_decoder":
            # The answer is the decoder's own text, not a continuation of the prompt.
            found = shared_affixes.encode(self._tokens_of, texts, ())
            rests = [self._ending(word) for word in words]
            return shared_affixes.Spliced(found.prompts, found.prompts, [rests] * len(texts), found.whole)
        return shared_affixes.encode(self._tokens_of, texts, [self._answer_text(word) for word in words])

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _shortened(self, row: Mapping[str, Any], fields: dict[str, str], solved: list[Solved], room: int) -> str:
        """The prompt with so much of the text's end cut off as is needed."""
        name = self.wording.shortened
        text, (_, spans) = fields[name], self._tokens_of([fields[name]])[0]
        # Without spans a tokenizer's tokens are taken for evenly long.
        ends = [right for _, right in spans] if spans else [round(len(text) * (i + 1) / 100) for i in range(100)]
        keep = len(ends)
        while True:
            prompt = self.renderer.render({**fields, name: text[: ends[keep - 1]] if keep else ""}, solved)
            over = len(self._tokens_of([prompt])[0][0]) - room
            if over <= 0:
                return prompt
            keep -= over
            if keep < 1:
                shots = f"its {len(solved)} shot{'s' if len(solved) > 1 else ''}, " if solved else ""
                raise SetupError(
                    f"the prompt of {row['id']} does not fit max_length {self.max_length}: {shots}the question and "
                    f"{self.max_length - room} tokens kept for the answer leave no room for the text; allow more "
                    f"tokens{' or fewer shots' if solved else ''}"
                )

    def _tokens_of(self, texts: list[str]) -> list[tuple[Tokens, list[tuple[int, int]] | None]]:
        """Tokens without any of the tokenizer's own around them, and their spans."""
        options = {"split_special_tokens": not self.renderer.chat, "return_offsets_mapping": self.tokenizer.is_fast}
        found = self.tokenizer(texts, add_special_tokens=False, verbose=False, **options)
        ids = found["input_ids"]
        if not self.renderer.chat:
            # Unigram models find `</s>` among their pieces although it is to be taken as text.
            unknown, special = self.tokenizer.unk_token_id, set(self.tokenizer.all_special_ids)
            if unknown is not None:
                ids = [[unknown if token in special else token for token in row] for row in ids]
        spans = found["offset_mapping"] if self.tokenizer.is_fast else [None] * len(ids)
        return list(zip(ids, spans, strict=True))

    def _framed(self, prompt: Tokens) -> Tokens:
        opened = prompt[: len(self.begin)] == self.begin  # a chat template writes its own beginning
        return ([] if opened else self.begin) + prompt + self.close

    def _check_beginnings(self, prompts: list[Tokens]) -> None:
        """Two beginnings are a known way to lose points without noticing."""
        for ids in prompts if self.begin else ():
            if ids[0] != self.begin[0] or ids.count(self.begin[0]) != 1:
                raise SetupError(
                    f"a prompt holds {ids.count(self.begin[0])} beginning-of-text tokens instead of one at its start"
                )
        bos = self.tokenizer.bos_token_id
        if self.begin or bos is None or bos == self.tokenizer.eos_token_id or self.family == "encoder_decoder":
            return
        most = max((ids.count(bos) for ids in prompts), default=0)
        if most > 1:
            raise SetupError(f"a prompt holds {most} beginning-of-text tokens instead of one at its start")
        if not most:
            self._note(f"prompts begin without {self.tokenizer.bos_token!r}: the tokenizer has it, and does not add it")


def _around(tokenizer: Any, family: str) -> tuple[Tokens, Tokens]:
    """The tokens that the tokenizer itself puts before and behind a text."""
    framed, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    begin = framed[:1] if framed and framed[0] == tokenizer.bos_token_id and framed[0] not in bare else []
    # A decoder goes on writing where the prompt stops: no end may stand there.
    return begin, [tokenizer.eos_token_id] if family == "encoder_decoder" else []


def digest(prompt: Tokens, rests: list[Tokens]) -> str:
    """SHA-256 over the tokens of a prompt and of its answers, shortened to 16 digits."""
    found = hashlib.sha256()
    for tokens in (prompt, *rests):
        found.update(np.array([len(tokens), *tokens], dtype=np.int64).tobytes())
    return found.hexdigest()[:16]
