"""Keys that only settings of others need: refused with a sentence where they mean nothing, and in no other hash."""

import pytest

from bench.config import resolve
from bench.errors import RecipeError
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

RECIPES = ROOT / "recipes"
REFUSED = [
    ("tiny/bert-full", ["training.loss_on=all"], "a task head learns labels, and no tokens are in its loss"),
    ("tiny/t5-text_full", ["training.loss_on=all"], "an encoder-decoder learns what it writes, the answer alone"),
    ("tiny/mistral-text_lora", ["training.loss_on=assistant"], "only task 'generation' has conversations"),
    ("tiny/mistral-text_lora", ["prompting.fallback_label=negative"], "only for `answer: generate` where each"),
    (
        "tiny/mistral-text_lora",
        ["prompting={answer: generate, fallback_label: negativ}"],
        "there is no label 'negativ'. Did you mean 'negative'?",
    ),
    (
        "tiny/distilbert-multilabel",
        ["model=tiny_llama", "objective=text", "prompting={answer: generate, fallback_label: joy}"],
        "only for `answer: generate` where each example has one label",
    ),
    ("tiny/mistral-text_lora", ["prompting.untrained_head=true"], "only for `answer: entailment`"),
    ("tiny/bert-full", ["prompting.untrained_head=true"], "`prompting` is only for `objective: text`"),
    (
        "tiny/bert-full",
        ["evaluation.metrics=[accuracy, recall]", "published={recall_per_label.positiv: {low: 0, high: 1, source: x}}"],
        "no metric computes 'recall_per_label.positiv'. Did you mean 'recall_per_label.positive'?",
    ),
    (
        "tiny/bert-full",
        ["evaluation.before=false", "published_before={accuracy: {low: 0, high: 1, source: x}}"],
        "nothing is scored before training",
    ),
    ("tiny/llama-zero_shot", ["training.group_by_length=true"], "is not trained and can't use this"),
]


@together("name, changes, message", REFUSED)
def test_what_means_nothing_is_refused(name, changes, message):
    with pytest.raises(RecipeError) as caught:
        resolve.load(RECIPES / f"{name}.yaml", tuple(changes))
    assert message in str(caught.value)


@together(
    "changes",
    [
        ("training.loss_on", "answer", "all"),
        ("training.group_by_length", "false", "true"),
        ("prompting.fallback_label", "null", "negative"),
    ],
)
def test_a_default_is_in_no_hash_and_another_value_in_every(changes):
    key, default, other = changes
    path, given = RECIPES / "tiny" / "mistral-text_lora.yaml", ("prompting.answer=generate",)
    plain = resolve.load(path, given)
    assert resolve.load(path, (*given, f"{key}={default}")).hash == plain.hash
    assert resolve.load(path, (*given, f"{key}={other}")).hash != plain.hash
