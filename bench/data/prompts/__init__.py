"""Prompts of language models. Reading order: chat_frame (chat templates), template (text), few_shot (shots),
encode (tokens), conversation (turns, and answers that are free), shared_affixes (encodes the common parts of many
prompts once).
"""
