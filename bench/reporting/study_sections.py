"""Sections of a study's page: leaderboard, costs, tests, failures, disagreements, environments and signatures."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.analysis import accessors, costs, disagreements
from bench.analysis.accessors import Located
from bench.analysis.compare import Pair
from bench.analysis.costs import Costs
from bench.analysis.leaderboard import Group, Standing
from bench.records.record import Record
from bench.reporting import cells, comparison_page
from bench.reporting import markdown as md
from bench.reporting.short_table import TABLE_METRICS, TABLE_NOTES
from bench.utils import numbers
from bench.utils.hardware import GIB

STATISTICS = (
    "Score of several seeds: the mean. Its interval is Student's, from the variances of seeds and of examples "
    "(Obuchowski 1995, Satterthwaite 1946), cut to the values that the metric can take; that of one seed is the "
    "record's own, by example.",
    "Paired tests: McNemar's exact test (McNemar 1947) where each example is right or wrong, else approximate "
    "randomisation (Noreen 1989), of single runs; Student's test over seeds and examples between systems of several "
    "seeds. p-values are corrected over all pairs of a table (Holm 1979).",
)
# Columns of words, which stand to the left; the others hold numbers.
TEXT = (
    *("system", "fits a card of, GiB", "machine", "status", "what happened", "better score", "other", "verdict"),
    *comparison_page.OFTEN_SAME,
)
# Other metrics of a table, so that it can be read without scrolling.
MOST_METRICS = 3
# Characters of a text, a prediction and a reference in the table of disagreements.
TEXT_CHARACTERS, ANSWER_CHARACTERS = 240, 60
# Of a system's name in cells and headings; overrides can be long, and the letter tells systems apart too.
NAME_CHARACTERS = 80
# Systems of that table.
MOST_SYSTEMS = 6
Shown = Callable[[str], str]


def leaderboard(group: Group) -> str:
    """Tiers, scores with intervals, seeds, before and after; a caption with the baselines."""
    if group.metric is None and group.asked is not None and group.standings:
        return f"No run of this data set has a single score of the metric {md.escape(group.asked)}."
    if group.metric is None or not group.standings:
        return "No run has a score."
    metric = md.escape(group.metric)
    lines = [_place(group, standing, metric) for standing in group.standings]
    empty = [name for name in ("", "deviation of seeds") if all(line[name] == md.DASH for line in lines)]
    lines = [{name: cell for name, cell in line.items() if name not in empty} for line in lines]
    order = "highest" if group.higher_is_better else "lowest"
    floors = _baselines(group)
    shown = f" Baselines: {md.quantity('baselines', floors)}." if floors else ""
    caption = f"{metric} on {md.escape(group.split)}, {_examples(group)} examples; {order} first.{shown}"
    return md.joined([caption, _table(lines), _reading(group)])


def _place(group: Group, standing: Standing, metric: str) -> dict[str, str]:
    before, after = (_mean(standing, stage, group.split, group.metric or "") for stage in accessors.STAGES)
    others = [name for name in TABLE_METRICS if name != group.metric and _known(group, name)][:MOST_METRICS]
    return {
        "tier": md.count(standing.tier),
        "": md.escape(standing.letter),
        "system": md.escape(standing.name, 2 * NAME_CHARACTERS),
        f"{metric} (95 % interval)": md.score(standing.score, standing.low, standing.high),
        "seeds": md.count(len(standing.runs)),
        "deviation of seeds": md.fixed(standing.deviation, 4),
        "before → after": md.DASH if before is None else f"{md.fixed(before)} → {md.fixed(after)}",
        **{md.escape(name): md.fixed(_mean(standing, "after", group.split, name)) for name in others},
        "trainable share": cells.trainable_share(standing.records[0]),
    }


def _known(group: Group, name: str) -> bool:
    return any(_mean(standing, "after", group.split, name) is not None for standing in group.standings)


def _mean(standing: Standing, stage: str, split: str | None, name: str) -> float | None:
    """Over all seeds; None where one of them does not know it."""
    found = [accessors.scalars(record, stage, split).get(name) for record in standing.records]
    values = [value for item in found if item and (value := numbers.finite(item.value)) is not None]
    return statistics.mean(values) if len(values) == len(found) else None


def _examples(group: Group) -> str:
    """As many as were tested on, else as the records say."""
    if group.comparison:
        return md.count(group.comparison.examples)
    records = [record for standing in group.standings for record in standing.records]
    found = [accessors.scalars(record, "after", group.split).get(group.metric or "") for record in records]
    return " or ".join(map(md.count, sorted({item.examples for item in found if item}))) or "no"


def _baselines(group: Group) -> dict[str, float | int | None]:
    records = [record for standing in group.standings for record in standing.records]
    found = next((record.baselines[group.split or ""] for record in records if group.split in record.baselines), {})
    return {kind: values.get(group.metric or "") for kind, values in found.items()}


def _reading(group: Group) -> str:
    """How to read the tiers and intervals of this very table."""
    lines = []
    if group.comparison:
        lines.append(comparison_page.TIER_NOTE)
        lines.append(
            "Overlapping intervals do not mean that two systems tie, since both were scored on the same examples."
        )
    several = any(len(standing.runs) > 1 for standing in group.standings)
    single = any(len(standing.runs) == 1 for standing in group.standings)
    if several:
        lines.append(
            "Of several seeds, score and other values are means; the interval covers other seeds and other examples "
            "(Student's, from the variances of both), and is left out where the predictions were not at hand."
        )
    if single:
        lines.append("Of one seed, the interval covers other examples only; other seeds would move the score too.")
    return md.bullets(lines)


def every_metric(group: Group) -> str:
    """All metrics on all scored splits, before → after, a column for each system; and how large the models are."""
    splits = dict.fromkeys(split for standing in group.standings for one in standing.records
                           for split in accessors.splits(one))  # fmt: skip
    heading = {id(standing): md.escape(standing.letter or standing.short, NAME_CHARACTERS)
               for standing in group.standings}  # fmt: skip
    lines = [
        {"split": md.escape(split), "metric": md.escape(name)}
        | {heading[id(standing)]: _change(standing, split, name) for standing in group.standings}
        for split in splits for name in _names_of(group, split)
    ]  # fmt: skip
    sizes = [{"system": md.escape(standing.label, NAME_CHARACTERS), **_parameters(standing.records[0])}
             for standing in group.standings]  # fmt: skip
    several = "; means over seeds" if any(len(standing.runs) > 1 for standing in group.standings) else ""
    note = f"Before → after training, where both were scored{several}. Systems by their letters, as above."
    table = md.details(f"All metrics ({len(lines)} rows)", md.joined([md.table_of(lines, ("split", "metric")), note]))
    return md.joined([table, md.details("Parameters", _table(sizes))]) if lines else ""


def _names_of(group: Group, split: str) -> list[str]:
    found = {name for standing in group.standings for record in standing.records for stage in accessors.STAGES
             for name in accessors.scalars(record, stage, split)}  # fmt: skip
    return sorted(found, key=accessors.metric_order)


def _change(standing: Standing, split: str, name: str) -> str:
    values = (_mean(standing, stage, split, name) for stage in accessors.STAGES)
    # Of numbers of examples there are no thousandths.
    before, after = (md.count(value) if value and value > 1 and value == int(value) else md.fixed(value)
                     for value in values)  # fmt: skip
    return after if before == md.DASH else f"{before} → {after}"


def _parameters(record: Record) -> dict[str, str]:
    found = record.model.parameters if record.model else {}
    return {
        "without a head": md.count(found.get("before_head")),
        "with head and adapters": md.count(found.get("total")),
        "trained": md.count(found.get("trainable")),
    }


def price(group: Group, found: Sequence[Costs], shown: Shown) -> str:
    """What each system costs; columns of which nothing is known are left out, which is said."""
    lines = [
        {
            "system": md.escape(standing.label, NAME_CHARACTERS),
            "steps": _range(cost.steps, md.count),
            "epochs": _range(cost.epochs, md.significant),
            "training, s": _training(standing, cost),
            "device-minutes": _of_device(cost.minutes, cost),
            "minutes per point": _of_device(cost.minutes_per_point, cost),
            "real tokens/s": md.significant(cost.tokens_per_s),
            "padding share": md.percent(cost.padding_share),
            "s per 100 examples": md.seconds(cost.seconds_per_100),
            "GPU peak, GiB": _gpu(cost),
            "fits a card of, GiB": md.escape(cost.gpu.fits() if cost.gpu else None),
            "RAM peak, GiB": md.gib(cost.ram_gib),
            "machine": md.escape(cost.machine or None),
        }
        for standing, cost in zip(group.standings, found, strict=True)
    ]
    unknown = [name for name in lines[0] if all(line[name] == md.DASH for line in lines)] if lines else []
    machines = {line["machine"] for line in lines}
    left_out = [*unknown, *(["machine"] if len(machines) == 1 else [])]
    table = _table([{name: cell for name, cell in line.items() if name not in left_out} for line in lines])
    notes = _unpriced(group, found, shown)
    notes += [f"Known of no system: {', '.join(unknown)}."] if unknown else []
    notes += [f"Machine: {next(iter(machines))}."] if len(machines) == 1 else []
    notes += ["The systems ran on different machines: their times and speeds do not compare."] * (len(machines) > 1)
    return md.joined([table, md.bullets(notes)])


def _unpriced(group: Group, found: Sequence[Costs], shown: Shown) -> list[str]:
    """Why systems have no minutes per point, a sentence for each reason."""
    reasons: dict[str, list[str]] = {}
    for standing, cost in zip(group.standings, found, strict=True):
        if cost.unpriced is not None and not is_untrained(standing.records):
            reasons.setdefault(shown(cost.unpriced), []).append(md.escape(standing.label, NAME_CHARACTERS))
    return [f"No minutes per point of {'; '.join(systems)}: {md.escape(reason, accessors.LONG)}."
            for reason, systems in reasons.items()]  # fmt: skip


def _range(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """One number where all seeds have the same, else the least and the largest; a dash for none."""
    return "–".join(dict.fromkeys(shown(end) for end in (min(values), max(values)))) if values else md.DASH


def _training(standing: Standing, cost: Costs) -> str:
    return "none" if is_untrained(standing.records) else md.seconds(cost.training_s)


def is_untrained(records: Sequence[Record]) -> bool:
    """Whether nothing of the model is trained: it is scored as it is."""
    return all(accessors.stages(record) != accessors.STAGES for record in records)


def _of_device(minutes: float | None, cost: Costs) -> str:
    return md.DASH if minutes is None else f"{md.significant(minutes)} {cost.minutes_of}"


def _gpu(cost: Costs) -> str:
    return md.DASH if cost.gpu is None else f"{md.gib(cost.gpu.least)} ({cost.gpu.kind})"


def tests(group: Group, shown: Shown) -> str:
    """All pairs with their verdicts, or why there are none; which runs were not tested."""
    names = {standing.letter: standing.label for standing in group.standings if standing.letter}
    if group.comparison is None:
        return f"There are no paired tests: {md.escape(shown(group.untested or ''), accessors.LONG)}."
    pairs = group.comparison.pairs
    # The comparison's notes say what all pairs have in common.
    differ = [name for name in comparison_page.OFTEN_SAME if len({getattr(pair, name) for pair in pairs}) > 1]
    lines = [_pair(pair, names, differ) for pair in pairs]
    # The leaderboard has said what a tier is.
    said = [note for note in comparison_page.notes(group.comparison) if note != comparison_page.TIER_NOTE]
    notes = [md.escape(shown(note), accessors.LONG) for note in said]
    table = md.folded("All pairs", _table(lines), len(lines))
    left_out = [f"Not tested: {md.code(shown(str(item.path)))}: {md.escape(shown(item.reason), accessors.LONG)}"
                for item in group.comparison.left_out]  # fmt: skip
    return md.joined([table, md.bullets([*left_out, *notes])])


def _pair(pair: Pair, names: Mapping[str, str], also: Sequence[str]) -> dict[str, str]:
    return {
        "better score": md.escape(names[pair.first], NAME_CHARACTERS),
        "other": md.escape(names[pair.second], NAME_CHARACTERS),
        "difference": md.signed(pair.difference),
        "detectable": md.fixed(pair.detectable, 4),
        "95 % interval": comparison_page.interval(pair),
        "p, Holm": md.escape(comparison_page.probability(pair.p_holm)),
        **{name: md.escape(getattr(pair, name)) for name in also},
        "verdict": md.escape(pair.verdict),
    }


def failures(group: Group) -> str:
    """Runs that did not end well, one a line, with what happened; of memory, what they do not fit."""
    lines = [
        {
            "system": cells.title(record),
            "seed": md.escape(record.seed),
            "status": f"**{record.status}**",
            "what happened": md.joined([_misfit(record), md.escape(record.reason)]).replace("\n\n", " "),
            "machine": cells.machine(record),
        }
        for _, record in group.failed
    ]
    return _table(lines)


def _misfit(record: Record) -> str:
    """Does not fit 12.0 GiB (NVIDIA A2), with the plan's need; empty for other failures."""
    if record.status != "oom":
        return ""
    oom, planned = record.oom, costs.predicted(record)
    size = oom.capacity_bytes if oom else None
    need = f"; predicted need: {md.gib(planned.least)} GiB" if planned else ""
    if size is None or oom is None:
        return f"Does not fit{need}."
    whose = md.escape(oom.device or "GPU") if oom.memory == "gpu" else "the host's memory"
    return f"Does not fit {md.gib(size / GIB)} GiB ({whose}){need}."


def uncounted(group: Group, shown: Shown) -> str:
    """Runs that do not count: run again later, denied by their predictions, or without any beside runs with some."""
    lines = [
        f"Not counted: {md.code(shown(str(item.path)))}: {md.escape(shown(item.reason))}." for item in group.uncounted
    ]
    return md.bullets(lines)


def disagreement(group: Group, *, from_hub: bool) -> str:
    """On how many examples the systems differ, and those on which they differ most, with their texts."""
    if group.field is None or group.split is None:
        return ""
    best = [standing for standing in group.standings if standing.compared_as][:MOST_SYSTEMS]
    names = {str(standing.compared_as): standing.label for standing in best}
    found = disagreements.find(group.field, list(names))
    counts = (
        f"Of {found.examples:,} examples, {found.all_right:,} were answered rightly by all {found.systems} systems in "
        f"all seeds and {found.all_wrong:,} by none in any; on {found.differing:,} the systems differ. Compared: "
        f"{md.escape(found.value)}, the mean over seeds."
    )
    whose = f"the {len(best)} best systems" if found.systems > len(best) else "all systems"
    if not found.shown:
        return md.joined([counts, f"{whose.capitalize()} did equally well on every example."])
    texts, why_not = disagreements.texts(best[0].records[0], group.split, from_hub=from_hub)
    lines = [
        {
            "example": md.code(example.identity, ANSWER_CHARACTERS),
            **({"text": md.escape(texts.get(example.identity), TEXT_CHARACTERS)} if texts else {}),
            "right": md.escape(disagreements.as_text(example.reference), ANSWER_CHARACTERS),
            **{md.escape(label, NAME_CHARACTERS): _said(example, name) for name, label in names.items()},
        }
        for example in found.shown
    ]
    note = "" if why_not is None else f"The texts are not shown: {md.escape(why_not, accessors.LONG)}."
    table = md.table(list(lines[0]), [list(line.values()) for line in lines], "l" * len(lines[0]))
    partly = f"; of those that are right in part, the {md.escape(found.value)} is shown" if found.is_graded else ""
    order = (
        f"The {len(lines)} on which {whose.removeprefix('all ')} differ most (variance between systems); wrong answers "
        f"are bold{partly}."
    )
    return md.joined([counts, order, table, note])


def _said(example: disagreements.Example, name: str) -> str:
    said = md.escape(example.said[name], ANSWER_CHARACTERS)
    value = example.values[name]
    if value >= 1 - disagreements.EXACT:
        return said
    # Not by asterisks, which mean nothing beside some signs.
    return f"<b>{said}</b>" + (f" ({md.fixed(value, 2)})" if value > disagreements.EXACT else "")


def _table(lines: Sequence[Mapping[str, str]]) -> str:
    return md.table_of(lines, TEXT)


def told_from(root: Path) -> Shown:
    """Paths in sentences without what all of them begin with, so that copies of a study give the same page."""
    prefixes = sorted({f"{path}/" for path in (root, root.resolve()) if path.name}, key=len, reverse=True)

    def _shown(sentence: str) -> str:
        for prefix in prefixes:
            sentence = sentence.replace(prefix, "")
        return sentence

    return _shown


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
            for name, item in accessors.all_scores(record)
        },
        key=lambda item: (accessors.metric_order(item[0]), item),
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
            cells.title(record),
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
