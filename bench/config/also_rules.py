"""Rules of `evaluation.also`, what a model is scored on beside its own data before and after training."""

from collections.abc import Iterator

from bench.config import registry
from bench.config.contracts import LoadPlan
from bench.config.layers import Layers
from bench.config.recipe import Recipe
from bench.config.training import Also
from bench.errors import did_you_mean


def problems(recipe: Recipe, plan: LoadPlan, layers: Layers) -> Iterator[str]:
    """Yield what can't be scored beside the recipe's own data, and names that are not there."""
    also = recipe.evaluation.also
    if not also:
        return
    place = layers.place(("evaluation", "also"))
    if recipe.objective == "head":
        yield (
            f"{place}: a task head answers with the labels of its own data alone; only a language model can be asked "
            "about others (`objective: text`); remove it"
        )
        return
    if plan.trains != "gradient":
        yield f"{place}: method {recipe.method.name!r} trains nothing, so that nothing can be lost by it; remove it"
    if not recipe.evaluation.before:
        yield f"{place}: needs the scores before training; remove `evaluation.before: false`"
    names = [entry if isinstance(entry, str) else entry.name for entry in also]
    for number, (entry, name) in enumerate(zip(also, names, strict=True)):
        place = layers.place(("evaluation", "also", number))
        is_text = isinstance(entry, Also) and entry.perplexity is not None
        if names.index(name) < number:
            yield f"{place}: {name!r} is named twice"
        elif is_text and recipe.model.family == "encoder_decoder":
            yield f"{place}: the perplexity of a text is that of a decoder; an encoder-decoder reads it; remove it"
        elif not is_text and name.isidentifier() and name not in registry.names("datasets"):
            yield f"{place}: there is no dataset card {name!r}.{did_you_mean(name, registry.names('datasets'))}"
