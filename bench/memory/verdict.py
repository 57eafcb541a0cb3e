"""Does it fit? The GPU that was asked for, by name or size, and the line that says whether a plan fits it."""

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
    """A GPU as it was asked for. usable: bytes; None where none was asked for. device: None for a size alone."""

    text: str
    name: str
    usable: int | None = None
    device: hardware.Device | None = None

    @property
    def capability(self) -> tuple[int, int] | None:
        """Return the compute capability of a GPU that was named."""
        return self.device.capability if self.device is not None else None


def asked_card(text: str | None) -> Card:
    """Return the GPU that a size or a name means. Raises SetupError for what is neither."""
    if text is None:
        return Card(text="", name="")
    usable, sold = hardware.memory(text), hardware.on_the_box(text)
    if sold:
        return Card(text=text, name=f"{text} (as {sold[0][0]} gives)", usable=usable)
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


def others_of_this_size(needed: int, card: Card) -> list[str]:
    """Return what holds on the cards of the same size on the box that give less than the one it stands for."""
    by_size: dict[int, list[str]] = {}
    for name, device in hardware.cards_with_less(card.text):
        by_size.setdefault(device.usable_bytes, []).append(name)
    return [
        f"{', '.join(names)}, sold with as much, give {gib(size)}: {'fits' if needed <= size else 'does not fit'}"
        for size, names in sorted(by_size.items(), reverse=True)
    ]
