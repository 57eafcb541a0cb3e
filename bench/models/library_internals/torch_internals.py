"""Uses of torch beyond its public interface."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import _engine_run_backward

# There is no public path to either: the one is the base of every dispatch mode, the other walks nested arguments.
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map as tree_map


def backward(loss: torch.Tensor) -> None:
    """Run the backward pass with function modes in force.

    `Tensor.backward` and `torch.autograd.backward` are functions to the modes, which are off inside of them; what is
    recomputed in the backward pass needs them.
    """
    _engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def attention_on_cpu(
    query: Any, key: Any, value: Any, *, bias: torch.Tensor | None, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return attention and the log-sum-exp of its scores, by the kernel that the public function takes on a CPU.

    The public function, `scaled_dot_product_attention`, gives no log-sum-exp.
    """
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=bias, scale=scale
    )
    return out, lse


def attention_on_gpu(query: Any, key: Any, value: Any, *, flash: bool, causal: bool, scale: float) -> Any:
    """Return attention and the log-sum-exp of its scores, which may be padded, by the public function's GPU kernels.

    flash: by FlashAttention, else by the memory-efficient kernel; the caller knows which of them takes it.
    """
    if not flash:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, causal, scale=scale
        )
    else:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, False, scale=scale
        )
    return out, lse


def give_address(parameter: Any) -> None:
    """Give an empty shard of a DTensor parameter an address of its own.

    accelerate finds an optimiser's parameters again by the addresses of `_local_tensor`; all empty tensors have one.
    """
    local = parameter._local_tensor
    if not local.numel():
        number = -1 - id(parameter)
        local.data_ptr = lambda: number


def initialize_sharded(model: Any) -> None:
    """Prepare a model for FSDP2 as its first forward does, so that one of its layers may be called before it."""
    model._get_fsdp_state()._lazy_init()


def reshard(model: Any) -> None:
    """Give up all parameters that FSDP2 has gathered in a model, whether or not a forward came to its end."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def compiled(
    function: Callable[..., Any], *, backend: str, options: dict[str, Any] | None, most_variants: int
) -> Callable[..., Any]:
    """Return a function as torch.compile makes it, with lengths as symbols; compiled when it is called first."""
    made: Callable[..., Any] = torch.compile(
        function, dynamic=True, backend=backend, options=options, recompile_limit=most_variants
    )
    return made


class Compilations:
    """Counts what torch compiles from `start` to `stop`; there is no public path to its callbacks.

    total: pieces of code that were compiled. again: of these, for inputs that what was there did not fit. seconds: of
    all of it, backward passes that are compiled when they are run first among them.
    """

    def __init__(self) -> None:
        self.total = self.again = 0
        self.seconds = 0.0
        self._begun = 0.0

    def start(self) -> None:
        """Count from now on."""
        from torch._dynamo.callback import callback_handler

        callback_handler.register_start_callback(self._begin)
        callback_handler.register_end_callback(self._end)

    def stop(self) -> None:
        """Count no more."""
        from torch._dynamo.callback import callback_handler

        callback_handler.remove_start_callback(self._begin)
        callback_handler.remove_end_callback(self._end)

    def _begin(self, event: Any) -> None:
        self._begun = time.perf_counter()
        # Of a frame's code and the number of its compilation, "3/1".
        number = str(event.compile_id).partition("/")[2]
        if event.callback_trigger.name == "DYNAMO":
            self.total += 1
            self.again += bool(number) and not number.startswith("0")

    def _end(self, _: Any) -> None:
        self.seconds += time.perf_counter() - self._begun
