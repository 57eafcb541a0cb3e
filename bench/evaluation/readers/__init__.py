"""Readers: how a model answers one example.

Reading order: head, number, tags, likelihood, choices, choice_head, generation, entailment, span; base and check.
for the comparison with the plain path.
"""
