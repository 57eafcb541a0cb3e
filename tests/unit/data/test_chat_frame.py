"""Chat templates: one date on every day, no chance, and a hash of all that they write around the messages."""

from datetime import datetime

import pytest

from bench.config.cards import Prompt
from bench.data.prompts.chat_frame import ChatFrame
from bench.data.prompts.encode import PromptEncoder
from bench.data.prompts.template import Renderer
from bench.errors import SetupError
from bench.tasks import text_classification as task
from tests.helpers.cases import together
from tests.helpers.chat_templates import INST, TURNS, tokenizer_with

DAY, OTHER = "2024-07-26", "2031-02-03"
QUESTION = [{"role": "user", "content": "Fine?"}]
REST = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}{% if add_generation_prompt %}[model]{% endif %}"
)


def frame(template, date=DAY):
    return ChatFrame(tokenizer_with(template), date)


def rendered(template, date=DAY):
    return frame(template, date).render(QUESTION, open_answer=True)


FORMATS = [
    "%d %b %Y", "%Y-%m-%d", "%A, %-d %B %Y", "%H:%M:%S", "%j|%U|%W|%w|%u|%V|%G", "%x %X %c", "%y%m%d", "%e/%-m",
    "100%", "%", "%%d", "%%%d", "%^a %#b", "%q", "no code", "%-d%-m", "%d%%%Y%", "{%Y}", "%z|%Z", "%I %p", "%F %T",
]  # fmt: skip


@together("written", FORMATS)
def test_a_date_is_written_as_python_writes_it(written):
    template = "{{ strftime_now('" + written + "') }}|" + REST
    assert rendered(template) == datetime(2024, 7, 26).strftime(written) + "|[user] Fine? [model]"


DATED = [
    "{{ strftime_now('%d %m %Y') }} " + REST,
    "{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}Today Date: {{ date_string }}\n" + REST,
    "{% set form = '%' ~ 'd' %}{{ strftime_now(form) }}" + REST,
    "{% macro today() %}{{ strftime_now('%A') }}{% endmacro %}{{ today() }}" + REST,
    "{% for m in messages %}{{ strftime_now('%Y') }}: {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}[model]{% endif %}",
    "{{ strftime_now('%B') | upper }}" + REST,
    "{% if strftime_now('%Y') == '2024' %}then{% else %}now{% endif %}" + REST,
]


@together("template", DATED)
def test_a_dated_template_is_of_the_date_given_whatever_the_day(template):
    one, other = frame(template), frame(template, OTHER)
    assert one.writes_date
    assert one.hash == frame(template).hash != other.hash
    assert one.render(QUESTION, open_answer=True) == rendered(template) != rendered(template, OTHER)
    today = tokenizer_with(template).apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert today != one.render(QUESTION, open_answer=True)


UNDATED = [
    INST,
    TURNS,
    REST,
    "\n\n  " + REST,
    "  {% if true %}x\n{% endif %}" + REST,
    "{% if false %}{{ strftime_now('%d') }}{% endif %}" + REST,
    "  {% if false %}{{ strftime_now('%d') }}{% endif %}\n" + REST,
    "\n{% if false %}{{ strftime_now('%d') }}{% endif %}" + REST,
    "strftime_now " + REST,
]


@together("template", UNDATED)
def test_every_other_template_is_rendered_as_transformers_renders_it(template):
    tokenizer = tokenizer_with(template)
    plain = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert rendered(template) == plain
    assert not frame(template).writes_date
    with pytest.raises(SetupError, match=r"prompting\.date is 2031-02-03, but .* chat template writes no date"):
        frame(template, OTHER)


CONTENT = "{% for m in messages %}<{{ m['role'] }}>{{ CONTENT }}{% endfor %}"
CHANGED = {
    "m['content'] | upper": "user",
    "m['content'][:300]": "user",
    "m['content'] | truncate(100)": "user",
    "m['content'].split(':')[-1]": "user",
    "'' if m['role'] == 'user' else m['content']": "user",
    "m['content'] if m['role'] == 'user' else m['content'] | lower": "assistant",
    "m['content'] if m['role'] == 'user' else m['content'] | title": "assistant",
}


@together("content, role", CHANGED.items())
def test_a_template_that_changes_texts_is_refused(content, role):
    with pytest.raises(SetupError, match=f"does not write a text of the {role} as it is; change the template"):
        frame(CONTENT.replace("CONTENT", content))


@together("content", ["m['content'] | trim", "m.content.split('</think>')[-1]", "m['content'] ~ eos_token"])
def test_a_template_may_write_more_around_a_text(content):
    assert frame(CONTENT.replace("CONTENT", content)).hash


CHANCE = {
    "{{ ['Hi', 'Hello'] | random }} " + REST: "'| random', which draws at random",
    "{{ lipsum(1) }}" + REST: "'lipsum', which draws at random",
    "{{ cycler('a') }}" + REST: "the address of an object",
    "{{ lipsum }}" + REST: "'lipsum'",
    "{{ ['a', 'b']|\n random }}" + REST: "which draws at random",
    "{{ ['abcd', 'efgh'] | map('random') | join }}" + REST: "rendered in several ways",
}


@together("template, reason", CHANCE.items())
def test_a_template_that_renders_at_random_is_refused(template, reason):
    with pytest.raises(SetupError, match="prompts of the chat template can't be repeated: ") as error:
        frame(template)
    assert reason in str(error.value)
    assert "use format: plain" in str(error.value)


def test_special_tokens_are_in_the_hash_though_the_template_is_the_same():
    one, other = tokenizer_with(INST), tokenizer_with(INST)
    other.bos_token = "<unk>"
    assert ChatFrame(one, DAY).template == ChatFrame(other, DAY).template
    assert ChatFrame(one, DAY).hash != ChatFrame(other, DAY).hash


def test_the_default_one_of_several_templates():
    tokenizer = tokenizer_with({"default": DATED[0], "tool_use": "x"})
    assert ChatFrame(tokenizer, DAY).render(QUESTION, open_answer=True).startswith("26 07 2024 [user]")
    with pytest.raises(SetupError, match="the tokenizer has no default template"):
        ChatFrame(tokenizer_with({"rag": "x", "tool_use": "y"}), DAY)


def test_the_date_is_in_the_hash_of_the_prompts_and_noted():
    prompt, dated = Prompt(template="{text} ->", joint=" "), "{{ strftime_now('%d %b') }}" + INST
    made = {date: Renderer(prompt, tokenizer_with(dated), chat=True, trained=False, date=date) for date in (DAY, OTHER)}
    assert made[DAY].hash == Renderer(prompt, tokenizer_with(dated), chat=True, trained=True).hash
    assert made[DAY].hash != made[OTHER].hash
    encoder = PromptEncoder(
        tokenizer=made[DAY].tokenizer, renderer=made[DAY], family="decoder", max_length=99,
        wording=task.wording(prompt, ("bad", "good"), False),
    )  # fmt: skip
    assert encoder.notes[0] == "the chat template writes a date: prompting.date, 2024-07-26, on every day"
