"""Readers: how a model answers one example.

Reading order: head, likelihood, choices, choice_head, generation, until, entailment, span; base and check
for the comparison with the plain path.
"""
