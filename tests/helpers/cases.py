"""Few cases in place of a full product: one that goes through cheap values, and pairs that cover two lists."""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable
from typing import Any


def together(name: str, values: Iterable[Any]) -> Callable[..., Any]:
    """Decorate a test to run for each of the values of one argument, as one case; a failure notes which value it was.

    For values that are cheap to go through, and many. Fixtures are the same for all of them.
    """
    kept = list(values)
    assert kept, f"there is no value of {name}"

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)
        names = [name] if name in signature.parameters else [word.strip() for word in name.split(",")]

        @functools.wraps(test)
        def for_each(**arguments: Any) -> None:
            for value in kept:
                given = {name: value} if len(names) == 1 else dict(zip(names, value, strict=True))
                try:
                    test(**arguments, **given)
                except BaseException as error:
                    error.add_note(f"{name} = {value!r}"[:1000])
                    raise

        parameters = [item for key, item in signature.parameters.items() if key not in names]
        for_each.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return for_each

    return decorate


def cover(rows: Iterable[Any], columns: Iterable[Any], whole: Iterable[Any] = ()) -> list[tuple[Any, Any]]:
    """Pairs that hold every row and every column: all columns for the rows in `whole`, one in turn for each other.

    For two lists that do not depend on one another but for some rows that stand for a kind, e.g. families of models.
    Where rows in turn would leave out a column, it goes with the first row.
    """
    rows, columns, whole = list(rows), list(columns), list(whole)
    assert set(whole) <= set(rows), f"{set(whole) - set(rows)} are no rows"
    pairs = [(row, column) for row in rows if row in whole for column in columns]
    pairs += list(zip((row for row in rows if row not in whole), itertools.cycle(columns), strict=False))
    seen = {column for _, column in pairs}
    return pairs + [(rows[0], column) for column in columns if column not in seen]
