"""Training engines with the same batches, seeds and losses.

Reading order: loop (plain), trainer (transformers), sft (TRL).
"""
