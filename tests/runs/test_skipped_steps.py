"""Steps that the loss scaler of fp16 skips, by torch's own scaler on the CPU: counted, told, and nothing is wrong."""

from types import SimpleNamespace

import accelerate
import pytest
import torch

from bench.distributed import sharding
from bench.errors import DivergedError
from bench.records import store
from bench.runner import lifecycle, stages
from bench.training import loss_scale
from bench.training.state import Progress
from tests.helpers import text_training as texts
from tests.helpers.launching import ROOT

# The largest power of two that float32 holds: so scaled, gradients of a sum overflow for a few steps, and then no more.
TOO_HIGH = 2.0**127
STEPS = {"steps": 12, "learning_rate": 0.1}


def scaled_from(first: float, overflows: int = 0) -> type:
    """Accelerate with a scaler that begins at this scale, as it has one on a GPU in fp16; all is in float32.

    overflows: of the first backward passes, so many have infinite gradients.
    """

    class Scaled(accelerate.Accelerator):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=first)

        def backward(self, loss, **options):
            self.passes = getattr(self, "passes", 0) + 1
            super().backward(loss * torch.inf if self.passes <= overflows else loss, **options)

        def unscale_gradients(self, optimizer=None):
            for one in self._optimizers:
                self.scaler.unscale_(one.optimizer)

    return Scaled


@pytest.fixture
def scaling(monkeypatch):
    def begin(first, overflows=0):
        monkeypatch.setattr("bench.training.engines.loop.Accelerator", scaled_from(first, overflows))
        monkeypatch.setattr("transformers.trainer.Accelerator", scaled_from(first, overflows))

    return begin


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return lambda: texts.model_of("gpt2-full", folder)


def trained(case, folder, **settings):
    """(inputs, progress, result) of a training."""
    known, model = case()
    inputs, progress = texts.inputs_of(model, known, folder, **{**STEPS, **settings}), Progress()
    return inputs, progress, texts.training.fit(inputs, progress)


@pytest.fixture(scope="module")
def runs(case, tmp_path_factory):
    """The same training by both engines, with a scale that is too high at first, and by one without any."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        found["plain"] = trained(case, tmp_path_factory.mktemp("plain"), steps=4)
        patch.setattr("bench.training.engines.loop.Accelerator", scaled_from(TOO_HIGH))
        patch.setattr("transformers.trainer.Accelerator", scaled_from(TOO_HIGH))
        for engine in ("trainer", "loop"):
            found[engine] = trained(case, tmp_path_factory.mktemp(engine), engine=engine)
    return found


@pytest.mark.parametrize("engine", ["trainer", "loop"])
def test_skipped_steps_are_counted_and_are_no_fault(runs, engine):
    inputs, progress, result = runs[engine]
    rows = [row for row in progress.log.rows if "loss" in row]
    skipped = len(result.skipped)
    assert result.steps == len(rows) == 12
    assert 0 < skipped < 8
    assert result.skipped == tuple(range(1, skipped + 1))
    assert result.loss_scale == TOO_HIGH / 2**skipped
    # The first gradients that count are those of the first step that was not skipped.
    assert result.without_gradient == ()
    # An infinite norm is left out, and each line says how many steps were skipped by then.
    assert [row["grad_norm"] is None for row in rows] == [step <= skipped for step in range(1, 13)]
    assert [row["skipped_steps"] for row in rows] == [min(step, skipped) for step in range(1, 13)]
    # The schedule stands still meanwhile, and goes on with the first update.
    rates = [0.1 * (1 - max(0, step - skipped - 1) / 12) for step in range(1, 13)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates)
    assert result.learning_rate == pytest.approx(stages.expected_rate(inputs, 12 - skipped))


def test_both_engines_skip_and_learn_the_same(runs):
    losses = {name: [row["loss"] for row in run[1].log.rows if "loss" in row] for name, run in runs.items()}
    assert losses["loop"] == pytest.approx(losses["trainer"], abs=1e-5)
    assert runs["loop"][2].skipped == runs["trainer"][2].skipped
    assert losses["loop"][-1] < losses["loop"][0]


def test_a_run_without_a_scaler_says_nothing_of_it(runs):
    _, progress, result = runs["plain"]
    assert (result.skipped, result.loss_scale) == ((), None)
    assert not any("skipped_steps" in row for row in progress.log.rows)


@pytest.mark.parametrize("engine", ["trainer", "loop"])
def test_gradients_that_overflow_at_any_scale_are_divergence(case, scaling, tmp_path, engine):
    scaling(4.0)
    known, model = case()
    next(model.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    inputs, progress = texts.inputs_of(model, known, tmp_path, **STEPS, engine=engine, checked=0), Progress()
    with pytest.raises(
        DivergedError, match=r"gradients overflow fp16 at step 3 although the loss scale has fallen to 1;"
    ):
        texts.training.fit(inputs, progress)
    assert progress.skipped == [1, 2, 3]


def test_a_checkpoint_remembers_skipped_steps():
    progress = Progress()
    batch = {"input_ids": torch.ones(1, 2), "attention_mask": torch.ones(1, 2), "labels": torch.ones(1)}
    for step in (1, 2):
        progress.steps.start()
        progress.steps.add(batch)
        progress.finish_step(step, skipped=step == 1)
        assert progress.none_updated == (step == 1)
    assert progress.skipped == [1]
    state = {"step": 5, "logged_step": 5, "learning_rate": 0.1, "seconds": 1.0, "rows": [], "without_gradient": []}
    progress.restore({**state, "skipped": [1, 4]}, None)
    assert progress.skipped == [1, 4]
    progress.restore(state, None)  # of a version that did not count them
    assert progress.skipped == []


def launched(tmp_path, *overrides):
    words = [str(ROOT / "recipes" / "tiny" / "bert-full.yaml"), "--out", str(tmp_path / "run"), *overrides]
    code = lifecycle.main(words)
    return code, store.read(tmp_path / "run")


def test_a_run_with_skipped_steps_is_ok_and_says_so(scaling, tmp_path, capsys):
    """The default optimizer is a fused one, which accelerate believes never to be skipped."""
    scaling(2.0**16, overflows=2)
    code, record = launched(tmp_path, "training.epochs=null", "training.steps=12", "evaluation.before=false")
    assert (code, record.status) == (0, "ok"), record.reason
    assert (record.training.skipped_steps, record.training.loss_scale) == (2, 2.0**14)
    assert {check.name: check.ok for check in record.checks}["learning_rate_final"]
    said = [note for note in record.notes if note.startswith("mixed_precision fp16: ")]
    assert said == [loss_scale.summary([1, 2], 12, 2.0**14)]
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "| skipped steps | 2 |" in page
    assert said[0] in page
    assert said[0] in capsys.readouterr().out


def test_a_run_whose_steps_were_all_skipped_is_invalid(scaling, tmp_path):
    scaling(2.0**16, overflows=2)
    code, record = launched(tmp_path, "training.epochs=null", "training.steps=2", "evaluation.before=false")
    assert (code, record.status) == (2, "invalid")
    assert record.reason.endswith("the loss scaler of fp16 skipped all steps; train for more, or in bf16 or float32")


@pytest.mark.parametrize(
    ("skipped", "scale", "expected"),
    [
        ([3], 512.0, ("1", "step 3")),
        ([1, 2], None, ("2", "steps 1, 2")),
        (range(1, 8), None, ("7", "steps 1, 2, 3, 4, 5, ...")),
    ],
)
def test_the_sentence_on_skipped_steps(skipped, scale, expected):
    end = "" if scale is None else "; the loss scale was 512 at the end"
    assert loss_scale.summary(skipped, 40, scale) == (
        f"mixed_precision fp16: {expected[0]} of 40 optimizer steps were skipped, for their gradients overflowed "
        f"({expected[1]}); the learning rate stood still{end}"
    )


# ---------------------------------------------------------------- DeepSpeed


def deepspeed(**attributes):
    """An accelerator as `loss_scale` sees it under DeepSpeed: no scaler of its own, but an optimizer that has one."""
    optimizer = SimpleNamespace(**attributes)
    engine = SimpleNamespace(optimizer=optimizer)
    return SimpleNamespace(
        scaler=None,
        deepspeed_engine_wrapped=SimpleNamespace(engine=engine),
        optimizer_step_was_skipped=attributes.get("overflow", False),
    ), optimizer


def test_deepspeeds_own_scaler_is_taken_where_it_would_take_torchs():
    """Torch's is never told of an overflow there: its scale would never fall."""
    accelerator, optimizer = deepspeed(
        torch_autocast_gradscaler=object(), check_grad_overflow=False, dynamic_loss_scale=False, loss_scale=1.0
    )
    loss_scale.take_over_from_autocast(accelerator)
    assert (optimizer.torch_autocast_gradscaler, optimizer.check_grad_overflow) == (None, True)
    assert optimizer.dynamic_loss_scale
    scaler = optimizer.loss_scaler
    assert (scaler.cur_scale, scaler.min_scale, scaler.cur_hysteresis) == (2**16, 1.0, 1)
    # Once more, as after a resumption, whose checkpoint has another scale: that stays.
    scaler.cur_scale, optimizer.torch_autocast_gradscaler = 512.0, object()
    loss_scale.take_over_from_autocast(accelerator)
    assert (optimizer.loss_scaler, optimizer.loss_scaler.cur_scale) == (scaler, 512.0)
    assert optimizer.torch_autocast_gradscaler is None


def test_without_fp16_deepspeed_is_left_alone():
    accelerator, optimizer = deepspeed(torch_autocast_gradscaler=None, dynamic_loss_scale=False)
    before = vars(optimizer).copy()
    loss_scale.take_over_from_autocast(accelerator)
    assert vars(optimizer) == before
    assert loss_scale.value(accelerator) is None
    loss_scale.take_over_from_autocast(SimpleNamespace(scaler=None))
    # Nothing scales the loss, so a step that was skipped had gradients that are not finite.
    with pytest.raises(DivergedError, match="the gradients are not finite at step 4"):
        loss_scale.refuse_collapse(4, loss_scale.value(accelerator))


def test_the_scale_of_deepspeed_is_read_and_its_end_is_divergence():
    accelerator, _ = deepspeed(dynamic_loss_scale=True, loss_scale=1024, overflow=True)
    assert loss_scale.step_was_skipped(accelerator)
    assert loss_scale.value(accelerator) == 1024.0
    loss_scale.refuse_collapse(1, 1.0)
    with pytest.raises(DivergedError, match="although the loss scale has fallen to 1"):
        with loss_scale.translated(7):
            raise Exception("Current loss scale already at minimum - cannot decrease scale anymore. Exiting run.")
    with pytest.raises(ValueError, match="other"), loss_scale.translated(7):
        raise ValueError("other")


def test_first_gradients_are_looked_for_again_after_a_skipped_step():
    model = torch.nn.Linear(2, 1, bias=False)
    watch = sharding.FirstGradients(model)
    (model(torch.ones(1, 2)) * torch.inf).sum().backward()
    assert watch.missing() == ["weight"]
    watch.restart()
    model(torch.ones(1, 2)).sum().backward()
    assert watch.missing() == []
    watch.close()
