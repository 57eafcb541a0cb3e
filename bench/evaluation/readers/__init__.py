"""Readers: how a model answers one example.

Reading order: head, number, tags, likelihood, generation, entailment, span; base and check
for the comparison with the plain path.
"""
