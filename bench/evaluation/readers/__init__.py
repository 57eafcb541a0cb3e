"""Readers: how a model answers one example.

Reading order: head, likelihood, generation, reference, entailment, span; base and check
for the comparison with the plain path.
"""
