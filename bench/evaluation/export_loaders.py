"""The classes of transformers and peft by which an exported folder is loaded; none where only the harness could."""

from dataclasses import dataclass
from typing import Any

import transformers
from transformers.models.auto import modeling_auto as tables

from bench.errors import SetupError
from bench.models import choice_head, heads, own_heads, own_writers, saving


@dataclass(frozen=True, kw_only=True)
class Loader:
    """A class by the name that a reader uses, and the one that it is in a process without the harness."""

    name: str
    kind: Any


def of(model: Any, description: dict[str, Any], *, is_adapter: bool) -> list[Loader]:
    """Return the classes whose `from_pretrained` loads the folder of a run's model.

    is_adapter: whether the folder holds an adapter. Raises SetupError for a class that only the harness has.
    """
    inner: Any = heads.unwrapped(model)
    if own_writers.is_made(inner):
        return [Loader(name=own_writers.LOADER, kind=getattr(transformers, own_writers.LOADER))]
    of_choices = issubclass(type(inner), choice_head.ChoiceScores)
    kind = choice_head.scores_of(type(inner)) if of_choices else type(inner)
    if own_heads.is_own(kind) or not kind.__module__.startswith(("transformers.", "transformers_modules.")):
        raise SetupError(
            f"{kind.__name__} is a class of this harness, since transformers has none for this model and task; nothing "
            "else could load the folder: use `predict`"
        )
    auto = saving.auto_class(description)
    if of_choices:
        # In this process the auto class gives our own: plain transformers' is asked by its name.
        auto = getattr(transformers, choice_auto_class(inner.config.model_type))
        plain = Loader(name=auto.__name__, kind=kind)
    else:
        plain = Loader(name=auto.__name__, kind=auto)
    if not is_adapter:
        return [plain]
    import peft

    name = auto.__name__.replace("AutoModelFor", "AutoPeftModelFor")
    return [plain, *([Loader(name=name, kind=getattr(peft, name))] if hasattr(peft, name) else [])]


def takes_groups(model: Any) -> bool:
    """Return whether a model scores the choices of an example together, [examples, choices, tokens]."""
    return "MultipleChoice" in type(heads.unwrapped(model)).__name__


def choice_auto_class(model_type: str) -> str:
    """Return plain transformers' auto class for a head on choices: one of its own for them, or a classifier's."""
    listed = model_type in tables.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES
    return choice_head.AUTO_CLASS if listed else "AutoModelForSequenceClassification"
