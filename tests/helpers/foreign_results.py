"""Results as other tools write them."""


def peft_result(name, accuracy, status="success"):
    """A file of PEFT's method comparison, with what is read of it."""
    config = {
        "model_id": "meta-llama/Llama-3.2-3B", "seed": 0, "max_steps": 5000, "batch_size": 4, "optimizer_type": "AdamW",
        "optimizer_kwargs": {"lr": 1e-4}, "lr_scheduler": "cosine",
    }  # fmt: skip
    return {
        "run_info": {
            "created_at": "2025-06-19T19:15:35+00:00", "experiment_name": name, "train_config": config,
            "peft_config": {"peft_type": "LORA", "r": 32}, "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_max": 22 * 2**30, "train_time": 1796.0, "num_trainable_params": 9175040,
            "num_total_params": 3221924864, "status": status,
            "metrics": [{"step": 250, "valid accuracy": 0.3}, {"step": 5000, "test accuracy": accuracy}],
        },
        "meta_info": {
            "model_info": {"sha": "13af"}, "package_info": {"peft-version": "0.15", "peft-commit-hash": "5f"},
            "dataset_info": {"metamath": {"sha": "aa"}, "gsm8k": {"sha": "e5"}},
            "system_info": {"system": "Linux", "release": "6.8", "gpu": "NVIDIA L40S"},
        },
    }  # fmt: skip
