"""Formulas, each with its source. Reading order: intervals (Wilson, bootstrap), sums (scores from sums over examples),
paired (tests on the same examples), seed_variance (seeds and examples), multiple (Holm, equivalence, tiers).
"""
