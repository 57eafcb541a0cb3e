"""Sections of the report of many runs: leaderboard, costs, paired tests, failures, disagreements, appendix."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.analysis import accessors, costs, disagreements, text_baseline
from bench.analysis.accessors import Located
from bench.analysis.across import Across
from bench.analysis.compare import Pair
from bench.analysis.costs import Costs
from bench.analysis.disagreements import TextSource
from bench.analysis.leaderboard import Group, RankedSystem
from bench.analysis.spending import Spending
from bench.records.record import Record
from bench.reporting import cells, comparison_page, energy_and_money, findings, local_paths, run_warnings
from bench.reporting import markdown as md
from bench.reporting.short_table import TABLE_METRICS, TABLE_NOTES
from bench.utils.hardware import GIB

STATISTICS = (
    "Score of several seeds: the mean. Its interval is Student's, from the variances over seeds and over examples "
    "(Obuchowski 1995, Satterthwaite 1946), clipped to the metric's range. The interval of one seed is over examples, "
    "from the record.",
    "Paired tests: between single runs, McNemar's exact test (McNemar 1947) where each example is right or wrong, else "
    "approximate randomisation (Noreen 1989); between systems of several seeds, Student's test over seeds and "
    "examples. p-values are corrected over all pairs of a table (Holm 1979).",
)
# Columns of text, aligned left; the others hold numbers.
TEXT = (
    *("system", "GPUs it fits, GiB", "machine", "status", "reason", "better score", "other", "verdict"),
    *comparison_page.OFTEN_SAME,
)
# Further metrics in the leaderboard, few enough to read it without scrolling; the table of all metrics has the others.
MOST_METRICS = 2
# Equal to accuracy where each example has one label and each answer is one.
COPIES = ("f1_micro", "precision_micro", "recall_micro")
# Characters of a text, and of a prediction or reference, in the table of disagreements.
TEXT_CHARACTERS, ANSWER_CHARACTERS = 240, 60
# Characters of a system's name in cells and headings; overrides can be long, and systems have letters too.
NAME_CHARACTERS = 80
# Of fewer data sets, the interval of a mean rank over examples and seeds is often of width 0.
FEWEST_DATA_SETS = 5
# Systems in the table of disagreements.
MOST_SYSTEMS = 6
Shorten = Callable[[str], str]


def across_data_sets(found: Across | None) -> str:
    """Return mean ranks, and wins, ties and losses, of systems that several data sets have; empty without such."""
    if found is None:
        return ""
    with_interval = len(found.data_sets) >= FEWEST_DATA_SETS
    lines = [
        {
            "system": md.escape(one.name, NAME_CHARACTERS),
            "mean rank": f"{one.mean_rank:.2f}" + (f" ({one.low:.2f} to {one.high:.2f})" if with_interval else ""),
            "wins": md.count(one.wins),
            "ties": md.count(one.ties),
            "losses": md.count(one.losses),
            **{f"rank on {md.escape(name)} ({md.escape(metric)})": f"{one.ranks[name]:g}"
               for name, metric in found.data_sets.items()},
        }
        for one in found.standings
    ]  # fmt: skip
    interval = (
        "The interval of a mean rank is 95 %, by a bootstrap over examples and seeds; it covers no other data sets."
        if with_interval
        else f"On fewer than {FEWEST_DATA_SETS} data sets a mean rank has no interval, which would be wrongly narrow."
    )
    caption = (
        "Rank 1 is the best of these systems. Ranks are the order of mean scores over seeds, also of systems without a "
        f"significant difference: see wins, ties and losses. {interval} A win is a significant difference on one data "
        "set, by its paired tests; a tie is none."
    )
    others = md.bullets([md.escape(sentence) for sentence in found.left_out])
    return md.joined(["## Across data sets", caption, _table(lines), others])


def leaderboard(group: Group) -> str:
    """Return the leaderboard: tiers, scores with intervals, seeds, before and after; the baselines in its caption."""
    if group.metric is None and group.requested_metric is not None and group.systems:
        return f"No run on this data set has a single-valued score of the metric {md.escape(group.requested_metric)}."
    if group.metric is None or not group.systems:
        return "No run has a score."
    metric = md.escape(group.metric)
    lines = [_row(group, system, metric) for system in group.systems]
    often_empty = ("std over seeds", "before training", run_warnings.COLUMN)
    empty = [name for name in often_empty if all(line[name] == md.DASH for line in lines)]
    lines = [{name: cell for name, cell in line.items() if name not in empty} for line in lines]
    order = "highest" if group.higher_is_better else "lowest"
    floors = _baselines(group)
    baselines = f" Baselines: {md.quantity('baselines', floors)}." if floors else ""
    caption = f"{metric} on {md.escape(group.split)}, {_examples(group)} examples; {order} first.{baselines}"
    return md.joined([caption, _table(lines), _reading_notes(group)])


def _row(group: Group, system: RankedSystem, metric: str) -> dict[str, str]:
    before = _mean(system, "before", group.split, group.metric or "")
    others = [name for name in TABLE_METRICS if name != group.metric and _known(group, name)][:MOST_METRICS]
    return {
        "tier": md.count(system.tier),
        "system": md.escape(system.label, 2 * NAME_CHARACTERS),
        f"{metric} (95 % interval)": md.score(system.score, system.low, system.high),
        "seeds": md.count(len(system.runs)),
        "std over seeds": md.fixed(system.seed_std, 4),
        "before training": md.fixed(before),
        **{md.escape(name): md.fixed(_mean(system, "after", group.split, name)) for name in others},
        "trainable share": cells.trainable_share(system.records[0]),
        run_warnings.COLUMN: run_warnings.count(system.records),
    }


def _known(group: Group, name: str) -> bool:
    return any(_mean(system, "after", group.split, name) is not None for system in group.systems)


def _mean(system: RankedSystem, stage: str, split: str | None, name: str) -> float | None:
    """Return the mean over all seeds; None where one of them has no such score."""
    values = accessors.finite_values(system.records, stage, split, name)
    return statistics.mean(values) if len(values) == len(system.records) else None


def _examples(group: Group) -> str:
    """Return the number of examples of the comparison, else of the records."""
    if group.comparison:
        return md.count(group.comparison.examples)
    records = [record for system in group.systems for record in system.records]
    scores = [accessors.scalars(record, "after", group.split).get(group.metric or "") for record in records]
    return " or ".join(map(md.count, sorted({item.examples for item in scores if item}))) or "no"


def _baselines(group: Group) -> dict[str, float | int | None]:
    records = [record for system in group.systems for record in system.records]
    baselines = next((record.baselines[group.split or ""] for record in records if group.split in record.baselines), {})
    return {kind: values.get(group.metric or "") for kind, values in baselines.items()} | text_baseline.of(group)


def _reading_notes(group: Group) -> str:
    """Explain the tiers and intervals of this table."""
    lines = []
    if group.comparison:
        lines.append(comparison_page.TIER_NOTE)
        lines.append("Overlapping intervals do not imply that two systems tie, since the tests are paired by example.")
    several = any(len(system.runs) > 1 for system in group.systems)
    single = any(len(system.runs) == 1 for system in group.systems)
    if several:
        lines.append(
            "Several seeds: values are means over seeds; the interval covers other seeds and other examples "
            "(Student's, from both variances) and needs the predictions."
        )
    if single:
        lines.append("One seed: the interval covers other examples, not other seeds.")
    lines += accessors.selection_notes(record for system in group.systems for record in system.records)
    return md.bullets(lines)


def all_metrics(group: Group) -> str:
    """Return all metrics on all scored splits, before → after, a column per system; and the numbers of parameters."""
    splits = dict.fromkeys(split for system in group.systems for one in system.records
                           for split in accessors.splits(one))  # fmt: skip
    heading = {id(system): md.escape(system.letter or system.short, NAME_CHARACTERS)
               for system in group.systems}  # fmt: skip
    lines = [
        {"split": md.escape(split), "metric": md.escape(name)}
        | {heading[id(system)]: _change(system, split, name) for system in group.systems}
        for split in splits for name in _names_of(group, split)
    ]  # fmt: skip
    lines, same = _without_copies(lines)
    sizes = [{"system": md.escape(system.label, NAME_CHARACTERS), **_parameters(system.records[0])}
             for system in group.systems]  # fmt: skip
    several = "; means over seeds" if any(len(system.runs) > 1 for system in group.systems) else ""
    note = f"Before → after training, where both were scored{several}. Letters of systems as above.{same}"
    table = md.details(f"All metrics ({len(lines)} rows)", md.joined([md.table_of(lines, ("split", "metric")), note]))
    return md.joined([table, md.details("Parameters", _table(sizes))]) if lines else ""


def _without_copies(lines: list[dict[str, str]]) -> tuple[list[dict[str, str]], str]:
    """Return the rows without those that equal accuracy by definition, with one label an example; and a sentence."""
    accuracy = {line["split"]: line | {"metric": ""} for line in lines if line["metric"] == "accuracy"}
    copies = [line for line in lines if line["metric"] in COPIES
              and line | {"metric": ""} == accuracy.get(line["split"])]  # fmt: skip
    names = sorted({line["metric"] for line in copies})
    same = f" With one label for each example, {', '.join(names)} equals accuracy." if names else ""
    return [line for line in lines if line not in copies], same


def _names_of(group: Group, split: str) -> list[str]:
    names = {name for system in group.systems for record in system.records for stage in accessors.STAGES
             for name in accessors.scalars(record, stage, split)}  # fmt: skip
    return sorted(names, key=accessors.metric_order)


def _change(system: RankedSystem, split: str, name: str) -> str:
    values = (_mean(system, stage, split, name) for stage in accessors.STAGES)
    # Numbers of examples have no decimals.
    before, after = (md.count(value) if value and value > 1 and value == int(value) else md.fixed(value)
                     for value in values)  # fmt: skip
    return after if before == md.DASH else f"{before} → {after}"


def _parameters(record: Record) -> dict[str, str]:
    parameters = record.model.parameters if record.model else {}
    return {
        "without head": md.count(parameters.get("before_head")),
        "with head and adapters": md.count(parameters.get("total")),
        "trainable": md.count(parameters.get("trainable")),
    }


def cost_table(
    group: Group, costs_of: Sequence[Costs], shorten: Shorten, spent: Sequence[Spending] | None = None
) -> str:
    """Return the costs of each system; quantities that were not measured for any are named below the table.

    spent: energy and money of each system, whose columns are there only where any system has them.
    """
    spent = spent or [Spending()] * len(costs_of)
    lines = [
        {
            "system": md.escape(system.label, NAME_CHARACTERS),
            "steps": _range(cost.steps, md.count),
            "epochs": _range(cost.epochs, md.significant),
            "training, s": _training(system, cost),
            "process-minutes": _of_device(cost.process_minutes, cost, cost.stds.get("process_minutes")),
            "minutes per point": _of_device(cost.minutes_per_point, cost),
            "real tokens/s": md.mean_std(cost.tokens_per_s, cost.stds.get("tokens_per_s")),
            "padding share": _share(cost),
            "s per 100 examples": md.mean_std(cost.seconds_per_100, cost.stds.get("seconds_per_100")),
            "GPU peak memory, GiB": _gpu(cost),
            "GPUs it fits, GiB": md.escape(cost.gpu.fits() if cost.gpu else None),
            "RAM peak, GiB": md.gib_range(cost.ram_of_seeds),
            **more,
            "machine": md.escape(cost.machine or None),
        }
        for system, cost, more in zip(group.systems, costs_of, energy_and_money.columns(spent), strict=True)
    ]
    unknown = [name for name in lines[0] if all(line[name] == md.DASH for line in lines)] if lines else []
    machines = {line["machine"] for line in lines}
    left_out = [*unknown, *(["machine"] if len(machines) == 1 else [])]
    table = _table([{name: cell for name, cell in line.items() if name not in left_out} for line in lines])
    notes = _without_minutes_per_point(group, costs_of, shorten)
    notes += [f"Not measured: {', '.join(name.removesuffix(', GiB') for name in unknown)}."] if unknown else []
    notes += [f"Machine: {next(iter(machines))}."] if len(machines) == 1 and "machine" not in unknown else []
    notes += ["The systems ran on different machines: do not compare their times and speeds."] * (len(machines) > 1)
    notes += energy_and_money.notes([system.label for system in group.systems], spent)
    if any(len(system.runs) > 1 for system in group.systems):
        notes.append(
            "Of several seeds, times, speeds and energy are means ± sample standard deviation; memory is given from "
            "the lowest to the highest peak, which decides what fits."
        )
    told = findings.costs_in_words([system.short for system in group.systems], costs_of, _reference(group))
    return md.joined([md.escape(told, accessors.MAX_CHARACTERS) if told else "", table, md.bullets(notes)])


def _reference(group: Group) -> int:
    """Return the place of the system that others' costs are compared with: full fine-tuning, else the best."""
    full = (place for place, system in enumerate(group.systems) if system.records[0].method == "full")
    return next(full, 0)


def _without_minutes_per_point(group: Group, costs_of: Sequence[Costs], shorten: Shorten) -> list[str]:
    """Return one sentence for each reason why systems have no minutes per point."""
    reasons: dict[str, list[str]] = {}
    for system, cost in zip(group.systems, costs_of, strict=True):
        if cost.why_no_price is not None and not is_untrained(system.records):
            reasons.setdefault(shorten(cost.why_no_price), []).append(md.escape(system.label, NAME_CHARACTERS))
    return [f"No minutes per point for {'; '.join(systems)}: {md.escape(reason, accessors.MAX_CHARACTERS)}."
            for reason, systems in reasons.items()]  # fmt: skip


def _range(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """Return the common value of all seeds, else minimum–maximum; a dash for none."""
    return "–".join(dict.fromkeys(shown(end) for end in (min(values), max(values)))) if values else md.DASH


def _training(system: RankedSystem, cost: Costs) -> str:
    return "none" if is_untrained(system.records) else md.mean_std(cost.training_s, cost.stds.get("training_s"))


def is_untrained(records: Sequence[Record]) -> bool:
    """Return whether the model is only prompted, not trained."""
    return all(accessors.stage_names(record) != accessors.STAGES for record in records)


def _of_device(minutes: float | None, cost: Costs, std: float | None = None) -> str:
    return md.DASH if minutes is None else f"{md.mean_std(minutes, std)} {cost.device_kind} min"


def _share(cost: Costs) -> str:
    """Return the padding share in percent, with its deviation in percentage points."""
    if cost.padding_share is None or not cost.stds.get("padding_share"):
        return md.percent(cost.padding_share)
    points = 100 * cost.padding_share, 100 * cost.stds["padding_share"]
    return f"{md.mean_std(*points, partial(md.fixed, decimals=1))} %"


def _gpu(cost: Costs) -> str:
    return md.DASH if cost.gpu is None else f"{md.gib_range(cost.gpu_of_seeds)} ({cost.gpu.kind})"


def _texts(group: Group, record: Record, texts_from: TextSource) -> tuple[Mapping[str, str], str | None]:
    """Return the texts of a group's examples by id, or why there are none: not where any of its runs hides them."""
    records = (one for system in group.systems for one in system.records)
    hidden = next((why for one in records if (why := disagreements.why_hidden(one, texts_from))), None)
    return ({}, hidden) if hidden else disagreements.texts(record, group.split or "", texts_from=texts_from)


def paired_tests(group: Group, shorten: Shorten) -> str:
    """Return all pairs with their verdicts, or the reason why there are none; and the runs that were not tested."""
    names = {system.letter: system.label for system in group.systems if system.letter}
    if group.comparison is None:
        return f"No paired tests: {md.escape(shorten(group.why_untested or ''), accessors.MAX_CHARACTERS)}."
    pairs = group.comparison.pairs
    # The notes of the comparison name what is the same for all pairs.
    differ = [name for name in comparison_page.OFTEN_SAME if len({getattr(pair, name) for pair in pairs}) > 1]
    lines = [_pair(pair, names, differ) for pair in pairs]
    # The leaderboard explains tiers.
    unescaped = [note for note in comparison_page.notes(group.comparison) if note != comparison_page.TIER_NOTE]
    notes = [md.escape(shorten(note), accessors.MAX_CHARACTERS) for note in unescaped]
    table = md.folded("All pairs", _table(lines), len(lines))
    left_out = [
        f"Not tested: {md.code(shorten(str(item.path)))}: {md.escape(shorten(item.reason), accessors.MAX_CHARACTERS)}"
        for item in group.comparison.left_out
    ]
    return md.joined([table, md.bullets([*left_out, *notes])])


def _pair(pair: Pair, names: Mapping[str, str], also: Sequence[str]) -> dict[str, str]:
    return {
        "better score": md.escape(names[pair.first], NAME_CHARACTERS),
        "other": md.escape(names[pair.second], NAME_CHARACTERS),
        "difference": md.signed(pair.difference),
        "min. detectable": md.fixed(pair.detectable, 4),
        "95 % interval": comparison_page.interval(pair),
        "p, Holm": md.escape(comparison_page.probability(pair.p_holm)),
        **{name: md.escape(getattr(pair, name)) for name in also},
        "verdict": md.escape(pair.verdict),
    }


def failed_runs(group: Group) -> str:
    """Return the failed runs with their reasons; after an out-of-memory error also the capacity."""
    lines = [
        {
            "system": cells.title(record, group.shared),
            "seed": md.escape(record.seed),
            "status": f"**{record.status}**",
            "reason": md.joined([_misfit(record), md.escape(record.reason)]).replace("\n\n", " "),
            "machine": cells.machine(record),
        }
        for _, record in group.failed
    ]
    return _table(lines)


def _misfit(record: Record) -> str:
    """Return "Does not fit 12.00 GiB (NVIDIA A2)" and the predicted need; empty for other failures."""
    if record.status != "oom":
        return ""
    oom, planned = record.oom, costs.predicted(record)
    size = oom.capacity_bytes if oom else None
    need = f"; predicted need: {md.gib(planned.least)} GiB" if planned else ""
    if size is None or oom is None:
        return f"Does not fit{need}."
    whose = md.escape(oom.device or "GPU") if oom.memory == "gpu" else "the host's memory"
    return f"Does not fit {md.gib(size / GIB)} GiB ({whose}){need}."


def not_counted(group: Group, shorten: Shorten) -> str:
    """List runs that do not count: repeated later, contradicted by their predictions, or lacking predictions."""
    lines = [
        f"Not counted: {md.code(shorten(str(item.path)))}: {md.escape(shorten(item.reason))}."
        for item in group.not_counted
    ]
    return md.bullets(lines)


def disagreements_table(group: Group, *, texts_from: TextSource) -> str:
    """Return the number of examples on which systems differ, and those on which they differ most, with their texts."""
    if group.matched is None or group.split is None:
        return ""
    best = [system for system in group.systems if system.compared_as][:MOST_SYSTEMS]
    names = {str(system.compared_as): system.label for system in best}
    summary = disagreements.find(group.matched, list(names), texts_from=texts_from)
    counts = (
        f"Of {summary.examples:,} examples, {summary.all_right:,} were answered correctly by all {summary.systems} "
        f"systems in all seeds and {summary.all_wrong:,} by no system in any seed; the systems differ on "
        f"{summary.differing:,}. Compared: {md.escape(summary.value)}, mean over seeds."
    )
    if summary.of_numbers:
        counts = (
            f"Of {summary.examples:,} examples, the errors of the {summary.systems} systems differ on "
            f"{summary.differing:,}. Compared: absolute error, mean over seeds."
        )
    whose = f"the {len(best)} best systems" if summary.systems > len(best) else "all systems"
    if not summary.shown:
        return md.joined([counts, f"{whose.capitalize()} have equal scores on every example."])
    texts, why_not = _texts(group, best[0].records[0], texts_from)
    lines = [
        {
            "example": md.code(example.identity, ANSWER_CHARACTERS),
            **({"text": md.escape(texts.get(example.identity), TEXT_CHARACTERS)} if texts else {}),
            "reference": md.escape(disagreements.as_text(example.reference), ANSWER_CHARACTERS),
            **{md.escape(label, NAME_CHARACTERS): _answer_cell(example, name) for name, label in names.items()},
        }
        for example in summary.shown
    ]
    note = "" if why_not is None else f"Texts are not shown: {md.escape(why_not, accessors.MAX_CHARACTERS)}."
    table = md.table(list(lines[0]), [list(line.values()) for line in lines], "l" * len(lines[0]))
    partly = f"; partly correct answers with their {md.escape(summary.value)}" if summary.is_graded else ""
    tied = (
        f"; {summary.tied:,} more differ as much as the last, and which of them stand here was drawn by their ids"
        if summary.tied
        else ""
    )
    order = (
        f"The {len(lines)} examples on which {whose.removeprefix('all ')} differ most (variance between "
        f"systems{tied}). {'The error is in brackets' if summary.of_numbers else f'Wrong answers are bold{partly}'}."
    )
    return md.joined([counts, order, table, note])


def _answer_cell(example: disagreements.Example, name: str) -> str:
    answer = md.escape(example.answers[name], ANSWER_CHARACTERS)
    value = example.values[name]
    if isinstance(example.reference, float):
        return answer if value == disagreements.MISSING else f"{answer} ({md.fixed(-value, 2)})"
    if value >= 1 - disagreements.EXACT:
        return answer
    # Not with asterisks, which are no emphasis next to some characters.
    return f"<b>{answer}</b>" + (f" ({md.fixed(value, 2)})" if value > disagreements.EXACT else "")


def _table(lines: Sequence[Mapping[str, str]]) -> str:
    return md.table_of(lines, TEXT)


def path_shortener(root: Path) -> Shorten:
    """Return a function that removes the common root from paths in a text, so that copies of runs give equal pages."""
    prefixes = sorted({f"{path}/" for path in (root, root.resolve()) if path.name}, key=len, reverse=True)

    def _shorten(text: str) -> str:
        for prefix in prefixes:
            text = text.replace(prefix, "")
        return text

    return _shorten


def appendix(
    records: Sequence[Located],
    shorten: Shorten,
    shared: frozenset[int] = frozenset(),
    definitions: Sequence[str] = (),
) -> str:
    """Return definitions, metric signatures, environments, and a table of all records, mostly folded.

    shared: as of `cells.title`. definitions: Markdown lines that come before those of every page.
    """
    ordered = sorted(records, key=lambda pair: (pair[1].name, pair[1].seed or 0, shorten(str(pair[0]))))
    sorted_records = [record for _, record in ordered]
    return md.joined(
        [
            md.joined(
                [
                    "### Definitions",
                    md.bullets([*definitions, *STATISTICS, *costs.FORMULAS, TABLE_NOTES[1]]),
                ]
            ),
            md.details("Metrics and their signatures", _signatures(sorted_records)),
            md.details("Machines and versions", _environments(sorted_records)),
            md.details(f"Records ({len(records)})", _records(ordered, shorten, shared)),
        ]
    )


def _signatures(records: Sequence[Record]) -> str:
    signatures = sorted(
        {
            (name, item.signature, item.interval or "")
            for record in records
            for name, item in accessors.all_scores(record)
        },
        key=lambda item: (accessors.metric_order(item[0]), item),
    )
    rows = [
        [md.escape(name), md.code(signature), md.escape(interval or None)] for name, signature, interval in signatures
    ]
    return md.table(["metric", "signature", "interval"], rows, "lll")


def _environments(records: Sequence[Record]) -> str:
    """Return a column for each distinct environment, with the number of its runs."""
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


def _records(ordered: Sequence[Located], shorten: Shorten, shared: frozenset[int]) -> str:
    rows = [
        [
            md.code(shorten(str(path))),
            cells.title(record, shared),
            md.escape(record.seed),
            md.escape(record.status),
            md.code(local_paths.recipe(record.recipe.path)),
            md.code((record.recipe.hash or "")[:12] or None),
            md.code(record.comparability.key if record.comparability else None),
        ]
        for path, record in ordered
    ]
    header = ["record", "system", "seed", "status", "recipe", "recipe hash", "comparability key"]
    return md.table(header, rows, "llrllll")
