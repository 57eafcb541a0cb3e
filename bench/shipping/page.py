"""The page of a ship check, in Markdown, and its table on the console."""

from bench.reporting import markdown as md
from bench.shipping.names import KINDS
from bench.shipping.results import FormResult, Shipped
from bench.shipping.timing import Timed
from bench.shipping.verdict import Changes, Compared
from bench.utils.numbers import format_bytes

HEADER = (
    "form", "verdict", "score", "difference (90 %)", "answers changed", "right to wrong", "wrong to right",
    "wrong to other", "size", "load, s", "s per 100",
)  # fmt: skip
# Columns of the console, by the heading that they have there.
SHORT = {
    "form": "form", "verdict": "verdict", "score": "score", "difference (90 %)": "change", "answers changed": "changed",
    "size": "size", "load, s": "load, s", "s per 100": "s/100",
}  # fmt: skip
NOT_MADE = "not made"


def sentence(shipped: Shipped) -> str:
    """Return what comes first: whether the saved model still gives the run's own answers on this machine."""
    compared = shipped.reference.compared
    assert compared is not None
    changes = compared.changes
    if changes is not None and not changes.changed:
        return (
            f"Scored again here, the saved model gives the run's own answer to each of {changes.examples:,} examples."
        )
    what = f"{changes.changed:,} of {changes.examples:,} answers changed, " if changes is not None else ""
    return (
        f"Scored again here, the saved model differs from the run's own predictions: {what}{shipped.metric} "
        f"{_difference(compared)}: {compared.verdict}. The forms are compared with the model as it is scored here."
    )


def findings(shipped: Shipped) -> list[str]:
    """Return a sentence for each form."""
    found = []
    for form in shipped.forms:
        if form.compared is None:
            found.append(f"{form.name}: {NOT_MADE}: {form.reason}")
            continue
        of_few = f" on {shipped.examples:,} examples (more may tell)" if form.compared.verdict == "undecided" else ""
        found.append(
            f"{form.name}: {form.compared.verdict}{of_few}, {shipped.metric} {_difference(form.compared)}"
            f"{_remark(form.compared, shipped.margin)}"
        )
    return found


def _remark(compared: Compared, margin: float) -> str:
    """Return what the verdict alone does not tell: a difference that is there, and many changed answers."""
    parts = []
    if compared.verdict == "undecided" and not compared.low <= 0 <= compared.high:
        parts.append(f"{'lower' if compared.high < 0 else 'higher'}, but perhaps by less than the margin")
    changes = compared.changes
    if changes is not None and compared.verdict != "not equivalent" and changes.low > margin:
        parts.append(f"{_share(changes)} of its answers are others")
    return "".join(f"; {part}" for part in parts)


def rows(shipped: Shipped) -> list[list[str]]:
    """Return the table's cells: the saved model first."""
    return [_row(form) for form in (shipped.reference, *shipped.forms)]


def short_rows(shipped: Shipped) -> tuple[list[str], list[list[str]]]:
    """Return header and cells for a console of 80 columns, without intervals, which the sentences have."""
    places = [HEADER.index(name) for name in SHORT]
    cells = [[row[place].split(" (")[0] for place in places] for row in rows(shipped)]
    return [*SHORT.values()], cells


def _row(form: FormResult) -> list[str]:
    if form.compared is None:
        return [form.name, NOT_MADE, *[md.DASH] * (len(HEADER) - 2)]
    changes = form.compared.changes
    counts = (
        (None, None, None)
        if changes is None
        else (changes.right_to_wrong, changes.wrong_to_right, changes.wrong_to_other)
    )
    return [
        form.name,
        form.compared.verdict,
        f"{form.compared.score:.4f}",
        _difference(form.compared),
        md.DASH if changes is None else _share(changes),
        *(md.DASH if count is None else f"{count:,}" for count in counts),
        md.DASH if form.size_bytes is None else format_bytes(form.size_bytes),
        _seconds(form.load),
        _seconds(form.per_100),
    ]


def _difference(compared: Compared) -> str:
    return f"{compared.difference:+.4f} ({compared.low:+.4f} to {compared.high:+.4f})"


def _share(changes: Changes) -> str:
    return f"{changes.changed:,} ({changes.changed / changes.examples:.2%})"


def _seconds(timed: Timed | None) -> str:
    if timed is None:
        return md.DASH
    spread = f" ({timed.low_s:.3g}–{timed.high_s:.3g})" if timed.repeats > 1 else ""
    return f"{timed.median_s:.3g}{spread}"


def markdown(shipped: Shipped) -> str:
    """Return the page."""
    title = f"# Ship check: {md.escape(shipped.name.replace('--', ' / '))}"
    seed = f" Run of {md.escape(shipped.recipe)}" + (f", seed {shipped.seed}." if shipped.seed is not None else ".")
    asked = (
        f"{shipped.examples:,} examples of {md.escape(shipped.split)}, metric {md.escape(shipped.metric)}, equivalence "
        f"margin ±{shipped.margin:g}.{seed}"
    )
    cells = [[md.escape(cell) for cell in row] for row in rows(shipped)]
    table = md.table(HEADER, cells, "ll" + "r" * (len(HEADER) - 2))
    parts = {
        "How to read it": md.bullets(_notes(shipped)),
        "Left out": md.bullets([f"{name}: {md.escape(why, 500)}" for name, why in shipped.left_out.items()]),
        "Notes": md.bullets(_form_notes(shipped)),
    }
    says = md.bullets([md.escape(text, 600) for text in findings(shipped)])
    return md.joined([title, asked, md.escape(sentence(shipped), 600), says, table, md.sections(parts)]) + "\n"


def _notes(shipped: Shipped) -> list[str]:
    machine = shipped.machine
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return [
        f"Again: {md.code(shipped.command, 500)}",
        "Each form is compared with the saved model as it is scored here (the first row, which is compared with the "
        "run's own predictions), on the same examples by the same prompts.",
        "Equivalent: the 90 % interval of the difference lies within the margin (two one-sided tests at 5 %). Not "
        "equivalent: the interval excludes 0, and the observed difference is the margin or more. Undecided: neither; "
        "more examples may tell. Each form is a decision of its own, without a correction for their number. Intervals "
        "generalise to other examples.",
        "Size: files of weights. Load: median of repeats (least–most), files in the page cache, libraries imported. "
        "Seconds per 100 examples: answered one by one, tokens made before, after a warm-up; median of passes over the "
        "same examples of all lengths.",
        f"Measured on {md.escape(machine['processor'])}, {threads}, torch {md.escape(machine['torch'])}.",
    ]


def _form_notes(shipped: Shipped) -> list[str]:
    found = [md.escape(note, 500) for note in shipped.notes]
    for form in (shipped.reference, *shipped.forms):
        more = [*form.notes]
        if form.largest_change is not None:
            more.append(f"largest change of a probability: {form.largest_change:.2g}")
        if form.compared is not None and form.compared.p is not None:
            more.append(f"McNemar, exact: p = {form.compared.p:.3g}")
        found += [f"{form.name}: {md.escape(note, 500)}" for note in more]
    known = [
        f"{name}: {what}"
        for name, what in KINDS.items()
        if any(form.name.split(":")[0] == name for form in shipped.forms)
    ]
    return [*(md.escape(text) for text in known), *found]
