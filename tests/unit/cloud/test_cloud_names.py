"""Names of a run's objects: whatever a recipe is called, Kubernetes, SkyPilot and buckets accept them."""

import re

import pytest

from bench.cloud import names
from bench.errors import SetupError

# RFC 1035, with room for the index and the ending of a pod's name.
LABEL = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("sst2--roberta_base--full", "sst2-roberta-base-full-seed13-0123abcd"),
        ("Größe--MODEL.v2--lora", "grosse-model-v2-lora-seed13-0123abcd"),
        ("4chan--x--full", "run-4chan-x-full-seed13-0123abcd"),
        ("日本語", "run-seed13-0123abcd"),
        ("-" * 30, "run-seed13-0123abcd"),
        ("a" * 400, "a" * 34 + "-seed13-0123abcd"),
    ],
)
def test_any_recipe_gets_a_name_that_is_allowed(name, made):
    assert names.of_run(name, 13, "0123abcdef") == made
    assert LABEL.fullmatch(made)


def test_long_names_differ_by_seed_and_hash():
    one, other = (names.of_run("x" * 90, seed, "0" * 8) for seed in (1, 2**31 - 1))
    assert one != other
    assert LABEL.fullmatch(other)


@pytest.mark.parametrize("name", ["run", "a", "my-run-2", "x" * 50])
def test_a_given_name_is_taken_as_it_is(name):
    names.check(name)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("My_Run", "my-run"),
        ("1st", "run-1st"),
        ("run-", "run"),
        ("", "run"),
        ("ü\n$(x)", "u-x"),
        ("名", "run"),
        ("x" * 51, "x" * 41 + "-"),
    ],
)
def test_a_forbidden_name_is_refused_with_one_that_is_allowed(name, allowed):
    with pytest.raises(SetupError) as caught:
        names.check(name)
    offered = str(caught.value).rpartition(" ")[2]
    assert offered.startswith(allowed)
    names.check(offered)
