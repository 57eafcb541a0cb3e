"""Metrics, one file each, usable with `evaluate.load(path)` as well."""
