"""The head of a checkpoint that was trained as a classifier already: whose labels its outputs stand for, by its names.

A head that is kept scores before training. Numbers of outputs say nothing: the checkpoint's names are compared with the
labels of the data, and its rows are put into their order.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.models import heads

# Set on a built model: findings on its checkpoint, for the record.
FINDINGS = "bench_checkpoint_findings"
# Names of weights in a sentence at most.
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding on a checkpoint, for the readers of the record. code: of a warning; None for a note."""

    sentence: str
    code: str | None = None


def findings(model: Any) -> list[Finding]:
    """Return what was found when the model was loaded."""
    return list(getattr(model, FINDINGS, ()))


def adopt_head(model: Any, own: dict[str, Any], labels: Sequence[str], multi_label: bool) -> list[Finding]:
    """Put the rows of a head that its checkpoint brought into the order of the labels; return what was found.

    own: the checkpoint's config.json. Nothing is done for a head that the checkpoint does not contain.
    """
    names = names_of(own)
    fresh = [key for key in getattr(model, heads.MISSING, []) if key.split(".")[0] in heads.head_names(model)]
    if fresh:
        num_own = len(names or ())
        named = names is not None and not _says_nothing(names)
        if not named or num_own == len(labels):
            return []
        sentence = f"the checkpoint's head has {num_own} outputs ({_listed(names or ())}), not {len(labels)}"
        return [Finding(sentence=f"{sentence}: the head is new")]
    found = _task_findings(own, "multi_label_classification" if multi_label else _single(labels))
    if names is None:
        sentence = "the checkpoint's id2label and label2id contradict one another; its outputs are taken in our order"
        return [*found, Finding(code="checkpoint_labels", sentence=f"{sentence}: {_listed(labels)}")]
    if _says_nothing(names):
        sentence = f"the checkpoint does not name its outputs; they are taken as the labels in order: {_listed(labels)}"
        return [*found, Finding(sentence=sentence)]
    order = [0] if len(names) == len(labels) == 1 else _order(names, labels)  # a number, whatever it is called
    if order is None:
        sentence = (
            f"the checkpoint's head was trained for other labels ({_listed(names)}) than those of the data "
            f"({_listed(labels)}); it is kept, each output for the label in its place"
        )
        return [*found, Finding(code="checkpoint_labels", sentence=sentence)]
    if order != list(range(len(labels))):
        _reorder(model, order)
        sentence = f"the outputs of the checkpoint's head ({_listed(names)}) were put in the order of the labels"
        return [*found, Finding(sentence=f"{sentence}: {_listed(labels)}")]
    return found


def names_of(own: dict[str, Any]) -> list[str] | None:
    """Return a checkpoint's names of its outputs, in their order; None where its two mappings contradict each other.

    A config may name its labels in one direction only.
    """
    by_number = {int(number): str(name) for number, name in (own.get("id2label") or {}).items()}
    by_name = {int(number): str(name) for name, number in (own.get("label2id") or {}).items()}
    names, others = (
        [given[number] for number in sorted(given)] if sorted(given) == list(range(len(given))) else []
        for given in (by_number, by_name)
    )
    if not names or (others and _says_nothing(names)):
        return others or names
    if others and not _says_nothing(others) and list(map(_plain, names)) != list(map(_plain, others)):
        return None
    return names


def _says_nothing(names: Sequence[str]) -> bool:
    """Return whether names are transformers' own defaults, or numbers, or none at all."""
    return all(re.fullmatch(r"(LABEL_)?\d+", name, re.IGNORECASE) for name in names)


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.strip().casefold()))


def _order(names: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """Return for each label the number of the output of that name, or of the one name that it abbreviates, or None."""
    places = {_plain(name): number for number, name in enumerate(names)}
    wanted = [_plain(label) for label in labels]
    if len(places) != len(names) or len(set(wanted)) != len(wanted) or len(names) != len(labels):
        return None
    if set(places) != set(wanted):
        near = [[number for name, number in places.items() if _abbreviates(name, label)] for label in wanted]
        order = [numbers[0] for numbers in near if len(numbers) == 1]
        return order if len(set(order)) == len(labels) else None
    return [places[name] for name in wanted]


def _abbreviates(name: str, label: str) -> bool:
    """Return whether one of two names is the other one's beginning, as `neg` of `negative`, or is the same."""
    shorter, longer = sorted((name, label), key=len)
    return name == label or (len(shorter) > 1 and longer.startswith(shorter))


def _reorder(model: Any, order: list[int]) -> None:
    """Put the rows of the head's last layer into another order, in place."""
    head = model.get_submodule(heads.head_names(model)[-1])
    layers = [part for part in head.modules() if isinstance(part, nn.Linear) and part.out_features == len(order)]
    with torch.no_grad():
        for parameter in layers[-1].parameters():
            parameter.copy_(parameter[order].clone())


def _single(labels: Sequence[str]) -> str:
    return "regression" if len(labels) == 1 else "single_label_classification"


def _task_findings(own: dict[str, Any], wanted: str) -> list[Finding]:
    """Return a warning for a head that was trained by another loss, whose outputs mean something else."""
    kind = own.get("problem_type") or ("regression" if len(own.get("id2label") or ()) == 1 else None)
    if kind in (None, wanted):
        return []
    sentence = f"the checkpoint's head was trained for {kind.replace('_', ' ')}, not for {wanted.replace('_', ' ')}"
    return [Finding(code="checkpoint_task", sentence=f"{sentence}; it is kept")]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20])
    return f"{shown}, ..." if len(names) > 20 else shown


def unused(keys: Sequence[str]) -> list[Finding]:
    """Return a note on weights of a checkpoint that its model has no place for."""
    if not keys:
        return []
    parts = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in sorted(keys)))
    shown = ", ".join(parts[:_SHOWN]) + (", ..." if len(parts) > _SHOWN else "")
    return [Finding(sentence=f"not used of the checkpoint: {len(keys)} weights ({shown})")]
