"""Runs a split through a model and scores it.

Reading order: scoring (every example exactly once), reader (the contract), readers/ (one for each way to answer),
input_check (tokens and positions beyond the model's), self_check (a fast path against the plain one, by examples),
head_forward (padded batches for a task head), metric_set (scores with intervals), lm_eval_metric, baselines,
choice_baselines, exhibits (collapsed models), starting_points (untrained parts, scores at chance), ceilings (scores of
right answers), text_examples (rows -> prompts and readers), reference_examples (the same for texts to write),
lm_eval_examples, likelihood, continuation_tree, generation, engines/ (vLLM in their
place), spans, new_rows, new_texts and saved_model (what is
predicted, and by what), predict_written, predict_until, predict, export, export_loaders and export_page (a folder for
other programs), lm_eval_model (the scorer for lm-evaluation-harness).
"""
