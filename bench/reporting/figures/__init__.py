"""Figures; the same input gives the same bytes.

Reading order: style, run and reliability (one run), study (many runs), label_curve, charts (their numbers), sections
(the figure sections of the report of many runs).
"""
