"""Cards (README.md) for the Hub: of a model with its record, and of a data set of records."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from bench import __version__
from bench.analysis import accessors
from bench.errors import SetupError
from bench.records.record import Record, Score
from bench.reporting import cells, run_warnings
from bench.reporting import markdown as md
from bench.utils import numbers

HARNESS = "finetune-bench"
TASKS = {
    "text_classification": "text-classification",
    "question_answering": "question-answering",
    "regression": "text-classification",  # as the Hub files models of STS-B
    "token_classification": "token-classification",
    "generation": "text-generation",
}
# Licence identifiers of the Hub, https://huggingface.co/docs/hub/repositories-licenses; all others are `other`.
LICENCES = {
    "apache-2.0": "apache-2.0",
    "mit": "mit",
    "gemma terms of use": "gemma",
    "llama 3.2 community license": "llama3.2",
}
UNKNOWN = "unknown"
# Names of metrics on the Hub, https://huggingface.co/metrics, of which these are variants.
METRICS = {"f1_macro": "f1", "f1_micro": "f1", "f1_weighted": "f1", "mcc": "matthews_correlation"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
SCORE_FIELDS = {
    **dict.fromkeys(("run", "name", "study", "method", "model", "data", "recipe_hash", "comparability"), "string"),
    "seed": "int64",
    **dict.fromkeys(("stage", "split", "metric"), "string"),
    **dict.fromkeys(("value", "low", "high"), "float64"),
    "examples": "int64",
    **dict.fromkeys(("interval", "signature"), "string"),
    "ceiling": "float64",
    "unrewardable": "int64",
    "higher_is_better": "bool",
}
INTENDED = (
    "Intended use: to inspect, reproduce and compare the run that produced this model. The scores hold for the splits "
    "and settings named here; evaluate the model on your own data before relying on it."
)


def model_card(
    record: Record, description: Mapping[str, Any], to: str, page: str | None, *, adapter: bool, usage: str = ""
) -> str:
    """Return README.md of a run's model. description: its bench.json; page: the repository's URL, None without one.

    to: the repository's name, or the folder's. usage: a section on how to load and use the model. Raises SetupError
    where the metadata read back from the card differ from those written.
    """
    data = _metadata(record, description, to, page, adapter=adapter)
    text = _with_metadata(data, _model_page(record, description, to, usage))
    read = ModelCard(text).data
    if read.to_dict() != data.to_dict() or read.get("eval_results") != data.eval_results:
        raise SetupError("the model card's metadata change when they are read back; please report this with the record")
    return text


def _with_metadata(data: Any, body: str) -> str:
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n"


def _metadata(
    record: Record, description: Mapping[str, Any], to: str, page: str | None, *, adapter: bool
) -> ModelCardData:
    dataset, base = record.recipe.resolved["dataset"], base_model(record)
    plain = description["pooling"] is None and description["head"]["kind"] == "own"
    library = ("peft" if adapter else "transformers") if plain else None
    task = "text-generation" if description.get("objective") == "text" else TASKS.get(description["task"])
    results = list(eval_results(record, page))
    more: dict[str, Any] = _licence(record.recipe.resolved["model"]["licence"])
    trained = base is not None and record.training is not None
    more |= {"base_model_relation": "adapter" if adapter else "finetune"} if trained else {}
    return ModelCardData(
        base_model=base,
        datasets=[dataset["source"]["id"]] if dataset["source"]["kind"] == "hub" else None,
        eval_results=results or None,
        model_name=_name(to) if results else None,
        library_name=library,
        metrics=sorted({item.metric_type for item in results}) or None,
        pipeline_tag=task,
        tags=[HARNESS, record.method, *([] if plain else ["custom-head"])],
        **more,
    )


def _name(to: str) -> str:
    """Return the name of a repository without its owner."""
    return to.rpartition("/")[2]


def _licence(words: str | None) -> dict[str, str]:
    if words is None:
        return {"license": "unknown"}  # an identifier of the Hub
    known = LICENCES.get(words.strip().lower())
    if known:
        return {"license": known}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")[:80] or "other"}


def base_model(record: Record) -> str | None:
    """Return the Hub id of the pretrained model; None for a local one, one of a package, or random weights."""
    card = record.recipe.resolved.get("model") or {"weights": "unknown"}  # none of an imported result
    known = card["weights"] == "pretrained" and card["id"] and HUB_ID.fullmatch(card["id"])
    return card["id"] if known else None


def eval_results(record: Record, page: str | None) -> list[EvalResult]:
    """Return a result for every single-valued score after training, with values as in the record (0 to 1)."""
    dataset = record.recipe.resolved["dataset"]
    source, on_hub = dataset["source"], dataset["source"]["kind"] == "hub"
    results = []
    for split in accessors.splits(record):
        scalars = accessors.scalars(record, "after", split)
        for metric in sorted(scalars, key=accessors.metric_order):
            score = scalars[metric]
            if numbers.finite(score.value) is not None:
                result = EvalResult(
                    task_type=TASKS.get(dataset["task"], dataset["task"].replace("_", "-")),
                    # A local data set may share its name with another one on the Hub.
                    dataset_type=source["id"] if on_hub else "local-files",
                    dataset_name=record.data.id if record.data else source["kind"],
                    dataset_config=source["config"] if on_hub else None,
                    dataset_revision=record.data.revision if record.data and on_hub else None,
                    dataset_split=source_split(record, split, score.examples),
                    metric_type=METRICS.get(metric, metric),
                    metric_name=metric,
                    metric_value=score.value,
                    source_name="run record" if page else None,
                    source_url=f"{page}/blob/main/record.json" if page else None,
                )
                results.append(result)
    return results


def source_split(record: Record, split: str, examples: int) -> str:
    """Return the source's name of a split, with the number of examples if only a part was used."""
    resolved = record.recipe.resolved
    dataset = resolved["dataset"]
    part = record.data.splits.get(split) if record.data else None
    drawn = split in resolved.get("limit", {}) or bool(part and sum(part.dropped.values()))
    if split in dataset["splits"]:
        return f"{dataset['splits'][split]} ({examples} examples)" if drawn else str(dataset["splits"][split])
    of: list[str] = next((divided["of"] for divided in dataset["divide"] if split in divided["into"]), [])
    return f"{'+'.join(of)} ({split}: {examples} examples)" if of else split


def _model_page(record: Record, description: Mapping[str, Any], to: str, usage: str) -> str:
    splits = accessors.splits(record)
    environment = record.environment
    parts = {
        "Scores": md.joined([*(_scores(record, split) for split in splits), _signatures(record)]),
        "Training": md.joined([_training(record), _recipe(record)]),
        "Licences": _licences(record),
        "Versions and hardware": md.joined(
            [
                md.fields("launch", record.launch.model_dump(), skip=("command",)) if record.launch else "",
                md.fields("environment", environment.model_dump(exclude={"packages"})) if environment else "",
                md.details("Package versions", md.fields("package", environment.packages if environment else {})),
            ]
        ),
        "Notes of the run": md.bullets([md.escape(note, accessors.MAX_CHARACTERS) for note in record.notes]),
        "Provenance": _origin(record),
    }
    failed = "" if record.status == "ok" else f"**This run ended as {record.status}**: {md.escape(record.reason)}"
    title, warned = f"# {md.escape(_name(to))}", run_warnings.alert(record)
    head = [title, failed, warned, _about(record), INTENDED, _loading(description), usage]
    return md.joined([*head, md.sections(parts)])


def _about(record: Record) -> str:
    card = record.recipe.resolved["model"]
    name = record.model.id if record.model else card["id"]
    origin = f" of the Python package {md.code(card['package'])}" if card["package"] else ""
    weights = "pretrained weights" if card["weights"] == "pretrained" else "random weights, not pretrained"
    rows = [
        ("base model", f"{md.escape(name)}{origin}, {weights}"),
        ("method", md.escape(record.method)),
        ("data set", md.escape(record.data.id if record.data else None)),
        ("seed", md.escape(record.seed)),
        ("trained on", cells.machine(record)),
        ("started, finished", f"{md.escape(record.started_at)}, {md.escape(record.finished_at)}"),
    ]
    return md.pairs("this model", rows)


def _loading(description: Mapping[str, Any]) -> str:
    if description["pooling"] is None and description["head"]["kind"] == "own":
        return ""
    return "This model has a custom head: load it with `bench.models.saving.load`; transformers and peft can't load it."


def _scores(record: Record, split: str) -> str:
    before, after = (accessors.scalars(record, stage, split) for stage in accessors.STAGES)
    floors = {name: accessors.constant_baseline(record, split, name) for name in {*before, *after}}
    rows = [
        {
            "metric": md.escape(metric),
            "constant baseline": md.DASH if (floor := floors[metric]) is None else f"{md.fixed(floor[1])} ({floor[0]})",
            "before training": cells.shown_score(before.get(metric)),
            "after training": cells.shown_score(after.get(metric)),
        }
        for metric in sorted({*before, *after}, key=accessors.metric_order)
    ]
    counts = sorted({item.examples for item in (*before.values(), *after.values())})
    sizes = " or ".join(source_split(record, split, count) for count in counts)
    heading = f"### {md.escape(split)}, {' or '.join(map(md.count, counts))} examples"
    note = f"Split of the source: {md.escape(sizes)}. Intervals in parentheses; all scores but the loss are fractions."
    return md.joined([heading, note, md.table_of(rows, ["metric"])]) if rows else ""


def _signatures(record: Record) -> str:
    scores: dict[str, Score] = {}
    for split in accessors.splits(record):
        scores |= accessors.scalars(record, "after", split)
    rows = [
        [md.escape(name), md.code(scores[name].signature, accessors.MAX_CHARACTERS), md.escape(scores[name].interval)]
        for name in sorted(scores, key=accessors.metric_order)
    ]
    return md.table(["metric", "signature", "interval"], rows, "lll")


def _training(record: Record) -> str:
    if record.training is None:
        return "The model was not trained."
    return md.fields("training", record.training.model_dump())


def _recipe(record: Record) -> str:
    # Escapes non-ASCII characters, so that none of a prompt can affect the page.
    text = yaml.safe_dump(record.recipe.resolved, sort_keys=False)
    fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
    return md.details("Resolved recipe", f"{fence}yaml\n{text}{fence}")


def _licences(record: Record) -> str:
    cards = record.recipe.resolved
    names = (("base model", "model"), ("data set", "dataset"))
    rows = [(name, md.escape(cards[kind].get("licence") or UNKNOWN)) for name, kind in names]
    note = "The metadata of this card state the base model's licence; that of the data set may add restrictions."
    return md.joined([md.pairs("licence", rows), note])


def _origin(record: Record) -> str:
    same, git = record.comparability, (record.environment.git if record.environment else None) or {}
    rows = [
        ("comparability key", md.code(same.key if same else None)),
        ("recipe", md.code(record.recipe.path)),
        ("recipe hash", md.code(record.recipe.hash)),
        (
            "commit of the harness",
            md.code(git.get("commit")) + (", with uncommitted changes" if git.get("dirty") else ""),
        ),
        ("card written by", f"{HARNESS} {md.escape(__version__)}"),
    ]
    note = (
        "The full record of the run is [record.json](record.json). Runs with the same comparability key were scored on "
        "the same examples with the same metrics."
    )
    return md.joined([note, md.pairs("origin", rows)])


def score_rows(record: Record, run: str) -> list[dict[str, Any]]:
    """Return a flat row with SCORE_FIELDS for each single-valued score of a completed run; none for a failed run."""
    same = record.comparability
    about = {
        "run": run,
        "name": record.name,
        "study": record.study,
        "method": record.method,
        "seed": record.seed,
        "model": record.model.id if record.model else None,
        "data": record.data.id if record.data else None,
        "recipe_hash": record.recipe.hash,
        "comparability": same.key if same else None,
    }
    return [
        {**about, "stage": stage, "split": split, "metric": metric, **score.model_dump()}
        for stage, splits in record.scores.items()
        for split in splits
        for metric, score in accessors.scalars(record, stage, split).items()
        if record.status == "ok"
    ]


def records_card(records: Mapping[str, Record], to: str, *, with_predictions: bool) -> str:
    """Return README.md of a data set of runs. records: folder in the repository -> record."""
    configs: dict[str, Any] = {}
    if any(score_rows(record, run) for run, record in records.items()):
        fields = [{"name": name, "dtype": kind} for name, kind in SCORE_FIELDS.items()]
        configs["configs"] = [{"config_name": "scores", "data_files": "*/scores.jsonl", "default": True}]
        configs["dataset_info"] = [{"config_name": "scores", "features": fields}]
    name = to.partition("/")[2]
    data = DatasetCardData(pretty_name=name, tags=[HARNESS, "benchmark-records"], **configs)
    body = [f"# {md.escape(name)}", _folders(with_predictions), "## Runs of the latest push", _runs(records)]
    text = _with_metadata(data, md.joined(body))
    if DatasetCard(text).data.to_dict() != data.to_dict():
        raise SetupError(
            "the dataset card's metadata change when they are read back; please report this with the records"
        )
    return text


def _folders(with_predictions: bool) -> str:
    texts = "`predictions` holds the answer for every example, with texts under the licence of the data set."
    without = "Texts of the data sets are not included."
    return (
        "Records of fine-tuning runs, one folder each: `record.json` (all measurements, and the recipe), `report.md`, "
        "`figures`, `train_log.jsonl`, and for completed runs `scores.jsonl`, which the configuration `scores` loads. "
        f"{texts if with_predictions else without} Absolute paths were shortened. Folders of earlier pushes are kept. "
        "Compare scores only between runs with equal `comparability`."
    )


def _licence_of_data(record: Record) -> object:
    data = record.recipe.resolved.get("dataset")
    return data.get("licence") or UNKNOWN if isinstance(data, dict) else None


def _runs(records: Mapping[str, Record]) -> str:
    rows: Sequence[Sequence[str]] = [
        [
            f"[{md.escape(run)}]({run}/report.md)",
            md.escape(record.status),
            run_warnings.count([record]),
            md.escape(record.data.id if record.data else None),
            md.escape(_licence_of_data(record)),
            md.code(record.comparability.key if record.comparability else None),
        ]
        for run, record in records.items()
    ]
    header = ["run", "status", run_warnings.COLUMN, "data set", "licence of the data", "comparability"]
    if not any(record.warnings for record in records.values()):
        header, rows = [*header[:2], *header[3:]], [[*row[:2], *row[3:]] for row in rows]
    return md.joined([md.table(header, rows, "l" * len(header)), run_warnings.section(list(records.values()))])
