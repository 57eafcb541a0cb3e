"""Prompts of language models. Reading order: template (text), few_shot (solved examples), encode (tokens),
shared_affixes (encodes what many prompts share once).
"""
