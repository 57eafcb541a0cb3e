"""Figures; the same input gives the same bytes.

Reading order: style, run (one run), study (many runs), label_curve, sections (the figure sections of the report of many
runs).
"""
