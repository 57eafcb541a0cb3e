"""Regression gate: runs held to a committed baseline. Reading order: criteria, runs, timing."""
