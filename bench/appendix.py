"""The end of a report: versions and hardware, signatures of the metrics, formulas, and where each record is."""

import json
from collections.abc import Sequence

from bench import costs, readings
from bench import markdown as md
from bench.leaderboard import Shown
from bench.record import Record
from bench.standings import Located
from bench.tables import TABLE_NOTES

STATISTICS = (
    "Score of several seeds: the mean. Its interval is Student's, from the variances of seeds and of examples "
    "(Obuchowski 1995, Satterthwaite 1946), cut to the values that the metric can take; that of one seed is the "
    "record's own, by example.",
    "Paired tests: McNemar's exact test (McNemar 1947) where each example is right or wrong, else approximate "
    "randomisation (Noreen 1989), of single runs; Student's test over seeds and examples between systems of several "
    "seeds. p-values are corrected over all pairs of a table (Holm 1979).",
)


def appendix(records: Sequence[Located], shown: Shown) -> str:
    """All parts, each folded."""
    ordered = sorted(records, key=lambda pair: (pair[1].name, pair[1].seed or 0, shown(str(pair[0]))))
    found = [record for _, record in ordered]
    return md.joined(
        [
            md.joined(["### Formulas", md.bullets([*STATISTICS, *costs.FORMULAS, TABLE_NOTES[1]])]),
            md.details("Metrics and their signatures", _signatures(found)),
            md.details("Machines and versions", _environments(found)),
            md.details(f"Records ({len(records)})", _records(ordered, shown)),
        ]
    )


def _signatures(records: Sequence[Record]) -> str:
    found = sorted(
        {
            (name, item.signature, item.interval or "")
            for record in records
            for name, item in readings.all_scores(record)
        },
        key=lambda item: (readings.metric_order(item[0]), item),
    )
    rows = [[md.escape(name), md.code(signature), md.escape(interval or None)] for name, signature, interval in found]
    return md.table(["metric", "signature", "interval"], rows, "lll")


def _environments(records: Sequence[Record]) -> str:
    """A column for each environment that differs from the others, and how many runs had it."""
    runs: dict[str, int] = {}
    contents = {}
    for record in records:
        if record.environment is None:
            continue
        content = record.environment.model_dump()
        key = json.dumps(content, sort_keys=True, default=str)
        runs[key] = runs.get(key, 0) + 1
        contents[key] = content
    keys = sorted(runs, key=lambda key: (-runs[key], key))
    names = ("python", "platform", "devices", "cpu_threads", "driver", "git")
    packages = sorted({name for content in contents.values() for name in content["packages"]})
    rows = [["runs", *(md.count(runs[key]) for key in keys)]]
    rows += [[md.title(name), *(md.quantity(name, contents[key][name]) for key in keys)] for name in names]
    rows += [[md.escape(name), *(md.escape(contents[key]["packages"].get(name)) for key in keys)] for name in packages]
    header = ["", *(f"machine {number}" for number in range(1, len(keys) + 1))]
    return md.table(header, rows, "l" * len(header)) if keys else ""


def _records(ordered: Sequence[Located], shown: Shown) -> str:
    rows = [
        [
            md.code(shown(str(path))),
            readings.title(record),
            md.escape(record.seed),
            md.escape(record.status),
            md.code(record.recipe.path),
            md.code((record.recipe.hash or "")[:12] or None),
            md.code(record.comparability.key if record.comparability else None),
        ]
        for path, record in ordered
    ]
    header = ["record", "system", "seed", "status", "recipe", "recipe's hash", "comparability key"]
    return md.table(header, rows, "llrllll")
