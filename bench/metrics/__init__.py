"""Metrics, one file each, usable with `evaluate.load(path)` as well. What they share is in _base."""
