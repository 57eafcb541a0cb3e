"""Regression gate: runs held to a committed baseline. Reading order: measured, criteria, runs, timing."""
