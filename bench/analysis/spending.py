"""Energy and money of a system: joules by the devices' counters, and hours times the price of an hour.

Means are over seeds, and None where a seed lacks the number: nothing is filled in.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bench.config.prices import Price, Prices
from bench.records.record import Record
from bench.utils import numbers

KINDS = {"gpu": "GPU", "cpu": "CPU"}
HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions to a report about costs. prices: None leaves money out. to_score: the score to be reached."""

    prices: Prices | None = None
    to_score: float | None = None


NOTHING_ASKED = Asked()


@dataclass(frozen=True, kw_only=True)
class Money:
    """A sum in one currency. hours: of all devices together, of `unit`; price: of one such hour, of what.

    amount_std, hours_std: sample standard deviation over seeds, of a mean of several.
    """

    amount: float
    hours: float
    unit: str
    device: str
    price: Price
    amount_std: float | None = None
    hours_std: float | None = None

    @property
    def currency(self) -> str:
        """Return the currency's three letters."""
        return self.price.currency


@dataclass(frozen=True, kw_only=True)
class Spending:
    """Energy and money of one system. training, per_100: kind of device -> joules, where known.

    per_100: of scoring 100 examples after training. training_std, per_100_std: their sample standard deviations over
    seeds, of two or more. money: of a whole run. why_no_money: the reason where a price could have been given.
    """

    training: dict[str, float] = field(default_factory=dict)
    per_100: dict[str, float] = field(default_factory=dict)
    training_std: dict[str, float] = field(default_factory=dict)
    per_100_std: dict[str, float] = field(default_factory=dict)
    money: Money | None = None
    why_no_money: str | None = None


def of_system(records: Sequence[Record], prices: Prices | None) -> Spending:
    """Return the energy and the money of one system, from the records of its seeds."""
    found = [money(record, prices) for record in records] if prices is not None else []
    reasons = [item for item in found if isinstance(item, str)]
    sums = [item for item in found if isinstance(item, Money)]
    training = _of_seeds(records, "train", "joules")
    per_100 = _of_seeds(records, "score_after", "joules_per_100_examples")
    alike = len({(item.device, item.unit) for item in sums}) == 1 and not reasons
    return Spending(
        training={kind: statistics.mean(values) for kind, values in training.items()},
        per_100={kind: statistics.mean(values) for kind, values in per_100.items()},
        training_std=_stds(training),
        per_100_std=_stds(per_100),
        money=_mean_money(sums) if alike else None,
        why_no_money=next(iter(reasons), None) or ("its runs used different devices" if sums and not alike else None),
    )


def joules(record: Record, phase: str, name: str = "joules") -> dict[str, float]:
    """Return kind of device -> joules of a phase, or what else the record has of them by that name.

    Of a resumed run's training none: the record has those of the last launch.
    """
    is_partial = phase == "train" and bool(record.resumed)
    phases = record.energy.phases.get(phase, {}) if record.energy is not None and not is_partial else {}
    values = {kind: numbers.finite(phases.get(f"{kind}_{name}")) for kind in KINDS}
    return {kind: value for kind, value in values.items() if value is not None}


def _of_seeds(records: Sequence[Record], phase: str, name: str) -> dict[str, list[float]]:
    """Return kind of device -> the joules of every seed, where all seeds have them."""
    found = [joules(record, phase, name) for record in records]
    whole = [kind for kind in KINDS if found and all(kind in one for one in found)]
    return {kind: [one[kind] for one in found] for kind in whole}


def _stds(of_seeds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {kind: statistics.stdev(values) for kind, values in of_seeds.items() if len(values) > 1}


def _mean_money(sums: Sequence[Money]) -> Money:
    first = sums[0]
    hours = statistics.mean(item.hours for item in sums)
    std = statistics.stdev(item.hours for item in sums) if len(sums) > 1 else None
    return Money(
        amount=hours * first.price.price, hours=hours, unit=first.unit, device=first.device, price=first.price,
        amount_std=None if std is None else std * first.price.price, hours_std=std,
    )  # fmt: skip


def money(record: Record, prices: Prices, seconds: float | None = None) -> Money | str | None:
    """Return what a run cost, or a sentence why that can't be said; None where no price applies, as on a CPU.

    From its start to its end, or `seconds` of it, times the GPUs that it used; on a CPU times its threads, each a core.
    """
    launch, environment = record.launch, record.environment
    if launch is None or environment is None:
        return None
    if launch.device != "cuda":
        if prices.core is None:
            return None
        device, price, unit = "a core", prices.core, "core hours"
        devices = (environment.cpu_threads or 0) * launch.world_size
    else:
        names = sorted(set(environment.devices))
        if len(names) != 1:
            return f"a run on {' and '.join(names) or 'unknown GPUs'} has no single price"
        device, unit, devices = names[0], "GPU hours", launch.world_size
        known = prices.of_gpu(device)
        if known is None:
            return prices.why_none(device)
        price = known
    duration_s = seconds if seconds is not None else _duration_s(record)
    if duration_s is None or not devices:
        return "a resumed run's record does not have the time of its earlier launches"
    hours = duration_s * devices / HOUR_S
    return Money(amount=hours * price.price, hours=hours, unit=unit, device=device, price=price)


def _duration_s(record: Record) -> float | None:
    """Return seconds from the start of a run to its end; None for a resumed one, and one without an end."""
    if record.resumed or record.finished_at is None:
        return None
    try:
        taken = datetime.fromisoformat(record.finished_at) - datetime.fromisoformat(record.started_at)
    except (ValueError, TypeError):  # edited
        return None
    return taken.total_seconds() if taken.total_seconds() >= 0 else None


def notes(spent: Mapping[str, Money | str | None]) -> list[str]:
    """Return sentences on prices: where they are from, what has none, and where currencies differ.

    spent: name of a system or run -> its money, or why there is none.
    """
    sums = [item for item in spent.values() if isinstance(item, Money)]
    prices = {(item.device, item.unit): item.price for item in sums}
    lines = [
        f"Price of an hour of {device}: {price.price:g} {price.currency} ({price.source}; as of {price.date}). "
        "Indicative."
        for (device, _), price in sorted(prices.items())
    ]
    if len({item.currency for item in sums}) > 1:
        lines.append("The prices are in different currencies, which are not converted: do not compare the sums.")
    reasons: dict[str, list[str]] = {}
    for name, item in spent.items():
        if isinstance(item, str):
            reasons.setdefault(item, []).append(name)
    return lines + [f"No money for {'; '.join(names)}: {reason}." for reason, names in reasons.items()]
