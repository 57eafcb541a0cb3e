"""Rules of `evaluation.backend`: what vLLM can score, and keys that are for it alone."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from bench.config.contracts import LoadPlan
from bench.config.layers import Layers
from bench.config.recipe import Recipe
from bench.config.training import Evaluation

KEYS = ("server", "served_model", "backend_sample", "backend_options")


def problems(recipe: Recipe, plan: LoadPlan, layers: Layers) -> Iterator[str]:
    """Yield keys of a backend that is not asked for, and what it can't score."""
    evaluation = recipe.evaluation
    given = [key for key in KEYS if getattr(evaluation, key) != Evaluation.model_fields[key].default]
    if evaluation.backend == "torch":
        for key in given:
            yield f"{layers.place(('evaluation', key))}: only for `evaluation.backend: vllm`; remove it, or set that"
        return
    place = layers.place(("evaluation", "backend"))
    if (why := _why_not(recipe, plan)) is not None:
        yield f"{place}: {why}"
    if evaluation.served_model is not None and evaluation.server is None:
        yield f"{layers.place(('evaluation', 'served_model'))}: names a model of a server; give `evaluation.server` too"
    if evaluation.server is not None:
        yield from _server_problems(evaluation.server, layers)
        if evaluation.backend_options:
            at = layers.place(("evaluation", "backend_options"))
            yield f"{at}: for a model in this process; a server has its own options: remove it, or `evaluation.server`"


def _why_not(recipe: Recipe, plan: LoadPlan) -> str | None:
    """Return why vLLM can't take part in this recipe; None where it can."""
    if recipe.objective == "head":
        return "vLLM completes texts, and a task head is none of them; set `objective: text`, or remove it"
    if plan.trains != "nothing":
        return (
            f"method {recipe.method.name!r} trains: vLLM before and torch after would differ by more than the "
            "training. Use zero_shot or few_shot; a trained model is served and compared by `bench ship --as vllm`"
        )
    if recipe.prompting.answer == "entailment":
        return "`prompting.answer: entailment` asks a classifier, which vLLM's completions are not; remove it"
    if recipe.model.family != "decoder":
        return f"vLLM completes texts by decoders, and the model's family is {recipe.model.family}; remove it"
    if recipe.model.weights == "random":
        return "`model.weights: random` draws weights that vLLM has not; remove it, or name a saved model"
    if plan.quantization is not None:
        return "`method.quantized` holds torch's model in 4 bits, and not vLLM's; remove one of them"
    return None


def _server_problems(url: str, layers: Layers) -> Iterator[str]:
    place = layers.place(("evaluation", "server"))
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        yield f"{place}: {url!r} is no address of a server: {error}"
        return
    if parts.scheme not in ("http", "https") or not host:
        yield f"{place}: {url!r} is no address of a server; expected http://HOST:PORT"
    elif parts.username is not None or parts.query:
        yield f"{place}: an address without user, password and query: a server's key is read from VLLM_API_KEY"
