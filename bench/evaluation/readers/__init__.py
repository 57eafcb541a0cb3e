"""Readers: how a model answers one example.

Reading order: head, likelihood, generation, entailment, span; base and check
for the comparison with the plain path.
"""
