"""Prompts: one rendering for asking and learning, plain or by a chat template, and a hash that moves with it."""

import pytest

from bench.config.cards import Prompt
from bench.data.prompts.template import Renderer, fill
from bench.errors import SetupError
from tests.helpers.chat_templates import INST, TURNS, tokenizer_with

PROMPT = Prompt(template="Review: {text}\nSentiment:", instruction="Say one of: {labels}.")
ROW = {"text": "Fine.", "text_pair": "", "labels": "bad, good"}
SHOTS = [({**ROW, "text": "Never."}, "bad"), ({**ROW, "text": "Great!"}, "good")]


def renderer(template=None, trained=False, prompt=PROMPT):
    return Renderer(prompt, tokenizer_with(template), chat=template is not None, trained=trained)


def test_plain():
    assert renderer().render(ROW) == "Say one of: bad, good.\n\nReview: Fine.\nSentiment:"
    assert renderer().render(ROW, SHOTS) == (
        "Say one of: bad, good.\n\nReview: Never.\nSentiment: bad\n\nReview: Great!\nSentiment: good\n\n"
        "Review: Fine.\nSentiment:"
    )


def test_without_an_instruction():
    bare = Prompt(template="{text} ->", separator="\n", joint=" ")
    assert renderer(prompt=bare).render(ROW, SHOTS[:1]) == "Never. -> bad\nFine. ->"


def test_a_text_that_spells_out_a_field_is_left_alone():
    assert fill("{text} / {labels}", {"text": "{labels} {text} {x}", "labels": "L"}) == "{labels} {text} {x} / L"
    assert fill("{unknown}", {"text": "t"}) == "{unknown}"


def test_ends():
    assert (renderer().lead, renderer().end) == (" ", "\n\n")
    assert renderer(trained=True).end == "</s>"


def test_chat_with_an_end_token():
    chat = renderer(INST)
    assert chat.render(ROW) == "<s>[INST] Say one of: bad, good.\n\nReview: Fine.\nSentiment: [/INST]"
    assert chat.render(ROW, SHOTS[:1]) == (
        "<s>[INST] Say one of: bad, good.\n\nReview: Never.\nSentiment: [/INST] bad</s>"
        "[INST] Review: Fine.\nSentiment: [/INST]"
    )
    assert (chat.lead, chat.end) == (" ", "</s>")


def test_chat_with_named_turns():
    chat = renderer(TURNS)
    assert chat.render(ROW).endswith("Sentiment:<|end|>\n<|turn|>model\n")
    assert (chat.lead, chat.end) == ("", "<|end|>\n")


def test_no_chat_template():
    with pytest.raises(SetupError, match="the tokenizer has no chat template; use format: plain"):
        Renderer(PROMPT, tokenizer_with(), chat=True, trained=False)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "the chat template fails"),
        (
            "{{ 'open' if add_generation_prompt else 'closed' }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
            "does not begin a finished answer as it writes one",
        ),
    ],
)
def test_a_chat_template_that_does_not_work(template, words):
    with pytest.raises(SetupError, match=words):
        renderer(template)


def test_nothing_to_learn_as_an_end():
    tokenizer = tokenizer_with()
    tokenizer.eos_token = None
    with pytest.raises(SetupError, match="no end token"):
        Renderer(PROMPT, tokenizer, chat=False, trained=True)


def test_the_hash_moves_with_whatever_the_model_reads():
    base = renderer().hash
    assert renderer().hash == base
    changed = [
        renderer(prompt=PROMPT.model_copy(update={key: "x {text}"}))
        for key in ("template", "instruction", "joint", "separator")
    ]
    changed += [renderer(prompt=PROMPT.model_copy(update={"answers": {"good": "fine"}}))]
    changed += [renderer(INST), renderer(TURNS)]
    assert len({base, *(other.hash for other in changed)}) == len(changed) + 1
    same = PROMPT.model_copy(update={"hypothesis": "It is {label}.", "content_free": ("none",)})
    assert renderer(prompt=same).hash == base
    assert renderer(trained=True).hash == base, "asked and tuned alike"
