"""What is taken over from an interrupted run was scored with the same prompts, token by token."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench.data.examples import Encoded
from bench.errors import SetupError
from bench.evaluation import text_examples
from bench.records.record import Prompts
from bench.runner import resume
from tests.helpers.pages import full

IDS = ("b", "a", "c")
PROMPTS = Prompts(format="chat", answer="label_likelihood", signature="s", template_hash="t", frame_hash="f")


def split(hashes=("1", "2", "3")):
    features = [{"input_ids": [1], "labels": 0, "prompt_hash": one} for one in hashes]
    return Encoded(name="test", ids=IDS, features=features, truncated=0)


def interrupted(folder, hashes=("1", "2", "3"), **changes):
    """Return a run and the record of an interrupted one, whose scored prompts had these hashes."""
    record = full().model_copy(deep=True)
    record.scores = {"before": {"test": {}}}
    record.artifacts = {"predictions_before_test": "before-test.jsonl"}
    record.prompts = PROMPTS.model_copy(
        update={"manifests": {"test": text_examples.manifest_of_split(split(hashes))}} | changes
    )
    (folder / "before-test.jsonl").touch()
    new = record.model_copy(deep=True, update={"prompts": PROMPTS})
    recipe = SimpleNamespace(evaluation=SimpleNamespace(splits=("test",)))
    run = SimpleNamespace(
        record=new,
        folder=folder,
        resolved=SimpleNamespace(recipe=recipe),
        inputs=SimpleNamespace(splits={"test": split()}),
    )
    return run, record


def test_scores_of_the_same_prompts_are_taken_over(tmp_path):
    run, record = interrupted(tmp_path)
    assert resume._has_before(run, record)
    run.record.prompts = record.prompts = None  # a task head
    assert resume._has_before(run, record)


@pytest.mark.parametrize("hashes", [("1", "2", "4"), ("2", "1", "3"), ("x", "y", "z"), ("1", "1", "3")])
def test_scores_of_other_prompts_are_not(tmp_path, hashes):
    assert not resume._has_before(*interrupted(tmp_path, hashes))


def test_nor_scores_without_a_manifest_or_of_another_objective(tmp_path):
    assert not resume._has_before(*interrupted(tmp_path, manifests={}))
    run, record = interrupted(tmp_path)
    record.prompts = None
    assert not resume._has_before(run, record)
    run, record = interrupted(tmp_path)
    run.record.prompts = None
    assert not resume._has_before(run, record)


def test_the_manifest_of_a_split_is_that_of_its_predictions():
    extra = tuple({"prompt_hash": one} for one in ("2", "1", "3"))
    predictions = SimpleNamespace(ids=("a", "b", "c"), extra=extra)
    assert text_examples.manifest(predictions) == text_examples.manifest_of_split(split())
    bare = replace(split(), features=[{"input_ids": [1], "labels": 0}] * 3)
    assert text_examples.manifest_of_split(bare) is None


@pytest.mark.parametrize("changes", [{"frame_hash": "g"}, {"template_hash": "u"}])
def test_a_training_is_not_gone_on_with_other_prompts(tmp_path, changes):
    run, record = interrupted(tmp_path, **changes)
    run.previous = resume.PreviousRun(checkpoint=SimpleNamespace(), record=record)
    with pytest.raises(SetupError, match=r"prompts were framed in another way .*give --overwrite to start again"):
        resume.refuse_other_prompts(run)
    run.previous.checkpoint = None
    resume.refuse_other_prompts(run)


def test_but_with_the_same_ones_or_with_those_of_a_record_of_before(tmp_path):
    for changes in ({}, {"frame_hash": None, "template_hash": "u"}):
        run, record = interrupted(tmp_path, **changes)
        run.previous = resume.PreviousRun(checkpoint=SimpleNamespace(), record=record)
        resume.refuse_other_prompts(run)
