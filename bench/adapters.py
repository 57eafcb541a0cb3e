"""What methods on top of the PEFT library share: strict checking of its options, and wrapping a classifier."""

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import did_you_mean


def check_config(name: str, config: dict[str, Any]) -> None:
    """Raises ValueError for an unknown PEFT configuration class or a field that it does not have.

    PEFT's sources are read, not imported: importing it costs seconds, and `check` must answer at once.
    """
    classes = _config_classes()
    if name not in classes or not name.endswith("Config"):
        raise ValueError(f"peft has no configuration {name!r}.{did_you_mean(name, classes)}")
    fields = _fields(name)
    for key in config:
        if key not in fields:
            raise ValueError(f"{name} has no field {key!r}.{did_you_mean(key, fields)}")
    for key in ("task_type", "inference_mode", "base_model_name_or_path"):
        if key in config:
            raise ValueError(f"{key!r} is set by the harness")


def _fields(name: str) -> set[str]:
    """Fields of a PEFT configuration class and of its bases."""
    classes = _config_classes()
    bases, fields = classes.get(name, ((), frozenset()))
    return set(fields).union(*(_fields(base) for base in bases)) if bases else set(fields)


@cache
def _config_classes() -> dict[str, tuple[tuple[str, ...], frozenset[str]]]:
    """Configuration class -> (names of its bases, its own annotated fields)."""
    found: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {}
    for path in _config_files():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and "Config" in node.name:
                bases = tuple(base.id for base in node.bases if isinstance(base, ast.Name) and "Config" in base.id)
                fields = (item.target for item in node.body if isinstance(item, ast.AnnAssign))
                found[node.name] = (bases, frozenset(field.id for field in fields if isinstance(field, ast.Name)))
    return found


def _config_files() -> list[Path]:
    spec = importlib.util.find_spec("peft")
    if spec is None or not spec.submodule_search_locations:
        return []
    root = Path(spec.submodule_search_locations[0])
    return [root / "config.py", *sorted(root.glob("tuners/*/config.py"))]


def wrap(model: Any, name: str, config: dict[str, Any]) -> Any:
    """A PeftModel for sequence classification.

    Head modules, and modules that the checkpoint did not contain, are trained in full and saved with the adapter:
    PEFT by itself knows only heads called `classifier` or `score`, and would lose the others.
    """
    import peft

    from bench.heads import head_names, keep_in_float32
    from bench.model import newly_initialized_modules

    heads = head_names(model)
    fresh = sorted({*heads, *newly_initialized_modules(model)})
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    fields = _fields(name)
    if "modules_to_save" in fields:
        options["modules_to_save"] = sorted({*fresh, *options.get("modules_to_save", [])})
    if "target_modules" in fields and name == "LoraConfig":
        options.setdefault("target_modules", "all-linear")
    if "exclude_modules" in fields and options.get("target_modules") == "all-linear":
        # "all-linear" means the body's: a head is trained in full, not adapted.
        options.setdefault("exclude_modules", rf"(.*\.)?({'|'.join(fresh)})(\..*)?")
    for head in heads:
        keep_in_float32(getattr(model, head))
    settings = getattr(peft, name)(task_type="SEQ_CLS", **options)
    return peft.get_peft_model(model, settings)


def norms_to_float32(model: Any) -> None:
    """Freezes a quantised body and puts normalisation layers into float32.

    PEFT's `prepare_model_for_kbit_training` casts embeddings too, which costs 1.6 GB on a 256k vocabulary.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.dim() == 1 and "norm" in name.lower():
            parameter.data = parameter.data.float()
