"""Fills in a dataset card's prompt: the same text for prompting, for training and for scoring."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.config.cards import Prompt
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
    of turn, else the tokenizer's end token when the model is trained, else the separator of the shots.
    """

    def __init__(self, prompt: Prompt, tokenizer: "PreTrainedTokenizerBase", *, chat: bool, trained: bool) -> None:
        """Raise SetupError for a tokenizer without a chat template, or without an end to learn."""
        self.prompt, self.tokenizer, self.chat = prompt, tokenizer, chat
        self._template = ""
        if chat:
            self._template = _chat_template(tokenizer)
            self.lead, self.end = self._around_answer()
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
        parts = [self.prompt.model_dump(mode="json", exclude={"hypothesis", "content_free"}), self._template]
        return hashlib.sha256(json.dumps([*parts, self.lead], sort_keys=True).encode()).hexdigest()[:16]

    def render(self, fields: Mapping[str, str], shots: Sequence[Shot] = ()) -> str:
        """Return the whole prompt, up to where the answer begins (without `lead`)."""
        question = fill(self.prompt.template, fields)
        solved = [(fill(self.prompt.template, shot), answer) for shot, answer in shots]
        instruction = fill(self.prompt.instruction, {"labels": fields["labels"]})
        return (self._as_chat if self.chat else self._as_text)(instruction, question, solved)

    def _as_text(self, instruction: str, question: str, solved: Sequence[tuple[str, str]]) -> str:
        examples = [solved_question + self.prompt.joint + answer for solved_question, answer in solved]
        return self.prompt.separator.join([*([instruction] if instruction else []), *examples, question])

    def _as_chat(self, instruction: str, question: str, solved: Sequence[tuple[str, str]]) -> str:
        turns: list[dict[str, str]] = []
        for solved_question, answer in solved:
            turns += [{"role": "user", "content": solved_question}, {"role": "assistant", "content": answer}]
        turns.append({"role": "user", "content": question})
        if instruction:
            # Not every template knows a system role; each knows the user's.
            turns[0]["content"] = instruction + self.prompt.separator + turns[0]["content"]
        return self._apply(turns, open_answer=True)

    def _apply(self, turns: list[dict[str, str]], *, open_answer: bool) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_answer))
        except Exception as error:  # templates raise jinja2's errors, with a text of their own
            raise SetupError(f"prompting.format is chat, but the chat template fails: {error}") from error

    def _around_answer(self) -> tuple[str, str]:
        """Return (lead, end) as the template itself writes them around an assistant's answer."""
        question = {"role": "user", "content": "question"}
        prompt = self._apply([question], open_answer=True)
        conversation = self._apply([question, {"role": "assistant", "content": "ANSWER"}], open_answer=False)
        lead, answer, end = conversation.removeprefix(prompt).partition("ANSWER")
        if not conversation.startswith(prompt) or not answer:
            raise SetupError(
                "prompting.format is chat, but the chat template with add_generation_prompt does not begin a finished "
                "answer as it writes one; use format: plain"
            )
        return lead, end


def _chat_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise SetupError("prompting.format is chat, but the tokenizer has no chat template; use format: plain")
    return str(template)
