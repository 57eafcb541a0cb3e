"""config/without_effect.py: which keys of a record's resolved recipe had no effect; and the labels of methods."""

import json
from pathlib import Path

import pytest

from bench.analysis import accessors
from bench.config import resolve, without_effect

STUDY = Path("recipes/studies/minilm")


def record(name):
    made = resolve.first_record(resolve.load(STUDY / f"{name}.yaml"))
    made.recipe.resolved = json.loads(json.dumps(made.recipe.resolved))  # as it is read from a file
    return made


@pytest.mark.parametrize("older", [{}, {"batch": 32}])
def test_a_method_that_reads_whole_texts_has_no_maximum_length_also_in_older_records(older):
    resolved = record("imdb-tfidf").recipe.resolved
    resolved["evaluation"] |= older
    assert {"max_length", "evaluation.batch_tokens"} <= without_effect.of_resolved(resolved)
    resolved = record("imdb-full").recipe.resolved
    resolved["evaluation"] |= older
    found = without_effect.of_resolved(resolved)
    assert "max_length" not in found
    assert "head.hidden" in found


def test_nothing_is_said_of_what_can_not_be_read_any_more():
    resolved = record("imdb-tfidf").recipe.resolved
    assert without_effect.of_resolved({}) == frozenset()
    assert without_effect.of_resolved(resolved | {"method": {"name": "not_here"}}) == frozenset()
    assert without_effect.of_resolved(resolved | {"max_length": "long"}) == frozenset()


@pytest.mark.parametrize("kind", ["lora", "ia3", "dora", "rslora"])
def test_a_kind_of_adapter_has_its_own_name(kind):
    made = record(f"sst2-{kind}")
    assert accessors.method_label(made) == kind
    assert accessors.shown_name(made) == f"minilm--minilm--{kind}"


def test_other_methods_keep_their_names():
    assert accessors.method_label(record("sst2-full")) == "full"
    quantised = record("sst2-dora").model_copy(update={"method": "qlora"})
    assert accessors.method_label(quantised) == "qlora (dora)"
    both = record("sst2-dora")
    both.recipe.resolved["method"]["config"]["use_rslora"] = True
    assert accessors.method_label(both) == "dora+rslora"
