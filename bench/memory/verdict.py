"""Does it fit? The GPU that was asked for, by name or size, and the line that says whether a plan fits it."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from bench.config import bf16_products
from bench.config.contracts import LoadPlan
from bench.config.recipe import Recipe
from bench.errors import SetupError
from bench.utils import hardware
from bench.utils.hardware import GIB

# Sizes of memory that are asked where none is given.
SIZES = ("12GiB", "16GiB", "24GiB", "48GiB", "80GiB", "141GiB")


def gib(size: float) -> str:
    """Return bytes as people read them."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 100 else f"{size / 2**20:.2f} MiB"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU as it was asked for. usable: bytes; None where none was asked for. device: None for a size alone.

    near: known devices that a size may mean, the one that it stands for first.
    """

    text: str
    name: str
    usable: int | None = None
    device: hardware.Device | None = None
    near: tuple[tuple[str, hardware.Device], ...] = ()

    @property
    def capability(self) -> tuple[int, int] | None:
        """Return the compute capability of a GPU that was named."""
        return self.device.capability if self.device is not None else None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A plan on another GPU: bytes that it needs there, in a precision, and lines on why a run is refused.

    tight: whether it fits by less than the error of its kind of forecast.
    """

    needed: int
    precision: str
    refused: list[str]
    tight: bool = False


def asked_card(text: str | None) -> Card:
    """Return the GPU that a size or a name means. Raises SetupError for what is neither.

    A size of which only GPUs without units for bf16 are known means the first of them.
    """
    if text is None:
        return Card(text="", name="")
    # A bare number is a size, as in the names of cloud machines.
    if re.fullmatch(r"0*[1-9]\d{0,2}(\.\d+)?", text.strip()):
        text = f"{text.strip()}GiB"
    usable, near = hardware.memory(text), tuple(hardware.near(text))
    if near:
        (name, device), usable = near[0], hardware.given(text, near[0][1])
        if not any(other.bf16 for _, other in near):
            return Card(text=text, name=name, usable=usable, device=device, near=near)
        return Card(text=text, name=f"{text} (as {name} gives)", usable=usable, near=near)
    try:
        name, device = hardware.named(text)
    except SetupError:
        return Card(text=text, name=text, usable=usable)
    return Card(text=text, name=name, usable=usable, device=device)


def precision_of(asked: str | None, card: Card) -> str:
    """Return the precision of a plan: as asked, else the device's. Raises SetupError for one that it does not have."""
    if card.device is None:
        return asked or "bf16"
    refused = hardware.refused_precision(card.name, card.device, asked or "no")
    if refused is not None:
        raise SetupError(f"--precision {asked}: {refused}")
    return asked or ("bf16" if card.device.bf16 else "fp16")


def refused_products(card: Card, recipe: Recipe, plan: LoadPlan, precision: str) -> list[str]:
    """Return the line that a run would be refused, where it multiplies in bfloat16 on a device without units for it."""
    asked = bf16_products.asked(recipe, plan, precision)
    if asked is None or card.device is None or card.device.bf16:
        return []
    return [f"a run is refused there: {asked.refused(hardware.no_bf16_units(card.name, card.device.capability))}"]


def verdict(needed: int, card: Card, where: str) -> tuple[bool, str]:
    """Return (whether it fits, the line that says so, in what, and with what margin). where: of what size, in words."""
    if card.usable is None:
        fitting = [size for size in SIZES if needed <= hardware.memory(size)]
        if not fitting:
            return False, f"does not fit {SIZES[-1]}: {gib(needed)} on each GPU, at {where}"
        return True, f"fits {fitting[0]} and more: {gib(needed)} on each GPU, at {where}"
    fits, gap = needed <= card.usable, abs(card.usable - needed)
    margin = f"{gib(gap)} to spare" if fits else f"{gib(gap)} too little"
    word = "fits" if fits else "does not fit"
    return fits, f"{word}: {gib(needed)} of the {gib(card.usable)} of {card.name}, {margin}, at {where}"


def others_of_this_size(card: Card, judge: Callable[[Card], Judged]) -> list[str]:
    """Return what holds on the GPUs of the same size that give less than the one it stands for, or have no bf16.

    judge: plans for one of them, by its own precision and memory. Raises SetupError for a precision it can't train in.
    """
    if not card.near:
        return []
    first = card.near[0][1]
    alike: dict[tuple[int, bool, tuple[int, int]], list[str]] = {}
    for name, device in card.near:
        if device.usable_bytes < first.usable_bytes or device.bf16 != first.bf16:
            key = (-device.usable_bytes, device.bf16, (0, 0) if device.bf16 else device.capability or (0, 0))
            alike.setdefault(key, []).append(name)
    lines = []
    if card.device is not None:
        known = ", ".join(name for name, _ in card.near)
        lines.append(
            f"{card.text} is planned as {card.name}: of the GPUs known to give as much ({known}) none has bf16"
        )
    much = "sold with as much" if hardware.on_the_box(card.text) else "of nearly as much"
    for (size, _, _), names in sorted(alike.items()):
        device = dict(card.near)[names[0]]
        other = Card(text=names[0], name=names[0], usable=-size, device=device)
        lines.append(f"{', '.join(names)}, {much}, give {gib(-size)}: {_on_other(other, judge, first.bf16)}")
    return lines


def _on_other(other: Card, judge: Callable[[Card], Judged], bf16: bool) -> str:
    try:
        judged = judge(other)
    except SetupError as error:
        return str(error)
    fits = judged.needed <= (other.usable or 0)
    # Where the precision is another one, so is the need.
    own = f" ({gib(judged.needed)} in {judged.precision})" if other.device and other.device.bf16 != bf16 else ""
    word = "does not fit" if not fits else "fits, but tight" if judged.tight else "fits"
    return "; ".join([word + own, *judged.refused])
