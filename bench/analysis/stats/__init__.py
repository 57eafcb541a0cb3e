"""Formulas, each with its source. Reading order: tables (statistics of examples; sparse of many labels), intervals
(Wilson, bootstrap), chrf, correlations (of numbers), entity_counts (of tags), sums (scores from sums over examples),
paired (tests on the same examples), seed_variance (seeds and examples), multiple (Holm, equivalence, tiers), resampled
(folds), power_law (label curves).
"""
