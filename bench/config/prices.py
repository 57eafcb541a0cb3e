"""Prices of devices for an hour: the shipped `recipes/costs.yaml`, and over it a file of the user's own."""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from bench.config import validation, yaml_loader
from bench.config.fields import Date, Strict, Text
from bench.config.layers import Layers
from bench.errors import RecipeError, SetupError
from bench.utils import hardware, shipped

FILE, VARIABLE = "costs.yaml", "BENCH_COSTS"
HOW_TO_GIVE = f"give it with --costs FILE or {VARIABLE}=FILE, in the form of recipes/{FILE}"


def _currency(text: str) -> str:
    if not re.fullmatch("[A-Z]{3}", text):
        raise ValueError(f"{text!r} is no currency; write its three capital letters, e.g. USD")
    return text


def _source(text: str) -> str:
    if not text.strip():
        raise ValueError('who lists the price? A text is expected, e.g. "our cluster\'s price list"')
    return text


def _not_ahead(text: str) -> str:
    # A day ahead is today's somewhere.
    if datetime.fromisoformat(text).date() > datetime.now(UTC).date() + timedelta(days=1):
        raise ValueError(f"{text!r} is yet to come; write the day on which the price was looked up")
    return text


class Price(Strict):
    """The price of an hour. currency: its three letters (ISO 4217). source: who lists it. date: of the price."""

    price: Annotated[float, Field(ge=0)]
    currency: Annotated[str, AfterValidator(_currency)]
    source: Annotated[Text, AfterValidator(_source)]
    date: Annotated[Date, AfterValidator(_not_ahead)]


class PriceFile(Strict):
    """A file of prices. gpu_hours: a GPU, by the name that CUDA reports or a short one -> its price. core_hour: CPU."""

    gpu_hours: dict[str, Price] = {}
    core_hour: Price | None = None


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices by the whole names of GPUs, and of an hour of a processor's core; see `load`."""

    gpus: dict[str, Price]
    core: Price | None = None

    def of_gpu(self, name: str) -> Price | None:
        """Return the price of a GPU, by the name that CUDA reports; None for one without a price."""
        return self.gpus.get(name)

    def why_none(self, name: str) -> str:
        """Return the sentence about a GPU without a price."""
        return f"no price of {name} is known (known: {', '.join(self.gpus) or 'none'}); {HOW_TO_GIVE}"


def load(own: Path | None = None) -> Prices:
    """Return the shipped prices, with those of a user's file in their places.

    own: the file; None reads the one that BENCH_COSTS names, if it does. Raises RecipeError with all problems of a
    damaged file, a line each.
    """
    own = own or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    layers = [read(shipped.folder("recipes") / FILE), *([read(own)] if own is not None else [])]
    gpus = {name: price for one in layers for name, price in one.gpus.items()}
    return Prices(gpus=gpus, core=next((one.core for one in reversed(layers) if one.core is not None), None))


def read(path: Path) -> Prices:
    """Return the prices of one file. Raises RecipeError with all its problems, a line each."""
    document = yaml_loader.read(path)
    layers = Layers()
    layers.lay(document.data, (), document)
    checked = validation.validate(PriceFile, document.data, layers, ())
    written, problems = dict[str, str](), list[str]()
    for name in checked.gpu_hours:
        try:
            whole = _whole_name(name)
        except SetupError as error:
            problems.append(f"{layers.place(('gpu_hours', name))}: {error}")
            continue
        if whole in written:
            problems.append(
                f"{layers.place(('gpu_hours', name))}: the same GPU as {written[whole]!r}, {whole}; leave one of them"
            )
        written[whole] = name
    if problems:
        raise RecipeError("\n".join(problems))
    return Prices(gpus={whole: checked.gpu_hours[name] for whole, name in written.items()}, core=checked.core_hour)


def _whole_name(name: str) -> str:
    """Return the name that CUDA reports; a name that is not in the table of devices is taken as it is.

    Raises SetupError for one that could be several devices, or that is empty.
    """
    if not name.strip():
        raise SetupError("a GPU's name is expected, as CUDA reports it")
    try:
        return hardware.named(name)[0]
    except SetupError as error:
        if "could be" in str(error):
            raise
        return name
