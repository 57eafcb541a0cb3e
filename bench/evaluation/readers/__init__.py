"""Readers: how a model answers one example.

Reading order: head, number, tags, likelihood, choices, choice_head, generator (what the next three share), generation,
until, reference, perplexity (of running text), entailment, span, tfidf (without a model); base and check for the
comparison with the plain path.
"""
