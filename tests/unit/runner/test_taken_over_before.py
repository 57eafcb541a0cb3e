"""The record of a run that goes on says of the scores before training what holds for the launch that made them."""

import pytest

from bench.runner import resume
from tests.helpers.pages import full

WHOLE = "whole on each process: training goes on from a checkpoint, which the sharded model holds from its start on"


@pytest.mark.parametrize("scored", ["sharded: evaluation.sharded: true", "whole on each process: it fits"])
def test_where_the_scores_before_were_made_is_taken_over_with_them(scored):
    previous, new = (full().model_copy(update={"sharded_phases": {"before": how}}) for how in (scored, WHOLE))
    resume._copy_before(new, previous)
    assert new.sharded_phases == {"before": scored}


def test_nothing_is_said_where_nothing_is_sharded():
    previous, new = (full().model_copy(update={"sharded_phases": phases}) for phases in ({"before": "x"}, {}))
    resume._copy_before(new, previous)
    assert new.sharded_phases == {}
