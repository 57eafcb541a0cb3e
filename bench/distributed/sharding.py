"""Models whose state is sharded over processes, by DeepSpeed's ZeRO or by FSDP2: whole again, and described.

Under ZeRO-3 and FSDP2 each process holds a shard of every parameter only while a model trains;
`FullModelShell` keeps the plain model's shape, without its weights, and is filled with whole parameters where they are
needed: no collective call is hidden in its forward, so that processes may score different batches, and generate
answers of different lengths.
"""

import contextlib
import copy
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.integrations import deepspeed

from bench.config.contracts import LoadPlan
from bench.config.recipe import Recipe
from bench.config.training import Training
from bench.distributed import prepared_shards
from bench.errors import SetupError
from bench.models import shards
from bench.models.heads import layer_classes, unwrapped
from bench.models.kernels import padding_free
from bench.models.library_internals import transformers_internals

# Elements. By default DeepSpeed sums gradients in buffers of 500 million, 2 GB in float32, and ZeRO-3 keeps up to a
# billion weights gathered: all of a small model, and more than a 12 GB GPU can spare of a large one.
BUFFERS = {
    "reduce_bucket_size": 2**24,
    "allgather_bucket_size": 2**24,
    "stage3_prefetch_bucket_size": 2**24,
    "stage3_max_live_parameters": 2**26,
    "stage3_max_reuse_distance": 2**24,
    # ZeRO-3 copies the gradients of so many weights at a time for the optimiser's step; by default of a billion.
    "sub_group_size": 2**26,
}
# Optimisers that compute the same on a part of a parameter as on the whole of it.
SHARDABLE_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")
# Its states are 8-bit blocks of 256 numbers with a scale each. ZeRO begins blocks anew in each process's part of all
# parameters, so that it rounds otherwise: losses differed by 1e-5 from those of one process.
BLOCKWISE_OPTIMIZER, BLOCKWISE_STAGES = "adamw_bnb_8bit", ("ZeRO-1", "ZeRO-2")


def requested_backend() -> str | None:
    """Return what the launcher asked to shard the model's state by: "deepspeed", "fsdp", or None."""
    for name in ("deepspeed", "fsdp"):
        if os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() == "true":
            return name
    return None


def requested_stage() -> int | None:
    """Return the ZeRO stage that the launcher asked for; None without DeepSpeed."""
    if requested_backend() != "deepspeed":
        return None
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if path != "none":
        return int(json.loads(Path(path).read_text(encoding="utf-8")).get("zero_optimization", {}).get("stage", 0))
    return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))


def requested_offload() -> tuple[str, str]:
    """Return where DeepSpeed was asked to keep the optimizer's state and the weights: "none", "cpu" or "nvme"."""
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if path != "none":
        zero = json.loads(Path(path).read_text(encoding="utf-8")).get("zero_optimization", {})
        places = [(zero.get(f"offload_{name}") or {}).get("device", "none") for name in ("optimizer", "param")]
    else:
        names = ("OPTIMIZER", "PARAM")
        places = [os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{name}_DEVICE", "none") for name in names]
    return places[0], places[1]


def shards_parameters() -> bool:
    """Return whether no process will hold the whole model while it trains."""
    return requested_backend() == "fsdp" or requested_stage() == 3


def check(recipe: Recipe, plan: LoadPlan) -> str | None:
    """Return a note for the record of a recipe under DeepSpeed or FSDP, if any; to be asked before a model is loaded.

    Raises SetupError for what the libraries can't do together, or would do with another result, and says what can be
    done instead.
    """
    kind = {"fsdp": "FSDP", "deepspeed": f"ZeRO-{requested_stage()}"}.get(requested_backend() or "")
    if kind is None:
        return None
    if plan.trains == "nothing" and shards_parameters():
        return (
            f"{kind} has nothing to train here; sharded_phases says whether the model is sharded to load and score it"
        )
    if plan.trains != "gradient":
        return f"{kind} was asked for, and is not used: nothing is trained by gradients"
    offload = requested_backend() == "deepspeed" and requested_offload()[0] != "none"
    refuse_unshardable(recipe.training, plan, kind, parameters=shards_parameters(), offload=offload)
    if recipe.training.optimizer == BLOCKWISE_OPTIMIZER:
        return f"{kind}: {BLOCKWISE_OPTIMIZER} has its 8-bit blocks in each process's part, and rounds otherwise there"
    if not shards_parameters():
        return None
    return f"{kind} shards the parameters during training; sharded_phases says in which other phases"


def refuse_unshardable(training: Training, plan: LoadPlan, kind: str, *, parameters: bool, offload: bool) -> None:
    """Raise SetupError for a training by gradients whose state can't be sharded, or not with the same result.

    kind: "ZeRO-2", "FSDP" ... parameters: whether these are sharded too. offload: of the optimiser, to the host.
    """
    if training.engine == "loop":
        raise SetupError(f"training.engine: loop trains whole models only, not under {kind}; take engine: trainer")
    blockwise = training.optimizer == BLOCKWISE_OPTIMIZER and kind in BLOCKWISE_STAGES
    if training.optimizer not in SHARDABLE_OPTIMIZERS and not blockwise:
        if training.optimizer.endswith("8bit"):
            why = "has no step for FSDP2's tensors" if kind.startswith("FSDP") else f"was not tried under {kind}"
            why = "keeps 8-bit blocks, which checkpoints of ZeRO-3 don't hold" if kind == "ZeRO-3" else why
            raise SetupError(
                f"training.optimizer: {training.optimizer} {why}; take {' or '.join(SHARDABLE_OPTIMIZERS)}, or "
                f"{BLOCKWISE_OPTIMIZER} with ZeRO-1, ZeRO-2 or DDP"
            )
        raise SetupError(
            f"training.optimizer: {training.optimizer} would compute something else on shards of parameters, as {kind} "
            f"makes them; take {' or '.join(SHARDABLE_OPTIMIZERS)}, whose state can be sharded, or launch with DDP"
        )
    if offload and not training.optimizer.startswith("adamw_torch"):
        # `map_pytorch_optim_to_deepspeed` in accelerate/utils/deepspeed.py, which says nothing.
        raise SetupError(
            f"training.optimizer: with offload accelerate takes DeepSpeed's Adam for CPUs in place of "
            f"{training.optimizer}; take adamw_torch, or launch without offload"
        )
    check_adapters(plan, kind)
    if plan.quantization is not None and parameters:
        check_storage(plan.quantization, kind)


def check_adapters(plan: LoadPlan, kind: str) -> None:
    """Raise SetupError for adapters in 16 bits: ZeRO would keep a float32 copy of each, and FSDP wants one type."""
    if plan.adapter_dtype != "float32":
        raise SetupError(
            f"method.dtype: {plan.adapter_dtype} saves nothing under {kind}; take float32, or launch with ddp.yaml"
        )


def check_storage(quantization: dict[str, Any], kind: str) -> None:
    """Raise SetupError for 4-bit weights that can't be sharded. kind: by what, for the sentence."""
    storage, computed = (quantization[f"bnb_4bit_{name}"] for name in ("quant_storage", "compute_dtype"))
    if storage != computed:
        raise SetupError(
            f"method: qlora under {kind} needs 4-bit weights that are stored as what they are computed in; set "
            f"method.storage={computed}, or launch with zero2.yaml or ddp.yaml"
        )


class FullModelShell:
    """The shape of a plain model, to be filled with the whole parameters of the same model after it was sharded.

    held: whether each process held but its shards of that model (`models.shards`), and is to hold no more at the end.
    """

    def __init__(self, model: nn.Module) -> None:
        without_pads = padding_free.is_attached(model)
        padding_free.detach(model)  # what it put in place of the body's forward belongs to that body
        memo: dict[int, Any] = {}
        for parameter in model.parameters():
            empty = torch.empty_like(parameter, device="meta", memory_format=torch.contiguous_format)
            memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        self.held = shards.are_held(model)
        self.model = copy.deepcopy(model, memo)
        self._without_pads = without_pads
        if without_pads:
            padding_free.reattach(model)

    def filled(self, sharded: nn.Module) -> nn.Module:
        """Return the plain model with the whole parameters of `sharded`. Every process must call it."""
        self._fill(dict(whole_parameters(sharded)))
        for name, buffer in sharded.named_buffers():
            self.model.get_buffer(name).copy_(buffer)
        if self._without_pads:
            padding_free.reattach(self.model)
        return self.model

    def holding(self, sharded: nn.Module) -> nn.Module:
        """Return the plain model with this process's shards of `sharded`, which gives up its own one after another.

        Every process must call it.
        """
        made = {}
        for name, parameter in sharded.named_parameters():
            made[name] = prepared_shards.taken_over(parameter)
        self._place(made)
        for name, buffer in sharded.named_buffers():
            self.model.get_buffer(name).copy_(buffer)
        if self._without_pads:
            padding_free.reattach(self.model)
        return self.model

    def emptied(self) -> None:
        """Free the whole parameters."""
        padding_free.detach(self.model)
        self._fill({name: parameter.to("meta") for name, parameter in self.model.named_parameters()})

    def _fill(self, values: dict[str, torch.Tensor]) -> None:
        self._place({name: nn.Parameter(value.detach(), requires_grad=False) for name, value in values.items()})

    def _place(self, made: dict[str, nn.Parameter]) -> None:
        """Put parameters into the places of those of these names."""
        places: dict[int, nn.Parameter] = {}  # a parameter that stands in two places stays one
        for name, parameter in list(self.model.named_parameters(remove_duplicate=False)):
            if id(parameter) not in places:
                places[id(parameter)] = made[name].requires_grad_(parameter.requires_grad)
            owner, _, last = name.rpartition(".")
            self.model.get_submodule(owner).register_parameter(last, places[id(parameter)])


@contextlib.contextmanager
def whole(model: nn.Module, shell: FullModelShell | None) -> Iterator[nn.Module]:
    """Give the plain model with whole parameters, inside: `model` without its wrappers, unless it is sharded.

    Every process must enter. model: unwrapped.
    """
    if shell is None:
        yield model
        return
    plain = shell.filled(model)
    try:
        with transformers_internals.without_deepspeed():
            yield plain
    finally:
        shell.emptied()


def gathered_model(trainer: Any, shell: FullModelShell | None) -> nn.Module:
    """Return the plain model of a Trainer at its end; the engine around it is taken down. Every process must call it.

    Its parameters are whole, unless each process held but its shards of them before training: so it does again.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if requested_backend() is None:
        return model
    deepspeed.unset_hf_deepspeed_config()
    _take_down(trainer)
    if shell is None:
        return model
    return shell.holding(model) if shell.held else shell.filled(model)


def _take_down(trainer: Any) -> None:
    """Free gradients and the optimiser's states, which would lie beside the whole weights, and their engine."""
    engine, handler = trainer.model_wrapped, trainer.callback_handler
    trainer.model_wrapped, trainer.optimizer, trainer.lr_scheduler = trainer.model, None, None
    handler.optimizer, handler.lr_scheduler = None, None
    if hasattr(engine, "zero_optimization_stage"):
        trainer.deepspeed = None
        engine.destroy()
        engine.optimizer, engine.basic_optimizer, engine.lr_scheduler = None, None, None
    del engine
    trainer.accelerator.free_memory()  # collects what refers to itself, too


def whole_parameters(sharded: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and whole value of each parameter, gathered one at a time. Every process must take all of them."""
    for name, parameter in sharded.named_parameters():
        yield name, prepared_shards.whole_of(parameter)


def apply_defaults(arguments: Any) -> Any:
    """Replace defaults of DeepSpeed and FSDP2 that change results or waste memory; return the TrainingArguments.

    DeepSpeed computes in 16 bits by autocast, as all other kinds of parallelism do: by itself it would put every weight
    into 16 bits, heads and norms that must stay in float32 among them. And its buffers are for models of this size.

    FSDP2 reduces and shards the gradients of each micro-batch, as ZeRO-2 and 3 do. By default the Trainer has it wait
    for a step's last one, and until then each process keeps the gradients of the whole model.
    """
    if requested_backend() == "fsdp":
        arguments.accelerator_config.gradient_accumulation_kwargs = {"sync_each_batch": True}
    if requested_backend() == "deepspeed":
        config = arguments.deepspeed_plugin.deepspeed_config
        for name, elements in BUFFERS.items():
            config["zero_optimization"].setdefault(name, elements)
        chosen = [kind for kind in ("bf16", "fp16") if config.get(kind, {}).get("enabled") is True]
        for kind in chosen:
            config[kind] = {"enabled": False}
            config["torch_autocast"] = {"enabled": True, "dtype": {"bf16": "bfloat16", "fp16": "float16"}[kind]}
    return arguments


def choose_units(trainer: Any) -> None:
    """Name the classes of layers that FSDP shards one by one, unless the accelerate config names them.

    Models name the module that holds their input embedding among them, which accelerate shards again by itself.
    Raises SetupError for a model that names none.
    """
    if requested_backend() != "fsdp":
        return
    plugin = trainer.accelerator.state.fsdp_plugin
    # Autocast computes in 16 bits, as it does without FSDP; weights that FSDP cast itself would leave none in float32.
    plugin.mixed_precision_policy = None
    if plugin.transformer_cls_names_to_wrap:
        return
    inner = unwrapped(trainer.model)
    embedding = inner.get_input_embeddings()
    if inner.config.is_encoder_decoder:
        _share_embedding(inner)
    holders = {type(module).__name__ for module in inner.modules() if any(m is embedding for m in module.modules())}
    # Of a text part, its family names the vision part's layers too, which accelerate would look for.
    present = {type(module).__name__ for module in inner.modules()}
    names = sorted(present & layer_classes(inner) - holders)
    if not names:
        raise SetupError(f"FSDP can't shard a {type(inner).__name__}: it has no stack of layers to shard one by one")
    plugin.transformer_cls_names_to_wrap = names


def _share_embedding(model: Any) -> None:
    """Let an encoder-decoder whose embeddings are one weight have one module of it.

    FSDP2 shards module by module: encoder's and decoder's would be given a shard each, and no longer be one weight.
    Raises SetupError where the modules of one weight compute different things, e.g. scale it by different factors.
    """
    embedding = model.get_input_embeddings()
    parts = [part.get_input_embeddings() for part in (model.get_encoder(), model.get_decoder())]
    if not all(part.weight is embedding.weight for part in parts):
        return
    kinds = {(type(part), getattr(part, "embed_scale", None)) for part in (embedding, *parts)}
    if len(kinds) > 1:
        raise SetupError(
            f"FSDP2 can't shard a {type(model).__name__}: its encoder and decoder use one embedding in different ways; "
            "launch with zero3.yaml or ddp.yaml"
        )
    model.set_input_embeddings(embedding)


class FirstGradients:
    """A watch on whether every trained parameter gets a finite gradient, as autograd makes them.

    Needed under DeepSpeed, which takes gradients away before anybody else can look at them. It ends with `close`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._finite: dict[str, bool] = {}
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._names = [name for name, _ in trained]
        self._hooks = [parameter.register_hook(partial(self._see, name)) for name, parameter in trained]

    def _see(self, name: str, gradient: torch.Tensor) -> None:
        self._finite[name] = self._finite.get(name, True) and bool(gradient.isfinite().all())

    def missing(self) -> list[str]:
        """Return names of parameters without a finite gradient so far."""
        return [name for name in self._names if not self._finite.get(name, False)]

    def restart(self) -> None:
        """Forget the gradients so far."""
        self._finite.clear()

    def close(self) -> None:
        """End the watch."""
        for hook in self._hooks:
            hook.remove()


def in_force(accelerator: Any, wrapped: nn.Module) -> dict[str, Any]:
    """Return the parallelism really in force, read from the wrapped model in training: fields of record.Launch.

    Raises SetupError where that is not what the launcher was asked for.
    """
    from torch.distributed.fsdp import FSDPModule

    launch: dict[str, Any] = {"distributed_type": accelerator.distributed_type.value}
    if hasattr(wrapped, "zero_optimization_stage"):
        launch["zero_stage"] = wrapped.zero_optimization_stage()
        launch["offload_optimizer"] = _place(wrapped.zero_offload_optimizer())
        launch["offload_parameters"] = _place(wrapped.zero_offload_param())
    by_fsdp = isinstance(wrapped, FSDPModule)
    if requested_stage() != launch.get("zero_stage") or (requested_backend() == "fsdp") != by_fsdp:
        what = "FSDP2" if requested_backend() == "fsdp" else f"ZeRO stage {requested_stage()}"
        raise SetupError(f"{what} was asked for, but the model is a {type(wrapped).__name__} ({launch})")
    if by_fsdp and not accelerator.gradient_state.plugin_kwargs.get("sync_each_batch"):
        raise SetupError("FSDP2 would keep whole gradients between micro-batches: accelerate has not taken the setting")
    return launch


def _place(offload: Any) -> str | None:
    """Return "cpu" or "nvme" of DeepSpeed's setting, which holds names or members of an enumeration."""
    device = getattr(getattr(offload, "device", None), "value", getattr(offload, "device", None))
    return None if device in (None, "none") else str(device)
