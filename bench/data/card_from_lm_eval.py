"""Makes a dataset card of a task of lm-evaluation-harness: `dataset: lm_eval:arc_easy`, or `lm_eval:./my_task.yaml`.

The card says where rows come from and how they are scored; prompts and few-shot examples are the task's own.
"""

from typing import Any

from bench.config.cards import LM_EVAL, LM_EVAL_TASK
from bench.data import lm_eval_tasks
from bench.data.lm_eval_tasks import TaskFile
from bench.errors import SetupError

# Of the metrics of a multiple-choice task, those that the harness computes, and what its prediction divides by.
NORMALIZATIONS = {"acc_norm": "characters", "acc_bytes": "bytes", "acc": "none"}
# The metric of written answers.
WRITTEN_METRIC = "exact_match"
# Keys that change what is asked or scored in a way that is not done here, and why a task with one is refused.
UNSUPPORTED = {
    "class": "it is Python code, not settings",
    "doc_to_image": "it shows images",
    "doc_to_audio": "it plays sounds",
    "use_prompt": "its prompts are from promptsource",
    "unsafe_code": "it runs code that a model writes",
    "custom_dataset": "it makes its own data",
}
OUTPUT_TYPES = {
    "loglikelihood": "the likelihood of one given text",
    "loglikelihood_rolling": "the perplexity of whole texts",
}


def make(spec: str) -> dict[str, Any]:
    """Return the card of `lm_eval:NAME` or `lm_eval:PATH`, in the form of a YAML file.

    Raises SetupError for a task that lm_eval does not know, or of a kind that is not supported, and without lm_eval.
    """
    task = lm_eval_tasks.read(lm_eval_tasks.find(spec.removeprefix(LM_EVAL)))
    _check(task)
    settings = task.settings
    splits = {
        name: settings[key]
        for name, key in (("train", "training_split"), ("validation", "validation_split"), ("test", "test_split"))
        if settings.get(key)
    }
    if "test" not in splits:
        if "validation" not in splits:
            raise SetupError(f"the task {task.name!r} has neither test_split nor validation_split: nothing is scored")
        splits["test"] = splits.pop("validation")  # what lm_eval scores
    source: dict[str, Any] = {"kind": "lm_eval", "id": task.name}
    if not task.is_own:
        source |= {"folder": str(task.path.parent), "files": {"task": task.path.name}}
    description = str(settings.get("description") or "")
    if settings.get("output_type", "generate_until") == "generate_until":
        columns = {"id": "id", "text": "text", "label": "answers"}
        own: dict[str, Any] = {"task": LM_EVAL_TASK, "metrics": value_names(settings), "columns": columns}
    else:
        columns = {"id": "id", "text": "text", "choices": "choices", "label": "label", "label_as": "from_0"}
        own = {"task": "multiple_choice", "normalization": _normalization(settings), "columns": columns}
    return {
        **own,
        "source": source,
        "licence": "not known: see the task of lm-evaluation-harness",
        "splits": splits,
        "leakage": "allow",
        "prompt": {
            # Asked of new texts by `predict`; runs ask as lm_eval does.
            "template": ("" if "{" in description else description) + "{text}",
            "joint": settings.get("target_delimiter", " "),
            "separator": settings.get("fewshot_delimiter", "\n\n"),
        },
    }


def _check(task: TaskFile) -> None:
    """Raise SetupError for a task of a kind that is not supported."""
    settings = task.settings
    kind = settings.get("output_type", "generate_until")
    reason = next((why for key, why in UNSUPPORTED.items() if settings.get(key)), None)
    if isinstance(settings.get("task"), list) or "group" in settings:
        reason = "it is a group of tasks: name one of them"
    elif kind in OUTPUT_TYPES:
        reason = f"its output_type is {kind}, {OUTPUT_TYPES[kind]}; multiple_choice and generate_until are supported"
    elif kind not in ("multiple_choice", "generate_until"):
        reason = f"it has the output_type {kind!r}; multiple_choice and generate_until are supported"
    elif settings.get("process_results") and not (kind == "generate_until" and _is_packaged(settings)):
        reason = "it scores answers by a function of its own (process_results)"
    elif kind == "generate_until":
        reason = _why_not_written(settings)
    elif not settings.get("doc_to_choice"):
        reason = "it has no doc_to_choice"
    elif not _metrics(settings) & NORMALIZATIONS.keys():
        reason = f"its metrics are {', '.join(sorted(_metrics(settings)))}; supported: {', '.join(NORMALIZATIONS)}"
    if reason is not None:
        raise SetupError(f"the lm_eval task {task.name!r} can't be used: {reason}")


def _is_packaged(settings: dict[str, Any]) -> bool:
    """Return whether answers are scored by a function of the installed lm_eval itself, as lm_eval calls it."""
    function = settings["process_results"]
    return isinstance(function, lm_eval_tasks.Function) and function.file.is_relative_to(lm_eval_tasks.folder())


def _why_not_written(settings: dict[str, Any]) -> str | None:
    """Return why answers to a generate_until task can't be scored; None where they can."""
    options = settings.get("generation_kwargs") or {}
    others = _metrics(settings) - {WRITTEN_METRIC}
    if others:
        return f"its metrics are {', '.join(sorted(_metrics(settings)))}; of written answers only {WRITTEN_METRIC} is"
    if any(isinstance(item, dict) and item.get("hf_evaluate") for item in settings.get("metric_list") or ()):
        return "its metric is loaded from the Hub (hf_evaluate)"
    if options.get("do_sample") or float(options.get("temperature") or 0) > 0 or settings.get("repeats", 1) != 1:
        return "its answers are drawn at random (do_sample, temperature or repeats); only greedy ones are supported"
    unknown = set(options) - {"until", "do_sample", "temperature", "max_gen_toks", "max_new_tokens"}
    return f"its generation_kwargs have {', '.join(sorted(unknown))}, which is not supported" if unknown else None


def filter_names(settings: dict[str, Any]) -> list[str]:
    """Return the names of the task's filters, in their order; lm_eval's own one where it has none."""
    return [str(item["name"]) for item in settings.get("filter_list") or ({"name": "none"},)]


def value_names(settings: dict[str, Any]) -> list[str]:
    """Return the harness's names of a generate_until task's metrics, one for each filter."""
    return [f"lm_eval:{WRITTEN_METRIC},{name}" for name in filter_names(settings)]


def _metrics(settings: dict[str, Any]) -> set[str]:
    listed = settings.get("metric_list")
    if not listed:  # lm_eval's own
        written = settings.get("output_type", "generate_until") == "generate_until"
        return {WRITTEN_METRIC} if written else {"acc", "acc_norm"}
    return {str(item.get("metric")) if isinstance(item, dict) else str(item) for item in listed}


def _normalization(settings: dict[str, Any]) -> str:
    """Return what the headline's prediction divides by: of the task's metrics, acc_norm first, as leaderboards do."""
    metrics = _metrics(settings)
    return next(how for name, how in NORMALIZATIONS.items() if name in metrics)


def left_out(settings: dict[str, Any]) -> list[str]:
    """Return the task's metrics that are not computed, sorted."""
    return sorted(_metrics(settings) - NORMALIZATIONS.keys() - {WRITTEN_METRIC})
