"""A benchmark harness for fine-tuning language models: one recipe, one launch, one record."""

__version__ = "0.1.0"
