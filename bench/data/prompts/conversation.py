"""Conversations, and prompts with a free answer, as tokens: what is read, what is learned, what is in the loss.

A prompt is the same text in training and in scoring: a trained example begins with what the model is asked before it
writes. Of a chat template, that is checked for every example. Where a text is too long, a conversation loses its oldest
turns, then the last text its end; of an answer the end is cut only where it is longer than half of the room.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.data import lost_texts
from bench.data.examples import Feature
from bench.data.prompts.encode import PromptEncoder, prompt_hash
from bench.data.prompts.shared_affixes import CharSpans, TokenIds, common_prefix_length
from bench.errors import SetupError
from bench.records.record import RunWarning

Row = Mapping[str, Any]
Turns = list[dict[str, str]]
IGNORED = -100
# Takes the place of a turn's text, to see where a template writes it.
_SENTINEL = "A text of Several Words, of nobody"

# With which answers begin, to see whether a blank before them is a part of their first token.
_FIRST_WORDS = ("The", "the", "You", "you", "Yes", "yes", "I", "a", "1")

# What a reasoning model writes before its answer, as DeepSeek-R1's and Qwen3's templates have it.
_THOUGHTS = re.compile(r"^.*?</think>|<think>.*\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """An example as text. whole: the prompt, the answer and its end. spans: of `whole`, what is in the loss.

    turns: with the answer, of a chat; None of plain text.
    """

    prompt: str
    whole: str
    spans: list[tuple[int, int]]
    turns: Turns | None


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """An example as tokens.

    shared: how many first tokens prompt and whole have in common. begin: how many of them are the tokenizer's own,
    which the text does not hold. is_cut: some text was cut.
    """

    prompt: TokenIds
    whole: TokenIds
    offsets: CharSpans | None
    shared: int
    begin: int
    rendered: Rendered
    is_cut: bool = False


class ConversationEncoder:
    """Encodes rows with `answers`, and `messages` where they are conversations.

    encoder: the tokenizer with the recipe's prompt and frame. loss_on: "answer", "assistant" (all of its turns) or
    "all". max_new_tokens: room for what the model writes.
    """

    def __init__(self, encoder: PromptEncoder, *, loss_on: str, max_new_tokens: int) -> None:
        """Raise SetupError where the room for an answer leaves none for a prompt."""
        self.encoder, self.loss_on, self.max_new_tokens = encoder, loss_on, max_new_tokens
        self.renderer, self.tokenizer, self.frame = encoder.renderer, encoder.tokenizer, encoder.renderer.frame
        self.writes_apart = encoder.family == "encoder_decoder"
        if not self.writes_apart and max_new_tokens >= encoder.max_length:
            raise SetupError(
                f"prompting.max_new_tokens is {max_new_tokens}, which leaves no room for a prompt in max_length "
                f"{encoder.max_length}; raise max_length, or ask for shorter answers"
            )
        added = self.tokenizer.added_tokens_decoder.items()
        self._special = {str(token): number for number, token in added if token.special}
        names = sorted(self._special, key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._spelt: set[str] = set()  # ids of rows
        self._merged: set[str] = set()
        self._blank_is_left: bool | None = None
        self._unmarked: set[str] = set()
        self.warnings: list[RunWarning] = []

    @property
    def stop_ids(self) -> set[int]:
        """Return the tokens that end an answer: the tokenizer's, and the chat template's own end of a turn."""
        ids = {self.tokenizer.eos_token_id} - {None}
        found = self._specials.search(self.renderer.end) if self.frame is not None else None
        return ids | ({self._special[found[0]]} if found else set())

    @property
    def stop_text(self) -> str | None:
        """Return the text at which an answer is cut: the separator, where solved examples end so; None for none."""
        return self.renderer.prompt.separator if self.encoder.shots is not None and self.frame is None else None

    # ---------------------------------------------------------------- features

    def encode_prompts(self, rows: Sequence[Row], split: str = "texts") -> tuple[list[Feature], int]:
        """Return a feature for each row, and how many prompts were truncated. split: its name, for warnings.

        A feature: {"input_ids": the whole prompt, "prompt_ids" and "continuation_ids": the prompt and its first
        reference, as in training, "labels": all references, "cut", "prompt_hash"}.
        """
        limit = self.encoder.max_length - (0 if self.writes_apart else self.max_new_tokens)
        # Of a reference the answer and its end are scored, whatever is learned, so that runs can be compared.
        encoded = self._encode(rows, lambda _: limit, "answer")
        features, long, short = list[Feature](), 0, 0
        for row, tokens in zip(rows, encoded, strict=True):
            prompt, answer = self._apart(tokens) if row["answers"] else (tokens.prompt, [])
            room = self.encoder.max_length - (0 if self.writes_apart else len(prompt))
            long += len(answer) > self.max_new_tokens
            short += len(answer) > room
            features.append(
                {
                    "input_ids": tokens.prompt,
                    "prompt_ids": prompt,
                    "continuation_ids": [answer[:room]] if answer else [],
                    "labels": [self._scored(text) for text in row["answers"]],
                    "cut": tokens.is_cut,
                    "prompt_hash": prompt_hash(tokens.prompt, []),
                }
            )
        self.encoder.check_beginnings([feature["input_ids"] for feature in features])
        if long:
            limit = self.max_new_tokens
            self._note(f"{long} of {len(rows)} references have more tokens than prompting.max_new_tokens, {limit}")
            self._warn(split, long, len(rows), f"have more tokens than prompting.max_new_tokens, {limit}")
        if short:
            self._note(
                f"{short} of {len(rows)} references are longer than max_length; the loss is on their first tokens"
            )
        return features, sum(feature["cut"] for feature in features)

    def encode_train_examples(self, rows: Sequence[Row]) -> tuple[list[Feature], int]:
        """Return a feature {"input_ids", "token_labels", "labels"} for each row, and how many prompts were truncated.

        token_labels: the tokens in the loss, -100 for all others; of an encoder-decoder the answer and its end.
        """
        most = self.encoder.max_length
        least = most if self.writes_apart else most // 2
        encoded = self._encode(rows, lambda size: max(most - size, least), self.loss_on)
        features, ends, kept = [], 0, 0
        for tokens in encoded:
            if self.writes_apart:
                labels = tokens.whole[:most]
                ends += len(tokens.whole) > most
                features.append({"input_ids": tokens.prompt, "token_labels": labels, "labels": 0})
                continue
            labels = self._labels(tokens)[:most]
            ends += len(tokens.whole) > most
            kept += any(label != IGNORED for label in labels[1:])
            features.append({"input_ids": tokens.whole[:most], "token_labels": labels, "labels": 0})
        self.encoder.check_beginnings([tokens.prompt for tokens in encoded])
        if ends:
            self._note(f"train: the answers of {ends} of {len(rows)} examples were cut to fit max_length {most}")
            self._warn("train", ends, len(rows), f"were cut to fit max_length {most}")
        if not self.writes_apart and kept < len(rows):
            self._note(f"train: {len(rows) - kept} of {len(rows)} examples have no token in the loss")
        return features, sum(tokens.is_cut for tokens in encoded)

    def _apart(self, tokens: _Tokens) -> tuple[TokenIds, TokenIds]:
        """Return (tokens of the prompt, of the answer), as they are in training."""
        if self.writes_apart:
            return tokens.prompt, tokens.whole
        return tokens.whole[: tokens.shared], tokens.whole[tokens.shared :]

    def _labels(self, tokens: _Tokens) -> TokenIds:
        """Return the tokens of `whole` that are in the loss, and -100 for the others."""
        if self.loss_on == "all":
            return list(tokens.whole)
        if self.loss_on == "answer":
            return [IGNORED] * tokens.shared + tokens.whole[tokens.shared :]
        marks = self._marks(tokens)
        return [token if mark else IGNORED for token, mark in zip(tokens.whole, marks, strict=True)]

    def _marks(self, tokens: _Tokens) -> list[int]:
        """Return 1 for each token of the assistant's turns: as the template marks them, else by their texts."""
        rendered, first = tokens.rendered, tokens.begin
        assert self.frame is not None
        assert rendered.turns is not None
        marked = self.frame.marked(rendered.turns)
        if marked is not None:
            ids, marks = marked
            if ids[: len(tokens.whole) - first] != tokens.whole[first:] or not any(marks):
                raise SetupError("the chat template's own marks of the assistant's tokens do not fit its text")
            return [0] * first + marks[: len(tokens.whole) - first]
        marks = [0] * len(tokens.whole)
        for start, end in rendered.spans:
            for place in self._places(tokens, start, end):
                marks[first + place] = 1
        return marks

    def _places(self, tokens: _Tokens, start: int, end: int) -> range:
        """Return the places of the tokens of `whole`, but for its `begin`, that stand for these characters."""
        if tokens.offsets is not None:
            inside = [number for number, (left, right) in enumerate(tokens.offsets) if right > start and left < end]
            return range(inside[0], inside[-1] + 1) if inside else range(0)
        ids, text = tokens.whole[tokens.begin :], tokens.rendered.whole
        before, through = (found for found, _ in self.encoder.tokenize([text[:start], text[:end]]))
        return range(common_prefix_length([before, ids]), common_prefix_length([through, ids]))

    # ---------------------------------------------------------------- tokens

    def _encode(self, rows: Sequence[Row], limit_of: Callable[[int], int], loss_on: str) -> list[_Tokens]:
        """Return rows as tokens.

        limit_of: number of an answer's tokens -> most tokens of its prompt. loss_on: what `whole` is to hold.
        """
        rendered = [self._render(row, loss_on) for row in rows]
        encoded = self._tokens(rendered, [str(row["id"]) for row in rows])
        lost = 0
        for number, tokens in enumerate(encoded):
            limit = limit_of(len(self._apart(tokens)[1]))
            if len(tokens.prompt) > limit:
                shorter, dropped = self._shortened(rows[number], limit, loss_on)
                lost += bool(dropped)
                (found,) = self._tokens([shorter], [str(rows[number]["id"])])
                encoded[number] = replace(found, is_cut=True)
        if lost:
            self._note(f"{lost} conversations lost their oldest turns to fit max_length {self.encoder.max_length}")
        if self._merged:
            self._note(
                f"{len(self._merged)} prompts end in another token where an answer follows, so that the model is asked "
                "for something else than it learned; change the end of the template"
            )
        if self._spelt:
            self._note(f"{len(self._spelt)} texts spell out a special token; a space was put into it")
        if self._unmarked:
            self._note(
                f"{len(self._unmarked)} conversations: the chat template writes an answer differently once others "
                "follow; its place was found by its text"
            )
        return encoded

    def _tokens(self, rendered: Sequence[Rendered], ids: Sequence[str]) -> list[_Tokens]:
        encoder = self.encoder
        asked_texts = [each.prompt.rstrip(" ") if self._leaves_blank(each.prompt) else each.prompt for each in rendered]
        prompts = [found for found, _ in encoder.tokenize(asked_texts)]
        wholes = encoder.tokenize([each.whole for each in rendered])
        eos = self.tokenizer.eos_token_id
        end = [eos] if eos is not None and (self.frame is None or self.writes_apart) else []
        tokens = []
        for identity, each, prompt, (whole, offsets) in zip(ids, rendered, prompts, wholes, strict=True):
            asked = encoder.with_special_ids(prompt)
            if self.writes_apart:
                tokens.append(_Tokens(prompt=asked, whole=whole + end, offsets=None, shared=0, begin=0, rendered=each))
                continue
            opened = encoder.with_special_ids(whole)
            full = opened + end
            shared = common_prefix_length([asked, full])
            if shared < len(asked):
                self._merged.add(identity)
            begin = len(opened) - len(whole)
            tokens.append(_Tokens(prompt=asked, whole=full, offsets=offsets, shared=shared, begin=begin, rendered=each))
        return tokens

    def _leaves_blank(self, prompt: str) -> bool:
        """Return whether the blank at a prompt's end is left to the model: it is one token with an answer's first word.

        By the first prompt that ends so, before usual words, and so the same for all rows, whatever their answers are.
        """
        if not prompt.endswith(" ") or self.writes_apart:
            return False
        if self._blank_is_left is None:
            texts = [prompt, prompt.rstrip(" "), *(prompt + word for word in _FIRST_WORDS)]
            whole, bare, *written = (found for found, _ in self.encoder.tokenize(texts))
            merged = any(ids[: len(whole)] != whole for ids in written)
            self._blank_is_left = merged and all(ids[: len(bare)] == bare for ids in written)
            if self._blank_is_left:
                self._note(
                    "the blank at the end of prompts is left to the model, as a token of the answer begins with it"
                )
        return self._blank_is_left

    def _shortened(self, row: Row, limit: int, loss_on: str) -> tuple[Rendered, int]:
        """Return a row with a prompt of at most so many tokens, and how many of its oldest turns were left out."""
        num_turns, dropped = len(self._turns_of(row)), 0
        while self._size(row, dropped) > limit and num_turns - dropped > 2:
            dropped += 2
        text = self._text_of(row)
        spans = self.encoder.tokenize([text])[0][1]
        # Without spans a tokenizer's tokens are taken for evenly long.
        ends = [right for _, right in spans] if spans else [round(len(text) * (i + 1) / 100) for i in range(100)]
        keep = len(ends)
        while (over := self._size(row, dropped, text[: ends[keep - 1]] if keep else "") - limit) > 0:
            keep -= over
            if keep < 1:
                shown = f"its {self.encoder.shots.num_shots} shots, " if self.encoder.shots is not None else ""
                raise SetupError(
                    f"the prompt of {row['id']} does not fit max_length {self.encoder.max_length}: {shown}what stands "
                    f"around its text and the tokens kept for the answer leave no room for the text; raise max_length"
                )
        return self._render(row, loss_on, dropped, text[: ends[keep - 1]]), dropped

    def _size(self, row: Row, dropped: int, text: str | None = None) -> int:
        prompt = self._prompt(row, dropped, text)[0]
        return len(self.encoder.with_special_ids(self.encoder.tokenize([prompt])[0][0]))

    # ---------------------------------------------------------------- texts

    def _render(self, row: Row, loss_on: str, dropped: int = 0, text: str | None = None) -> Rendered:
        prompt, turns = self._prompt(row, dropped, text)
        answer = self._safe(row, row["answers"][0]) if row["answers"] else ""
        if self.writes_apart:
            return Rendered(prompt=prompt, whole=answer, spans=[], turns=None)
        if turns is None or self.frame is None:
            whole = prompt + self.renderer.lead + answer
            return Rendered(prompt=prompt, whole=whole, spans=[(len(prompt), len(whole))], turns=None)
        if not answer:  # of a text that is only to be answered
            return Rendered(prompt=prompt, whole=prompt, spans=[], turns=turns)
        turns = [*turns, {"role": "assistant", "content": answer}]
        whole = self.frame.render(turns, open_answer=False)
        if not whole.startswith(prompt):
            raise SetupError(
                f"{row['id']}: the chat template begins a finished answer otherwise than one that is to be written, so "
                "that the model would be asked for something else than it learned; take another template, or format: "
                "plain"
            )
        end = self._end(whole, len(prompt), answer, str(row["id"]))
        spans = [(len(prompt), end)]
        if loss_on == "assistant":
            spans = [*self._earlier(turns, whole, str(row["id"])), *spans]
        return Rendered(prompt=prompt, whole=whole if loss_on == "all" else whole[:end], spans=spans, turns=turns)

    def _prompt(self, row: Row, dropped: int, text: str | None) -> tuple[str, Turns | None]:
        """Return the text up to where the answer begins, and its turns; None without a chat template."""
        text = self._text_of(row) if text is None else text
        shots = self._shots_of(row)
        if self.frame is None:
            self._refuse_turns(row)
            pairs = [(self._fields(shot), str(shot["answers"][0])) for shot in shots]
            return self.renderer.render({**self._fields(row), "text": text}, pairs), None
        if "messages" in row:
            own = self._turns_of(row)
            system = [{**turn, "content": self._safe(row, turn["content"])} for turn in row["messages"][:1]]
            system = [turn for turn in system if turn["role"] == "system"]
            solved = [
                {**turn, "content": self._safe(row, turn["content"])}
                for shot in shots
                for turn in [*self._turns_of(shot), {"role": "assistant", "content": shot["answers"][0]}]
            ]
            rest = [{**turn, "content": self._safe(row, turn["content"])} for turn in own[dropped:-1]]
            turns = [*system, *solved, *rest, {"role": "user", "content": self._safe(row, text)}]
        else:
            fields = {**self._fields(row), "text": text}
            safe = {name: self._safe(row, value) for name, value in fields.items()}
            pairs = [(self._fields(shot), self._safe(row, shot["answers"][0])) for shot in shots]
            turns = self.renderer.turns(safe, pairs)
        prompt = self.frame.render(turns, open_answer=True)
        for turn in turns:
            if turn["role"] != "assistant" and turn["content"].strip() not in prompt:
                raise SetupError(
                    f"{row['id']}: the chat template does not write the text of the {turn['role']} as it is; change "
                    "the template or use format: plain"
                )
        return prompt, turns

    def _refuse_turns(self, row: Row) -> None:
        if len(row.get("messages", ())) > 1:
            what = "a system prompt" if row["messages"][0]["role"] == "system" else "several turns"
            raise SetupError(
                f"{row['id']} has {what}, which plain text has no frame for; set prompting.format: chat, with a "
                "tokenizer that has a chat template"
            )

    def _turns_of(self, row: Row) -> Turns:
        """Return the turns of a conversation before its answer, without the system's."""
        return [turn for turn in row.get("messages", ()) if turn["role"] != "system"]

    def _text_of(self, row: Row) -> str:
        """Return the text that may be cut: the last turn of the user, or the row's text."""
        return str(self._turns_of(row)[-1]["content"] if "messages" in row else row["text"])

    def _fields(self, row: Row) -> dict[str, str]:
        return self.encoder.wording.fields(row)

    def _shots_of(self, row: Row) -> Sequence[Row]:
        shots = self.encoder.shots
        if shots is None:
            return ()
        return shots.of(str(row["id"])) if self.encoder.per_example else shots.fixed()

    def _safe(self, row: Row, text: str) -> str:
        """Return a text without special tokens that are spelt out in it: a space goes behind their first character."""
        if self.frame is None:
            return text  # tokenized so that nothing in it is special
        safe = self._specials.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        if safe != text:
            self._spelt.add(str(row["id"]))
        return safe

    # ---------------------------------------------------------------- places of answers

    def _end(self, whole: str, start: int, answer: str, identity: str) -> int:
        """Return where an answer that begins behind `start` ends: with the special token after it, if there is one."""
        for text in (answer, answer.strip()):
            place = whole.find(text, start)
            if place >= 0:
                behind = place + len(text)
                found = self._specials.search(whole, behind)
                return found.end() if found else len(whole)
        raise SetupError(
            f"{identity}: the chat template does not write the answer as it is ({answer.strip()[:40]!r}); change the "
            "template or use format: plain"
        )

    def _earlier(self, turns: Turns, whole: str, identity: str) -> list[tuple[int, int]]:
        """Return where in `whole` the assistant's earlier turns are, each with its end.

        By rendering the conversation up to the turn and through it, both of which must be beginnings of the whole; else
        by rendering the whole with another text in its place.
        """
        assert self.frame is not None
        spans = []
        for number, turn in enumerate(turns[:-1]):
            if turn["role"] != "assistant":
                continue
            before = self.frame.render(turns[:number], open_answer=True)
            through = self.frame.render(turns[: number + 1], open_answer=False)
            if whole.startswith(through) and through.startswith(before):
                spans.append((len(before), self._end(through, len(before), turn["content"], identity)))
                continue
            self._unmarked.add(identity)
            start, behind = self._replaced(turns, number, whole, identity)
            # Its end must not reach into the next turn.
            following = whole.find(turns[number + 1]["content"].strip(), behind)
            found = self._specials.search(whole, behind, following)
            spans.append((start, found.end() if found else behind))
        return spans

    def _replaced(self, turns: Turns, number: int, whole: str, identity: str) -> tuple[int, int]:
        """Return where a turn's text is in `whole`. Raises SetupError where another text there changes the rest."""
        assert self.frame is not None
        other = self.frame.render(
            [*turns[:number], {**turns[number], "content": _SENTINEL}, *turns[number + 1 :]], open_answer=False
        )
        before, _, behind = other.partition(_SENTINEL)
        for text in (turns[number]["content"], turns[number]["content"].strip()):
            if before + text + behind == whole:
                return len(before), len(before) + len(text)
        raise SetupError(
            f"{identity}: the chat template changes the assistant's turn {number + 1}, so that its tokens can't be "
            "found; use loss_on: answer, or a template with {% generation %} marks"
        )

    def _scored(self, reference: str) -> str:
        """Return a reference as written texts are compared with it: in a chat, without thoughts before the answer."""
        return reference if self.frame is None else without_thoughts(reference) or reference

    def _note(self, sentence: str) -> None:
        self.encoder.note(sentence)

    def _warn(self, split: str, cut: int, total: int, how: str) -> None:
        """Keep a warning for the record where a share of the answers was cut that says something."""
        warning = lost_texts.answers_cut(split, cut, total, how)
        if warning is not None:
            self.warnings.append(warning)


def without_thoughts(text: str) -> str:
    """Return what follows the thoughts of a reasoning model; "" where they have no end, as the answer was not begun."""
    return _THOUGHTS.sub("", text, count=1).strip() if "think>" in text else text
