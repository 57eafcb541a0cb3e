"""Task -> how its gold values are read."""

from bench.config.cards import LM_EVAL_TASK, DatasetCard
from bench.data.targets import answers, choices, label, number, reference, tags, written
from bench.data.targets.target import TargetKind

_KINDS: dict[str, TargetKind] = {
    "question_answering": answers,
    "regression": number,
    "token_classification": tags,
    "multiple_choice": choices,
    "generation": reference,
    LM_EVAL_TASK: written,
}


def kind_of(card: DatasetCard) -> TargetKind:
    """Return what reads the gold values of a card: by its task; labels for tasks that are not listed."""
    return answers if card.columns.answers is not None else _KINDS.get(card.task, label)
