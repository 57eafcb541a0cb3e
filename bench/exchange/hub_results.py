"""Writes scores as the Hub's `.eval_results/*.yaml`: entries of a model's page and of a data set's leaderboard.

Source: huggingface.co/docs/hub/eval-results. The Hub files a result under a data set of its own, so that runs on local
or built-in data have none.
"""

from collections.abc import Sequence

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries

from bench.analysis import accessors
from bench.analysis.accessors import Located
from bench.errors import DataError, SetupError
from bench.utils import numbers


def file(run: Located, metrics: Sequence[str] = ()) -> tuple[str, str]:
    """Return (name in the model's repository, YAML) of one run's scores after training; metrics: empty for all.

    An entry's `task_id` is the data set's configuration, or "default"; its value is a fraction, as in the record.
    Raises DataError for a run that is not on a Hub data set or has no such scores.
    """
    path, record = run
    dataset = record.recipe.resolved.get("dataset")
    source = dataset.get("source", {}) if isinstance(dataset, dict) else {}
    if source.get("kind") != "hub":
        kind = source.get("kind", "unknown")
        raise DataError(f"{path}: its data are no data set of the Hub (kind {kind!r}), where such results are filed")
    entries = []
    for split in record.scores.get("after", {}) if record.status == "ok" else ():
        scalars = accessors.scalars(record, "after", split)
        for name in sorted(set(scalars).intersection(metrics or scalars), key=accessors.metric_order):
            score = scalars[name]
            if (value := numbers.finite(score.value)) is None:
                continue
            interval = "" if score.interval is None else f" ({score.low:.4f} to {score.high:.4f}, {score.interval})"
            entries.append(
                EvalResultEntry(
                    dataset_id=source["id"],
                    task_id=source.get("config") or "default",
                    value=value,
                    dataset_revision=record.data.revision if record.data else None,
                    date=record.finished_at,
                    notes=f"{name} on {split}, {score.examples} examples{interval}; {score.signature}",
                )
            )
    if not entries:
        raise DataError(f"{path}: it has no scores after training to write (status {record.status})")
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    if parse_eval_result_entries(yaml.safe_load(text)) != entries:
        raise SetupError("the Hub's results change when they are read back; please report this with the record")
    return f".eval_results/{source['id'].replace('/', '--')}.yaml", text
