"""Reads results of PEFT's method comparison (github.com/huggingface/peft, method_comparison/MetaMathQA/results).

Each file holds one seed of one method. Its accuracy is a share of GSM8K's 1,319 test questions, which the file does not
count: a value that is no multiple of 1/1319 is refused. Memory is of the whole run, its generation for validation too.
"""

import math
from pathlib import Path
from typing import Any

from bench.analysis.stats import intervals
from bench.analysis.verify import WILSON
from bench.errors import DataError
from bench.exchange import foreign
from bench.records.record import Comparability, Data, Environment, Model, PhaseTime, Record, Score, SplitPart
from bench.utils.hardware import GIB

TOOL = "PEFT's method comparison"
TEST_QUESTIONS = 1319
# What torch had reserved at most, by the names of newer and older versions.
RESERVED = ("accelerator_memory_max", "cuda_memory_max")


def of_content(path: Path, content: Any) -> Record:
    """Return the record of one file's content. Raises DataError for another kind, and for a run that failed."""
    try:
        info, trained, meta = (content[part] for part in ("run_info", "train_info", "meta_info"))
        config, adapter = info["train_config"], info["peft_config"]
        if trained["status"] != "success":
            raise DataError(f"{path}: this run ended with status {trained['status']!r}")
        tested = [row["test accuracy"] for row in trained["metrics"] if "test accuracy" in row]
        if not tested:
            raise DataError(f"{path}: no result of {TOOL}: it has no 'test accuracy'")
        accuracy = float(tested[-1])
        record = _record(path, info, config, adapter)
        record.environment = _environment(meta)
        record.model = Model(
            id=config["model_id"],
            revision=meta["model_info"]["sha"],
            weights="pretrained",
            class_="unknown",
            attention=config.get("attn_implementation"),
            parameters={"total": trained["num_total_params"], "trainable": trained["num_trainable_params"]},
            dtypes={},
        )
        record.data = _data(meta)
        record.phases = [PhaseTime(name="train", seconds=_positive(path, "train_time", trained["train_time"]))]
        record.memory = {"whole_run": _memory(path, trained)}
        shas = {name: one["sha"] for name, one in meta["dataset_info"].items()}
    except foreign.ODD as error:
        raise DataError(f"{path}: no result of {TOOL}: {foreign.said(error)}") from error
    record.scores = {"after": {"test": {"accuracy": _score(path, accuracy)}}}
    parts = {"data": foreign.digest(shas), "template": None, "metrics": foreign.digest("accuracy"), "generation": None}
    record.comparability = Comparability(key=foreign.digest(parts), parts=parts)
    record.note("one seed, and no predictions of examples: no paired test of this result is possible")
    return record


def _record(path: Path, info: dict[str, Any], config: dict[str, Any], adapter: dict[str, Any] | None) -> Record:
    method = adapter["peft_type"].lower() if adapter else "full"
    settings = {
        "training": {
            "learning_rate": config["optimizer_kwargs"].get("lr"),
            "steps": config["max_steps"],
            "global_batch": config["batch_size"],
            "optimizer": config["optimizer_type"],
            "schedule": config["lr_scheduler"],
        },
        "train_config": {key: value for key, value in config.items() if key != "seed"},
        "method": {"name": method, "config": adapter or {}},
    }
    return foreign.begun(
        tool=TOOL,
        file=path,
        name=info["experiment_name"],
        method=method,
        seed=config["seed"],
        at=info["created_at"],
        settings=settings,
    )


def _environment(meta: dict[str, Any]) -> Environment:
    packages = {
        key.removesuffix("-version"): str(value)
        for key, value in meta["package_info"].items()
        if key.endswith("-version")
    }
    system = meta["system_info"]
    return Environment(
        python="unknown", platform=f"{system['system']} {system['release']}", packages=packages, devices=[system["gpu"]]
    )


def _data(meta: dict[str, Any]) -> Data:
    part = SplitPart(
        examples=TEST_QUESTIONS,
        fingerprint=meta["dataset_info"]["gsm8k"]["sha"][:16],
        labels={},
        tokens={},
        truncated=0,
    )
    return Data(id="GSM8K (trained on MetaMathQA)", splits={"test": part})


def _memory(path: Path, trained: dict[str, Any]) -> dict[str, Any]:
    name = next((name for name in RESERVED if trained.get(name) is not None), None)
    return {"reserved_gib": None if name is None else _positive(path, name, trained[name]) / GIB}


def _positive(path: Path, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise DataError(f"{path}: its {name} is {value!r:.60}, expected a number from 0 on")
    return float(value)


def _score(path: Path, accuracy: float) -> Score:
    right = round(accuracy * TEST_QUESTIONS) if 0 <= accuracy <= 1 else -1
    if abs(right / TEST_QUESTIONS - accuracy) > 1e-9 or right < 0:
        raise DataError(
            f"{path}: its accuracy of {accuracy} is no share of GSM8K's {TEST_QUESTIONS:,} test questions, so that it "
            "is not known of how many examples it is"
        )
    low, high = intervals.wilson(float(right), float(TEST_QUESTIONS))
    return Score(
        value=accuracy,
        low=float(low),
        high=float(high),
        interval=WILSON,
        examples=TEST_QUESTIONS,
        signature="accuracy|gsm8k|peft method_comparison",
        higher_is_better=True,
    )
