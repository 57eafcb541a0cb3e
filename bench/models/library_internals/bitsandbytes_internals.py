"""Uses of bitsandbytes beyond its public interface."""

from typing import Any

import torch


def quantize_on_meta(weight: Any) -> Any:
    """Return a Params4bit that is quantised on the meta device: its shapes and types.

    `Params4bit.to` quantises on any other device, and leaves the meta device out.
    """
    return weight._quantize(torch.device("meta"))
