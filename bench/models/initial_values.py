"""Parameters of a built model that began at random: a new head, and parts of the body that no checkpoint filled."""

from dataclasses import dataclass
from typing import Any

from bench.models import heads

# Layers between body and head, which are trained with the head, and which many checkpoints lack.
POOLER = "pooler"


@dataclass(frozen=True, kw_only=True)
class InitialValues:
    """Parts of a built model that are random.

    head: modules of the task head with new parameters, e.g. ("classifier",). body: names of such parameters of the
    body, all of them where no checkpoint was read. body_size: how many single values these are.
    """

    head: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    body_size: int = 0


def of_model(model: Any, weights: str) -> InitialValues:
    """Return what is random in a built model that no method has adapted yet. weights: "random" or "pretrained"."""
    in_head = heads.head_names(model)
    everything = dict(model.named_parameters())
    fresh = list(everything) if weights == "random" else list(getattr(model, heads.MISSING, ()))
    of_head = {name.split(".")[0] for name in fresh if name.split(".")[0] in in_head}
    # An MLP head is put on after loading, in place of the checkpoint's own.
    of_head |= {name for name in in_head if isinstance(getattr(model, name), heads.MlpHead)}
    body = [name for name in fresh if name.split(".")[0] not in in_head and POOLER not in name.split(".")]
    body = [name for name in body if name in everything]  # buffers are no parameters
    size = sum(everything[name].numel() for name in body)
    return InitialValues(head=tuple(sorted(of_head)), body=tuple(body), body_size=size)


def new_names(model: Any, weights: str) -> list[str]:
    """Return the parameters that a checkpoint did not have, by the names that they have now, sorted.

    An MLP head is new whatever the checkpoint has in its place. Of a model that is random as a whole: none.
    """
    names = set(getattr(model, heads.MISSING, ()))
    for head in heads.head_names(model) if weights == "pretrained" else ():
        if isinstance(module := getattr(model, head), heads.MlpHead):
            names = {name for name in names if not name.startswith(f"{head}.")}
            names |= {f"{head}.{name}" for name, _ in module.named_parameters()}
    return sorted(names)


def trains_head(adapted: Any, initial: InitialValues) -> bool:
    """Return whether a new head is trained, by gradients or as a probe that is fitted; True without a new head."""
    if isinstance(adapted, heads.ProbeModel) or not initial.head:
        return True
    inner = heads.unwrapped(adapted)
    return any(part.requires_grad for name in initial.head for part in inner.get_submodule(name).parameters())
