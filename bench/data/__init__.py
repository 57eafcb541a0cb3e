"""Sources -> clean rows -> splits -> encoded examples and batches.

Reading order: dataset (card -> corpus), sources, rows, cleaning, splits, leakage, squad, tokenizer, examples, batching,
windows, token_cache; prompts/ for language models, builtin/ for the offline corpora.
"""
