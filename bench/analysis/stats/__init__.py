"""Formulas, each with its source. Reading order: tables (statistics of examples; sparse of many labels), intervals
(Wilson, bootstrap), chrf, weighted (values that each draw ranks or bins anew), correlations (of numbers),
probabilities (calibration error, areas under curves), entity_counts (of tags), sums (scores from sums over
examples), running_text (perplexity), paired (tests on the same examples), seed_variance (seeds and examples),
multiple (Holm, equivalence, tiers), resampled (folds), power_law (label curves).
"""
