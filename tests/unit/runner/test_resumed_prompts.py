"""A training is not gone on with prompts that are framed in another way."""

from types import SimpleNamespace

import pytest

from bench.errors import SetupError
from bench.records.record import Prompts
from bench.runner import resume, resumed_prompts
from tests.helpers.cases import together
from tests.helpers.pages import full

PROMPTS = Prompts(format="chat", answer="label_likelihood", signature="s", template_hash="t", frame_hash="f")


def resumed(old, new=PROMPTS, checkpoint=True):
    records = [full().model_copy(update={"prompts": prompts}) for prompts in (old, new)]
    previous = resume.PreviousRun(checkpoint=SimpleNamespace() if checkpoint else None, record=records[0])
    return SimpleNamespace(record=records[1], previous=previous, folder="runs/x")


@pytest.mark.parametrize("changes", [{"frame_hash": "g"}, {"template_hash": "u"}])
def test_other_prompts_are_refused(changes):
    old = PROMPTS.model_copy(update=changes)
    with pytest.raises(SetupError, match=r"runs/x: .*prompts were framed in another way .*give --overwrite to start"):
        resumed_prompts.refuse_other(resumed(old))
    resumed_prompts.refuse_other(resumed(old, checkpoint=False))  # begins anew


SAME = {
    "the same": PROMPTS,
    "scored, with other manifests": PROMPTS.model_copy(update={"manifests": {"test": "x"}}),
    "a record of before": PROMPTS.model_copy(update={"frame_hash": None, "template_hash": "u"}),
    "a task head": None,
}


@together("old", SAME.values())
def test_the_same_ones_are_not(old):
    resumed_prompts.refuse_other(resumed(old))
    resumed_prompts.refuse_other(resumed(old, new=None))


def test_nor_is_a_run_without_a_record_of_before():
    run = resumed(PROMPTS)
    run.previous.record = None
    resumed_prompts.refuse_other(run)
