"""Renders conversations by a tokenizer's chat template, so that the same ones give the same text on every day.

Templates may write today's date (all of Llama 3.1's and 3.2's do). They are told one fixed date in its place.
"""

import hashlib
import json
import re
import string
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bench.config.fields import CHAT_DATE
from bench.errors import SetupError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = list[dict[str, str]]
# The function by which transformers gives a template the present time.
_CLOCK = "strftime_now"
# Renderings that must be equal. Of a coin in a template they are so once in 2^15.
_REPEATS = 16
# Other days, months and years, to see whether a template writes the date.
_OTHER_DAYS = ("1999-11-08", CHAT_DATE)
# Jinja's own sources of chance: `choices | random` and lipsum().
_CHANCE = re.compile(r"\|\s*random\b|\blipsum\b")
# As Python shows an object, e.g. <function f at 0x7f8e>: another text in every process.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]{4,}")
# Of a template that says itself which tokens are the assistant's.
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_QUESTION, _ANSWER = {"role": "user", "content": "question"}, {"role": "assistant", "content": "ANSWER"}
# As texts are: long, in capitals and small letters. Blanks at both ends are left to the template, which may strip them.
_TEXTS = {role: f"{role}: A text of Several Words" + ", as long as a paragraph" * 20 for role in ("user", "assistant")}


class ChatFrame:
    """A tokenizer's chat template at a fixed date. template: its text, as the tokenizer has it; fixed: at this date.

    date: the one that it is told. options: what else it is told. writes_date: the date is in the prompts. hash: of
    everything that the template writes around placeholders.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", date: str, options: Mapping[str, Any] | None = None
    ) -> None:
        """Raise SetupError without a chat template, for one that can't be used, for a date or options without effect.

        A template can't be used that renders at random, or that writes texts cut, changed or not at all.
        date: as 2024-07-26; another one than CHAT_DATE must stand in the prompts.
        """
        self.tokenizer, self.template, self.date = tokenizer, _template_of(tokenizer), date
        self.options = dict(options or {})
        for name in self.options:
            if re.search(rf"\b{re.escape(name)}\b", self.template) is None:
                raise SetupError(
                    f"prompting.chat_template_kwargs: this tokenizer's chat template does not use {name!r}; remove it"
                )
        self.fixed = _at_date(self.template, date)
        texts = self._placeholders(self.fixed)
        self._refuse_chance(texts)
        self._refuse_other_texts()
        self.writes_date = _CLOCK in self.template and any(
            texts != self._placeholders(_at_date(self.template, day)) for day in _OTHER_DAYS
        )
        if date != CHAT_DATE and not self.writes_date:
            raise SetupError(
                f"prompting.date is {date}, but this tokenizer's chat template writes no date; remove the key"
            )
        self.hash = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]

    def render(self, turns: Turns, *, open_answer: bool) -> str:
        """Return a conversation as text. open_answer: up to where the assistant's next answer begins."""
        return self._render(self.fixed, turns, open_answer=open_answer)

    def marked(self, turns: Turns) -> tuple[list[int], list[int]] | None:
        """Return (tokens of a conversation, 1 for those that the template marks as the assistant's, else 0).

        None for a template without marks (`{% generation %}`).
        """
        if _MARKS.search(self.template) is None:
            return None
        options: dict[str, Any] = {} if self.fixed == self.template else {"chat_template": self.fixed}
        # The template's own special tokens are no text, whatever the tokenizer is set to.
        options["tokenizer_kwargs"] = {"split_special_tokens": False}
        found = self.tokenizer.apply_chat_template(
            turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **options, **self.options
        )
        return list(found["input_ids"]), list(found["assistant_masks"])

    def around_answer(self) -> tuple[str, str]:
        """Return (lead, end) as the template itself writes them around an assistant's answer."""
        prompt = self.render([_QUESTION], open_answer=True)
        conversation = self.render([_QUESTION, _ANSWER], open_answer=False)
        lead, answer, end = conversation.removeprefix(prompt).partition(_ANSWER["content"])
        if not conversation.startswith(prompt) or not answer:
            raise SetupError(
                "prompting.format is chat, but the chat template with add_generation_prompt does not begin a finished "
                "answer as it writes one; use format: plain"
            )
        return lead, end

    def _render(self, template: str, turns: Turns, *, open_answer: bool) -> str:
        options = self.options if template == self.template else {**self.options, "chat_template": template}
        try:
            return str(
                self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_answer, **options)
            )
        except Exception as error:  # templates raise jinja2's errors, with a text of their own
            raise SetupError(f"prompting.format is chat, but the chat template fails: {error}") from error

    def _placeholders(self, template: str) -> list[str]:
        """Return a question, a solved one and one behind a solved one, rendered."""
        open_question = self._render(template, [_QUESTION], open_answer=True)
        solved = self._render(template, [_QUESTION, _ANSWER], open_answer=False)
        try:
            few_shot = self._render(template, [_QUESTION, _ANSWER, _QUESTION], open_answer=True)
        except SetupError:  # a template for one question only, which zero-shot prompts don't go beyond
            few_shot = ""
        return [open_question, solved, few_shot]

    def _refuse_other_texts(self) -> None:
        turns = [{"role": role, "content": text} for role, text in _TEXTS.items()]
        written = self._render(self.fixed, turns, open_answer=False)
        for turn in turns:
            if turn["content"] not in written:
                raise SetupError(
                    f"prompting.format is chat, but the chat template does not write a text of the {turn['role']} as "
                    "it is; change the template or use format: plain"
                )

    def _refuse_chance(self, texts: list[str]) -> None:
        named, shown = _CHANCE.search(self.template), _ADDRESS.search("".join(texts))
        repeated = named or shown or all(self._placeholders(self.fixed) == texts for _ in range(_REPEATS - 1))
        if named is not None:
            reason = f"it uses {named[0]!r}, which draws at random"
        elif shown is not None:
            reason = f"it writes the address of an object ({shown[0].strip()!r}), another one in every process"
        elif not repeated:
            reason = "the same conversation is rendered in several ways"
        else:
            return
        raise SetupError(
            f"prompting.format is chat, but prompts of the chat template can't be repeated: {reason}; "
            "change the template or use format: plain"
        )


def _template_of(tokenizer: "PreTrainedTokenizerBase") -> str:
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise SetupError("prompting.format is chat, but the tokenizer has no chat template; use format: plain")
    if isinstance(template, str):
        return template
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:  # several templates, none of them called "default"
        raise SetupError(f"prompting.format is chat, but the tokenizer has no default template: {error}") from error


def _at_date(template: str, date: str) -> str:
    """Return a template with its clock stopped at a date: a macro of the same name goes before its own text.

    The environment's function can't be replaced by an argument, since transformers passes on plain data only.
    """
    if _CLOCK not in template:
        return template
    codes = json.dumps(dict(_codes(datetime.fromisoformat(date))), ensure_ascii=True)
    # Behind each percent sign stands a code, with or without a flag; two signs are one as text.
    macro = (
        f"{{% macro {_CLOCK}(format) %}}{{% set codes = {codes} %}}"
        "{% for part in format.split('%%') %}{% if not loop.first %}%{% endif %}"
        "{% for piece in part.split('%') %}{% if loop.first %}{{ piece }}"
        "{% elif piece[:2] in codes %}{{ codes[piece[:2]] }}{{ piece[2:] }}"
        "{% elif piece[:1] in codes %}{{ codes[piece[:1]] }}{{ piece[1:] }}"
        "{% else %}%{{ piece }}{% endif %}{% endfor %}{% endfor %}{% endmacro %}"
    )
    # The line's end is eaten by the environment's trim_blocks; the template still begins at the start of a line.
    return f"{macro}\n{template}"


def _codes(date: datetime) -> Iterator[tuple[str, str]]:
    """Yield the codes of strftime without their percent sign, with a flag (`-d`) or none, and their values."""
    for code in string.ascii_letters:
        # glibc takes the seconds since 1970 in the zone of the machine.
        seconds = str(int(date.replace(tzinfo=UTC).timestamp())) if code == "s" else None
        for flag in ("", "-", "_", "0", "^", "#"):
            yield f"{flag}{code}", seconds or date.strftime(f"%{flag}{code}")
