"""Sources -> clean rows -> splits -> encoded examples and batches.

Reading order: dataset (card -> corpus), card_from_source (file, folder or Hub id -> card), split_files, hub_data,
columns, column_roles, sources, files, labels, label_names, class_names, label_sets, rows, cleaning, splits, leakage,
squad, tokenizer, examples, batching, windows, token_cache; prompts/ for language models, builtin/ for the offline
corpora.
"""
