"""One run: the order of stages, the record filled in, and every way to end.

Reading order: lifecycle (entry), context, stages, stage_scores, text_classifier (the stages without a model), inputs,
selected_on_test, sharded_scoring, backend (vLLM), results, retention, temperature, warnings_of_scores,
warnings_of_model, weighed_loss, validation, training_progress, model_checks, run_folder, resume, resumed_prompts,
completion, unsaved, sharded_load, memory_prediction, batch_size, trial_worker, out_of_memory, energy_of_run,
launch_record, started_by, published_settings, comparability.
"""
