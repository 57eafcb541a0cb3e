"""Options of PEFT's configuration classes, read from its sources without importing it: names, types, what is refused.

Importing PEFT costs seconds, and `check` must answer at once.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.config.validation import shortened
from bench.errors import did_you_mean

# Would run, and not be what its name says, or not run at all.
REFUSED = {
    "AdaLoraConfig": "its ranks are pruned by a call after every step, which neither engine makes",
    "PolyConfig": "its router needs the id of a task with every batch, which the harness does not give",
    "MultitaskPromptTuningConfig": "its prompts need the id of a task with every batch",
    "CPTConfig": "its loss weighs the tokens of a context of its own, and the harness computes the loss itself",
    "ShadowConfig": "its model adds a loss term of its own, and the harness computes the loss itself",
}
_SET_BY_THE_HARNESS = (
    "task_type",
    "inference_mode",
    "base_model_name_or_path",
    "peft_type",
    "peft_version",
    "auto_mapping",
    "revision",
)
# init_lora_weights -> why it can't be had.
_INITIALISATIONS = {
    "eva": "it needs a call with batches of the training data before training (initialize_lora_eva_weights), which the "
    "harness does not make: it would train as plain LoRA",
    "corda": "it needs a call with sample data before the model is wrapped (preprocess_corda), which the harness does "
    "not make",
    "lora_ga": "it needs gradients of the unwrapped model (preprocess_loraga), which the harness does not compute",
    "loftq": "it replaces the base model's weights by quantised ones, which are not saved with the adapter",
    "pissa_niter_": "its decomposition is drawn at random, and anew whenever the adapter is loaded, so that what is "
    "saved would be another model; 'pissa' decomposes exactly",
}
# Fields of whatever class -> why any value but the default is refused.
_FIELDS = {
    "kasa_config": "its loss term (LoraModel._get_kasa_loss) is not added to the loss",
    "monteclora_config": "its loss term (LoraModel._get_monteclora_loss) is not added to the loss",
    "use_asa": "its subspaces are chosen by a call after every step (update_and_allocate), which neither engine makes",
    "arrow_config": "it routes between adapters that were trained before, and a run has one adapter",
    "eva_config": "it is only used by init_lora_weights 'eva', which is not supported",
    "corda_config": "it is only used by init_lora_weights 'corda', which is not supported",
    "lora_ga_config": "it is only used by init_lora_weights 'lora_ga', which is not supported",
    "loftq_config": "it is only used by init_lora_weights 'loftq', which is not supported",
    "megatron_config": "it needs layers of Megatron",
    "use_qalora": "PEFT implements it for GPTQ only",
    "sample_at_inference": "predictions would be drawn at random, anew in every stage",
}
# Fields that are only used where another one is set: (class, or "" for any; field) -> the other field.
_BESIDE = {
    ("", "qalora_group_size"): "use_qalora",
    ("", "layers_pattern"): "layers_to_transform",
    ("", "tokenizer_kwargs"): "tokenizer_name_or_path",
    ("AdamssConfig", "svd_threshold"): "use_dynamic_rank",
    ("PrefixTuningConfig", "encoder_hidden_size"): "prefix_projection",
    ("SupertuningConfig", "lora_alpha"): "r",
    ("SupertuningConfig", "lora_dropout"): "r",
    **{
        ("AdamssConfig", key): "use_asa"
        for key in (
            "asa_target_subspaces",
            "init_warmup",
            "final_warmup",
            "mask_interval",
            "asa_importance_beta",
            "asa_uncertainty_beta",
            "asa_schedule_exponent",
        )
    },
}


@dataclass(frozen=True, kw_only=True)
class OptionField:
    """A field of a PEFT class: its annotation, and whether its default is None."""

    annotation: ast.expr
    optional: bool


@dataclass(frozen=True, kw_only=True)
class ConfigClass:
    """A PEFT configuration class: names of its bases, and its own fields."""

    bases: tuple[str, ...]
    fields: dict[str, OptionField]


@dataclass(frozen=True, kw_only=True)
class OptionProblem:
    """A wrong option. key: where it stands, below the method's options; sentence: what is wrong, without the key."""

    key: str
    sentence: str


def problems(name: str, config: dict[str, Any]) -> list[OptionProblem]:
    """Return what is wrong with a PEFT configuration class and its fields: unknown, refused, or of another type."""
    methods = [known for known in config_classes() if is_method(known)]
    if name not in methods:
        hint = did_you_mean(name, methods)
        return [OptionProblem(key="peft", sentence=f"peft has no configuration {name!r} of a method.{hint}")]
    if name in REFUSED:
        return [OptionProblem(key="peft", sentence=f"{name} is not supported: {REFUSED[name]}")]
    fields = fields_of(name)
    if "modules_to_save" not in fields:
        sentence = f"{name} is not supported: it can't train a task head (no field 'modules_to_save')"
        return [OptionProblem(key="peft", sentence=sentence)]
    found = []
    for key, value in config.items():
        if key not in fields:
            found.append((key, f"{name} has no field {key!r}.{did_you_mean(key, fields)}"))
        elif key in _SET_BY_THE_HARNESS:
            found.append((key, f"{key!r} is set by the harness"))
        else:
            refusal = _refusal(name, key, value, config)
            found += [(key, refusal)] if refusal else list(_type_problems(key, fields[key], value))
    if "num_virtual_tokens" in fields and config.get("num_virtual_tokens") is None:
        found.append(("num_virtual_tokens", f"{name} needs it, a whole number; it has no default"))
    return [OptionProblem(key=f"config.{key}", sentence=sentence) for key, sentence in found]


def _refusal(name: str, key: str, value: Any, config: dict[str, Any]) -> str | None:
    """Return why a value asks for what nothing here would do, or None."""
    if key == "init_lora_weights" and isinstance(value, str):
        for kind, why in _INITIALISATIONS.items():
            if value.lower() == kind or (kind.endswith("_") and value.lower().startswith(kind)):
                return f"{value!r} is not supported: {why}"
    if key in _FIELDS and value is not None and value is not False:
        return f"not supported: {_FIELDS[key]}"
    other = _BESIDE.get((name, key)) or _BESIDE.get(("", key))
    if other is not None and not config.get(other):
        return f"only used with {other}, which is not set"
    if key.endswith("dropout") and type(value) in (int, float) and not 0 <= value < 1:
        return f"expected a share of at least 0 and below 1, got {value}"
    return None


# ---------------------------------------------------------------- types

_PLAIN: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "dict": ((dict,), "a mapping"),
    "list": ((list, tuple), "a list"),
    "tuple": ((list, tuple), "a list"),
    "set": ((list, tuple), "a list"),
}


def _type_problems(key: str, field: OptionField, value: Any) -> Iterator[tuple[str, str]]:
    """Yield (key, sentence) for a value that is not of its field's type, or for parts of it."""
    inner = _inner_config(field.annotation)
    if value is None and field.optional:
        return
    if key.endswith("_pattern") and isinstance(value, dict) and "dict[" not in ast.unparse(field.annotation):
        yield from _pattern_problems(key, value)
    elif inner is not None and isinstance(value, dict):
        fields = fields_of(inner)
        for part, item in value.items():
            if part in fields:
                yield from _type_problems(f"{key}.{part}", fields[part], item)
            else:
                yield key, f"{inner} has no field {part!r}.{did_you_mean(str(part), fields)}"
    elif not _fits(field.annotation, value):
        yield key, f"expected {_expected(field.annotation)}, got {shortened(value)}"


def _pattern_problems(key: str, value: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a mapping of patterns of layers' names to ranks, alphas or sizes."""
    whole = key not in ("alpha_pattern", "lambda_pattern")
    kinds, expected = ((int,), "a positive whole number") if whole else ((int, float), "a positive number")
    for pattern, item in value.items():
        if not isinstance(pattern, str):
            yield key, f"expected a pattern of layers' names, got {shortened(pattern)}"
        elif type(item) not in kinds or item <= 0:
            yield key, f"expected {expected} for {pattern!r}, got {shortened(item)}"
        else:
            try:
                re.compile(pattern)
            except re.error as error:
                yield key, f"{pattern!r} is no regular expression: {error}"


def _inner_config(annotation: ast.expr) -> str | None:
    """Return the configuration class inside an annotation such as Optional[VeloraConfig]."""
    names = (node.id for node in ast.walk(annotation) if isinstance(node, ast.Name))
    return next((name for name in names if name in config_classes()), None)


def _fits(annotation: ast.expr, value: Any) -> bool:
    """Return whether a value of YAML is of an annotation's type: nothing is converted, but a whole number to a float.

    An enumeration is given by the text of its member, which PEFT itself looks up.
    """
    members = _members(annotation)
    if members is not None:
        return any(_fits(member, value) for member in members)
    if isinstance(annotation, ast.Constant):
        return value is None if annotation.value is None else _fits(_parsed(annotation), value)
    if isinstance(annotation, ast.Name):
        kinds = _PLAIN.get(annotation.id, ((str,), ""))[0]
        return annotation.id == "Any" or type(value) in kinds
    assert isinstance(annotation, ast.Subscript), ast.dump(annotation)
    outer, inner = ast.unparse(annotation.value), annotation.slice
    if outer == "Literal":
        return any(_is_literal(option, value) for option in _literals(inner))
    if not _fits(ast.Name(outer), value):
        return False
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if outer == "dict":
        return all(_fits(parts[0], key) and _fits(parts[1], item) for key, item in value.items())
    if outer == "tuple":
        return len(value) == len(parts) and all(_fits(part, item) for part, item in zip(parts, value, strict=True))
    return all(_fits(parts[0], item) for item in value)


def _expected(annotation: ast.expr) -> str:
    """Return an annotation in words."""
    members = _members(annotation)
    if members is not None:
        given = [member for member in members if not (isinstance(member, ast.Constant) and member.value is None)]
        return " or ".join(dict.fromkeys(_expected(member) for member in given))
    if isinstance(annotation, ast.Constant):
        return "nothing" if annotation.value is None else _expected(_parsed(annotation))
    if isinstance(annotation, ast.Name):
        return _PLAIN.get(annotation.id, ((), "a mapping" if annotation.id in config_classes() else "text"))[1]
    assert isinstance(annotation, ast.Subscript), ast.dump(annotation)
    outer, inner = ast.unparse(annotation.value), annotation.slice
    if outer == "Literal":
        return f"one of {', '.join(repr(option) for option in _literals(inner))}"
    words = [_expected(part) for part in (inner.elts if isinstance(inner, ast.Tuple) else [inner])]
    return f"{_PLAIN[outer][1]} of {' to '.join(words) if outer == 'dict' else words[0]}"


def _members(annotation: ast.expr) -> list[ast.expr] | None:
    """Return the members of a union, else None."""
    if isinstance(annotation, ast.BinOp):
        return [annotation.left, annotation.right]
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ("Union", "Optional"):
        parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return [*parts, *([ast.Constant(None)] if ast.unparse(annotation.value) == "Optional" else [])]
    return None


def _parsed(annotation: ast.Constant) -> ast.expr:
    return ast.parse(str(annotation.value), mode="eval").body


def _literals(inner: ast.expr) -> list[Any]:
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    return [part.value for part in parts if isinstance(part, ast.Constant)]


def _is_literal(option: Any, value: Any) -> bool:
    """Return whether a value is a literal, or of a literal's form, as in 'pissa_niter_[number of iters]'."""
    if isinstance(option, str) and "[" in option and isinstance(value, str):
        return re.fullmatch(re.escape(option.partition("[")[0]) + r"\d+", value) is not None
    return type(option) is type(value) and option == value


# ---------------------------------------------------------------- sources


def is_method(name: str) -> bool:
    """Return whether a class is the configuration of a method: not a part of another one, nor a common base."""
    bases = ("PeftConfig", "PromptLearningConfig", "LycorisConfig")
    return bool(config_classes()[name].bases) and name not in bases


def fields_of(name: str) -> dict[str, OptionField]:
    """Return the fields of a PEFT configuration class and of its bases; {} for an unknown class."""
    known = config_classes().get(name)
    if known is None:
        return {}
    fields: dict[str, OptionField] = {}
    for base in reversed(known.bases):
        fields |= fields_of(base)
    return fields | known.fields


@cache
def config_classes() -> dict[str, ConfigClass]:
    """Return PEFT's configuration classes by name."""
    classes: dict[str, ConfigClass] = {}
    for path in _config_files():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and "Config" in node.name:
                bases = tuple(base.id for base in node.bases if isinstance(base, ast.Name) and "Config" in base.id)
                items = (item for item in node.body if isinstance(item, ast.AnnAssign))
                fields = {item.target.id: _field(item) for item in items if isinstance(item.target, ast.Name)}
                classes[node.name] = ConfigClass(bases=bases, fields=fields)
    return classes


def _field(item: ast.AnnAssign) -> OptionField:
    value = item.value
    if isinstance(value, ast.Call):
        value = next((word.value for word in value.keywords if word.arg == "default"), None)
    return OptionField(annotation=item.annotation, optional=isinstance(value, ast.Constant) and value.value is None)


def _config_files() -> list[Path]:
    spec = importlib.util.find_spec("peft")
    if spec is None or not spec.submodule_search_locations:
        return []
    root = Path(spec.submodule_search_locations[0])
    # The common base of LoHa and LoKr stands beside its helpers.
    return [root / "config.py", root / "tuners" / "lycoris_utils.py", *sorted(root.glob("tuners/*/config.py"))]
