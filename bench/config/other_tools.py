"""Names of settings in other tools (transformers, TRL, PEFT, Axolotl, LLaMA-Factory), and where they stand here."""

from bench.errors import did_you_mean, nearest

_ELSEWHERE = {
    "by the accelerate config, `mixed_precision`": ("bf16", "fp16", "tf32", "mixed_precision", "use_amp"),
    "by the accelerate config, which says how a run is parallelised": (
        "deepspeed", "fsdp", "fsdp_config", "num_gpus", "num_processes", "ddp_find_unused_parameters", "zero_stage",
    ),
    "by `--out` on the command line": ("output_dir", "output", "out_dir", "logging_dir", "run_name"),
    "by nothing: it follows from `training.global_batch` and the number of processes": (
        "gradient_accumulation_steps", "accumulation_steps", "grad_accum", "gradient_accumulation",
    ),
    "by method `qlora`, `method: {name: qlora}`": ("load_in_4bit", "use_4bit", "quantization", "quantize", "use_qlora"),
    "by method `lora`, `method: {name: lora}`": ("use_lora", "use_peft", "peft_config", "adapter"),
}  # fmt: skip
_HERE = {
    "training.learning_rate": ("lr", "learning_rate", "peak_lr", "base_lr", "max_lr"),
    "training.global_batch": (
        "batch_size", "train_batch_size", "global_batch_size", "total_batch_size", "effective_batch_size", "bs",
    ),
    "training.per_device_batch": ("per_device_train_batch_size", "micro_batch_size", "per_gpu_batch_size"),
    "evaluation.batch_tokens": ("per_device_eval_batch_size", "eval_batch_size"),
    "training.epochs": ("num_epochs", "num_train_epochs", "n_epochs", "epoch", "max_epochs", "epochs"),
    "training.steps": ("max_steps", "num_steps", "train_steps", "num_train_steps", "total_steps", "steps"),
    "training.warmup": ("warmup_ratio", "warmup_steps", "num_warmup_steps", "warmup"),
    "training.schedule": ("lr_scheduler_type", "lr_scheduler", "scheduler", "lr_schedule", "schedule"),
    "training.optimizer": ("optim", "optimizer"),
    "training.weight_decay": ("wd", "weight_decay"),
    "training.clip_norm": ("max_grad_norm", "grad_clip", "gradient_clipping", "clip_grad_norm", "clip_norm"),
    "training.label_smoothing": ("label_smoothing_factor", "label_smoothing"),
    "training.gradient_checkpointing": ("gradient_checkpointing", "activation_checkpointing"),
    "training.log_every": ("logging_steps", "log_steps", "log_every_n_steps"),
    "training.evaluate_every": ("eval_steps", "eval_strategy", "evaluation_strategy", "eval_every"),
    "training.best": ("metric_for_best_model", "load_best_model_at_end", "best_metric"),
    "training.early_stopping.patience": ("early_stopping_patience",),
    "training.engine": ("trainer", "engine"),
    "checkpoints.every_steps": ("save_steps", "save_strategy", "checkpointing_steps"),
    "checkpoints.keep": ("save_total_limit",),
    "max_length": ("max_seq_length", "max_seq_len", "cutoff_len", "sequence_len", "block_size", "model_max_length"),
    "limit": ("max_train_samples", "max_eval_samples", "max_samples", "num_samples", "val_set_size", "subset"),
    "model": ("model_name_or_path", "model_name", "base_model", "model_id", "model_path", "pretrained_model"),
    "model.tokenizer.id": ("tokenizer_name", "tokenizer_name_or_path"),
    "model.dtype": ("torch_dtype", "model_dtype"),
    "model.attention": ("attn_implementation", "flash_attention", "use_flash_attention_2", "flash_attn"),
    "model.trust_remote_code": ("trust_remote_code",),
    "dataset": ("dataset_name", "dataset_path", "dataset_name_or_path", "data", "data_path", "train_file", "task_name"),
    "dataset.source.config": ("dataset_config", "dataset_config_name"),
    "dataset.columns.text": ("text_column", "text_field", "dataset_text_field", "text_column_name"),
    "dataset.columns.label": ("label_column", "label_column_name"),
    "method": ("finetuning_type", "peft_method", "peft_type", "tuning_method"),
    "method.config.r": ("lora_r", "lora_rank", "rank", "r"),
    "method.config.lora_alpha": ("lora_alpha", "alpha"),
    "method.config.lora_dropout": ("lora_dropout",),
    "method.config.target_modules": ("lora_target_modules", "target_modules", "lora_target"),
    "method.config.use_dora": ("use_dora",),
    "method.config.use_rslora": ("use_rslora",),
    "method.config.bias": ("lora_bias",),
    "method.quant_type": ("bnb_4bit_quant_type",),
    "method.compute_dtype": ("bnb_4bit_compute_dtype",),
    "method.double_quant": ("bnb_4bit_use_double_quant", "double_quantization"),
    "method.shots": ("num_fewshot", "n_shots", "num_shots", "fewshot"),
    "prompting.max_new_tokens": ("max_new_tokens", "max_tokens"),
    "evaluation.metrics": ("metrics", "metric"),
    "evaluation.splits": ("eval_split", "test_split", "eval_splits"),
    "evaluation.validation": ("validation_split", "val_split"),
    "trackers": ("report_to", "wandb", "logger"),
    "seed": ("random_seed", "random_state", "data_seed"),
    "save": ("save_model", "push_to_hub"),
}  # fmt: skip
_PLACES = {name: f"`{place}`" for place, names in _HERE.items() for name in names}
_MEANS = {name: means for means, names in _ELSEWHERE.items() for name in names}


def hint(key: str, inside: str, fields: list[str]) -> str:
    """Return ' Here it is `training.learning_rate`.' for another tool's name of a setting, else `did_you_mean`.

    inside: dotted key of the mapping that has the name. fields: what that mapping has; where a near one is also
    what the other tool's name stands for, it is a misspelling.
    """
    name, near = key.lower().replace("-", "_"), did_you_mean(key, fields)
    nearest_field = nearest(key, fields)
    place = _PLACES.get(name, "")
    if place and place != f"`{'.'.join(filter(None, (inside, nearest_field or '')))}`":
        return f" Here it is {place}."
    return f" Here it is set {_MEANS[name]}." if name in _MEANS else near


def hints() -> dict[str, str]:
    """Return another tool's name -> where it stands here, in backquotes."""
    return dict(_PLACES)
