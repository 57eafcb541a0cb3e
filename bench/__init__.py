"""A benchmark harness for fine-tuning language models: one recipe, one launch, one record.

    import bench

    record = bench.run_recipe("tiny/bert-full", training__steps=20)  # a path, a name or a mapping -> the record
    frame = bench.load_records("runs")                               # a pandas table: a row a score

Both are in `bench/api.py`, which is loaded when one of them is first asked for.
"""

__version__ = "0.1.0"
__all__ = ["load_records", "run_recipe"]


def __getattr__(name: str) -> object:
    """Return what is loaded only when it is asked for (PEP 562)."""
    if name in __all__:
        from bench import api

        return getattr(api, name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names that the package offers."""
    return sorted([*globals(), *__all__])
