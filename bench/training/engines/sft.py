"""The default engine for decoders that learn to write: TRL's SFTTrainer, with the order, seeds and log of the others.

TRL computes the loss from the output head's weight, in slices of the vocabulary; the harness asks the model itself for
the loss on answers (`speed.answer_logits`), unless that is switched off or the model can't. See `WatchedTrainer` for
what else it adds, and `engines/loop` for the same training step in plain sight.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from torch import nn
from trl import SFTConfig, SFTTrainer

from bench.models.heads import unwrapped
from bench.models.library_internals import accelerate_internals
from bench.training import autocast
from bench.training.engines.trainer import WatchedTrainer, train
from bench.training.loss import StepLoss, step_loss
from bench.training.self_check import checked
from bench.training.session import Session
from bench.training.state import FitInputs


def config(values: dict[str, Any], precision: str) -> SFTConfig:
    """Return the Trainer's arguments as TRL's. precision: as the launcher has it, "no", "bf16" or "fp16".

    TRL's own defaults would train in bf16, with recomputed activations, on texts cut to 1024 tokens.
    """
    return SFTConfig(
        **values,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        gradient_checkpointing=False,  # for both engines, `train.fit` has set it on the model where a recipe asks
        loss_type="nll",
        packing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def run(session: Session, arguments: SFTConfig) -> nn.Module:
    """Train the model and return it as it was given: without TRL's forward, its tags, or the wrappers of DDP."""
    inputs = session.inputs
    inner = unwrapped(inputs.model)
    with step_loss(inputs) as wanted, _counted_experts(inner.config.get_text_config()):
        loss_of = checked(wanted)
        forward, tags = inner.__dict__.get("forward"), inner.model_tags
        trainer = _Trainer(
            session,
            loss_of,
            model=inputs.model,
            args=arguments,
            data_collator=loss_of.collate,
            train_dataset=_in_order(inputs),
            processing_class=inputs.scoring.tokenizer,
        )
        # With a tokenizer, the Trainer would put its special tokens into the model's config.
        trainer.processing_class = None
        model = train(trainer)
        # TRL's forward, and accelerate's autocast around it: the scorer has its own, before and after training.
        accelerate_internals.drop_forward(inner)
        if forward is not None:
            inner.forward = forward
        inner.model_tags = tags
        return model


@contextmanager
def _counted_experts(config: Any) -> Iterator[None]:
    """Inside, a config says how many experts there are as TRL asks for it; Llama 4's has another name for that."""
    given = not hasattr(config, "num_experts") and hasattr(config, "num_local_experts")
    if given:
        config.num_experts = config.num_local_experts
    try:
        yield
    finally:
        if given:
            del config.num_experts


def _in_order(inputs: FitInputs) -> Dataset:
    columns = {name: [feature[name] for feature in inputs.train.features] for name in ("input_ids", "token_labels")}
    return Dataset.from_dict(columns).select(inputs.order)


class _Trainer(WatchedTrainer, SFTTrainer):
    """SFTTrainer's loss, where the model gives none on its answers alone, inside of what the harness watches."""

    def __init__(self, session: Session, loss_of: StepLoss, **options: Any) -> None:
        parameters = session.inputs.model.parameters()
        trained = [(parameter, parameter.data) for parameter in parameters if parameter.requires_grad]
        super().__init__(session, loss_of, **options)
        # TRL puts adapters on a 4-bit model into bfloat16, in which a small step changes nothing.
        for parameter, data in trained:
            if parameter.dtype != data.dtype:
                parameter.data = data

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the harness's loss, or else TRL's, which needs the model's outputs."""
        if self.loss_of.answers_only:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with autocast.autocast(self.session.inputs.scoring, drops_copies=self.session.drops_copies):
            return SFTTrainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)

    def _send_telemetry(self) -> None:
        """Send nothing: no data about a run leaves the machine."""
