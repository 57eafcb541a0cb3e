"""Fills in a dataset card's prompt: the same text for prompting, for training and for scoring."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.config.cards import Prompt
from bench.config.fields import CHAT_DATE
from bench.data.prompts.chat_frame import ChatFrame
from bench.errors import SetupError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A solved example: the fields of the template, and the answer in words.
Shot = tuple[Mapping[str, str], str]
_FIELD = re.compile(r"\{(\w+)\}")


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Return the template with its fields filled in, in one pass: a text that spells out `{text}` is left alone."""
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), template)


class Renderer:
    """Renders prompts as plain text, or through the tokenizer's chat template.

    lead: text between a rendered prompt and the answer's words. end: text after them: with a chat template its own end
    of turn, else the tokenizer's end token when the model is trained, else the separator of the shots. frame: renders
    the chat template, at one date for all prompts; None without one.
    """

    def __init__(
        self,
        prompt: Prompt,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        chat: bool,
        trained: bool,
        date: str = CHAT_DATE,
        chat_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Raise SetupError for a tokenizer without a chat template, or without an end to learn.

        date: what a chat template is told today's date is, as 2024-07-26. chat_options: what else it is told.
        """
        self.prompt, self.tokenizer, self.chat = prompt, tokenizer, chat
        self.frame = ChatFrame(tokenizer, date, chat_options) if chat else None
        if self.frame is not None:
            self.lead, self.end = self.frame.around_answer()
        else:
            self.lead = prompt.joint
            self.end = str(tokenizer.eos_token) if trained else prompt.separator
        if trained and tokenizer.eos_token_id is None:
            raise SetupError("the tokenizer has no end token, so the model can't learn where an answer ends")

    @property
    def hash(self) -> str:
        """Return the hash of everything that makes a prompt of a row, without the shots, which a method chooses.

        Without the end too, so that prompts of a model before and after training have the same hash.
        """
        parts: list[Any] = [self.prompt.model_dump(mode="json", exclude={"hypothesis", "content_free"})]
        parts += ["", self.lead] if self.frame is None else [self.frame.template, self.lead, self.frame.hash]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def render(self, fields: Mapping[str, str], shots: Sequence[Shot] = ()) -> str:
        """Return the whole prompt, up to where the answer begins (without `lead`)."""
        question = fill(self.prompt.template, fields)
        solved = [(fill(self.prompt.template, shot), answer) for shot, answer in shots]
        instruction = fill(self.prompt.instruction, {"labels": fields["labels"]})
        return (self._as_text if self.frame is None else self._as_chat)(instruction, question, solved)

    def _as_text(self, instruction: str, question: str, solved: Sequence[tuple[str, str]]) -> str:
        examples = [solved_question + self.prompt.joint + answer for solved_question, answer in solved]
        return self.prompt.separator.join([*([instruction] if instruction else []), *examples, question])

    def turns(self, fields: Mapping[str, str], shots: Sequence[Shot] = ()) -> list[dict[str, str]]:
        """Return the whole prompt as turns of a chat, up to the user's last one."""
        solved = [(fill(self.prompt.template, shot), answer) for shot, answer in shots]
        instruction = fill(self.prompt.instruction, {"labels": fields["labels"]})
        return self._turns(instruction, fill(self.prompt.template, fields), solved)

    def _as_chat(self, instruction: str, question: str, solved: Sequence[tuple[str, str]]) -> str:
        assert self.frame is not None
        return self.frame.render(self._turns(instruction, question, solved), open_answer=True)

    def _turns(self, instruction: str, question: str, solved: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
        turns: list[dict[str, str]] = []
        for solved_question, answer in solved:
            turns += [{"role": "user", "content": solved_question}, {"role": "assistant", "content": answer}]
        turns.append({"role": "user", "content": question})
        if instruction:
            # Not every template knows a system role; each knows the user's.
            turns[0]["content"] = instruction + self.prompt.separator + turns[0]["content"]
        return turns
