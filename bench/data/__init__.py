"""Sources -> clean rows -> splits -> encoded examples and batches.

Reading order: dataset (card -> corpus), other_sources, card_from_source (file, folder or Hub id -> card), split_files,
hub_data, columns, column_roles, sources, files, lm_eval_tasks, lm_eval_rows, card_from_lm_eval, conll, labels,
label_names, class_names, label_sets, chat_layouts, tagging, rows, cleaning, splits, data_part, leakage, squad,
tokenizer, examples, batching, windows, word_windows, lost_texts, token_cache; targets/ for gold values, prompts/ for
language models, builtin/ for the offline corpora.
"""
