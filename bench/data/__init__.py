"""Sources -> clean rows -> splits -> encoded examples and batches.

Reading order: dataset (card -> corpus), other_sources, sources, files, labels, label_names, class_names, label_sets,
chat_layouts, rows, cleaning, splits, leakage, squad, tokenizer, examples, batching, windows, token_cache; targets/ for
gold values, prompts/ for language models, builtin/ for the offline corpora.
"""
