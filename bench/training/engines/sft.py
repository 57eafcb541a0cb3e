"""The default engine for decoders that learn to write: TRL's SFTTrainer, with the order, seeds and log of the others.

TRL computes the loss from the output head's weight, in slices of the vocabulary; the harness asks the model itself for
the loss on answers (`answer_logits`), unless that is switched off or the model can't. See `WatchedTrainer` for what
else it adds, and `engine_loop` for the same training step in plain sight.
"""

from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from bench.models.heads import unwrapped
from bench.models.library_internals import accelerate_internals
from bench.training.answer_only import while_training
from bench.training.engines.trainer import WatchedTrainer, train
from bench.training.state import Fit


def config(values: dict[str, Any], precision: str) -> SFTConfig:
    """The Trainer's arguments as TRL's. precision: as the launcher has it, "no", "bf16" or "fp16".

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


@while_training
def run(fit: Fit, arguments: SFTConfig) -> Any:
    """Trains `fit.model` and returns it as it was given: without TRL's forward, its tags, or the wrappers of DDP."""
    inner = unwrapped(fit.model)
    forward, tags = inner.__dict__.get("forward"), inner.model_tags
    trainer = _Trainer(
        fit,
        model=fit.model,
        args=arguments,
        data_collator=fit.collate,
        train_dataset=_in_order(fit),
        processing_class=fit.scoring.tokenizer,
    )
    # TRL divides by the items of the whole step; whether they are counted must not hang on the model's signature.
    trainer.model_accepts_loss_kwargs = True
    # With a tokenizer, the Trainer would put its special tokens into the model's config.
    trainer.processing_class = None
    model = train(trainer)
    # TRL's forward, and accelerate's autocast around it: the scorer has its own, before and after training.
    accelerate_internals.drop_forward(inner)
    if forward is not None:
        inner.forward = forward
    inner.model_tags = tags
    return model


def _in_order(fit: Fit) -> Dataset:
    columns = {name: [feature[name] for feature in fit.train.features] for name in ("input_ids", "token_labels")}
    return Dataset.from_dict(columns).select(fit.order)


class _Trainer(WatchedTrainer, SFTTrainer):
    """SFTTrainer's loss inside of what the harness watches."""

    def __init__(self, fit: Fit, **options: Any) -> None:
        trained = [(parameter, parameter.data) for parameter in fit.model.parameters() if parameter.requires_grad]
        super().__init__(fit, **options)
        # TRL puts adapters on a 4-bit model into bfloat16, in which a small step changes nothing.
        for parameter, data in trained:
            if parameter.dtype != data.dtype:
                parameter.data = data

    def _send_telemetry(self) -> None:
        """Nothing about a run leaves the machine."""
