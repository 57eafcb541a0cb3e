"""Saving a trained model so that plain transformers and peft load it, and loading it again for prediction."""

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from bench.config import foreign_code, registry
from bench.config.cards import ModelCard
from bench.config.recipe import Head
from bench.errors import DataError, SetupError
from bench.models import adapters, attention_bias, heads, own_heads, own_writers, text_part, tfidf
from bench.models.build import GENERATIVE_CLASSES, locate, task_settings
from bench.models.kernels import fused
from bench.models.library_internals import transformers_internals
from bench.utils import files
from bench.utils.loading_errors import reason, shown

DESCRIPTION = "bench.json"
PROBE = "probe.safetensors"
ADAPTER = "adapter_model.safetensors"
# Plain transformers and peft would put a random head of their own in the place of our MLP, and only warn of it. Under
# a type that they do not know they refuse, and name it.
MLP_TYPE = "_with_bench_mlp_head"
TYPES = {"config.json": "model_type", "adapter_config.json": "peft_type"}


def save(
    model: Any, tokenizer: Any, folder: Path, description: dict[str, Any], *, bytes_per_file: int | None = None
) -> None:
    """Write model or adapter, tokenizer and `bench.json` (labels, task, objective, head ...) into a folder.

    bytes_per_file: of weights; by default transformers' own.
    """
    limit = {} if bytes_per_file is None else {"max_shard_size": bytes_per_file}
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, tfidf.TfidfModel):
        tfidf.save(model, folder)
    elif isinstance(model, heads.ProbeModel):
        model.base.save_pretrained(folder)
        weights = {name: tensor.detach().cpu() for name, tensor in model.linear.state_dict().items()}
        save_file(weights, folder / PROBE)
    else:
        model.save_pretrained(folder, **({} if hasattr(model, "peft_config") else limit))
        where = getattr(heads.unwrapped(model), text_part.PLACE, "")
        if where and (folder / ADAPTER).is_file():
            text_part.rename_adapter(folder, where)
        elif own_writers.is_made(model):
            complete(model, folder, description)
        if description["head"]["kind"] == "mlp":
            _mark_types(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    files.write_text(folder / DESCRIPTION, json.dumps(description, indent=1, ensure_ascii=False) + "\n")
    _use_one_mode(folder)


def complete(model: Any, folder: Path, description: dict[str, Any]) -> None:
    """Make of a saved text part that no class of transformers loads the whole model of its checkpoint, in place."""
    card = ModelCard.model_validate(description["model_card"], strict=False)
    own_writers.complete(model, folder, str(locate(card)), card.revision)


def _use_one_mode(folder: Path) -> None:
    """Give every file the mode of the description: safetensors writes its own for their owner alone."""
    mode = (folder / DESCRIPTION).stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def _mark_types(folder: Path) -> None:
    for name, key in TYPES.items():
        if (folder / name).is_file():
            config = _read(folder / name)
            config[key] += MLP_TYPE
            files.write_text(folder / name, json.dumps(config, indent=2) + "\n")


def _unmarked(path: Path) -> dict[str, Any]:
    config = _read(path)
    key = TYPES[path.name]
    return {**config, key: config[key].removesuffix(MLP_TYPE)}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(files.read_text(path))


def describe(folder: Path) -> dict[str, Any]:
    """Return what `save` wrote about the model. Raises DataError when the folder holds no saved model."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise DataError(f"{folder} holds no saved model; the recipe needs `save: true`")
    return _read(path)


def load(folder: Path, device: torch.device | None = None) -> tuple[Any, Any, dict[str, Any]]:
    """Return (model in evaluation mode, tokenizer, description) from what `save` wrote. device: default, the CPU.

    Raises DataError or SetupError for what is missing in the folder, or for a base model that can't be had.
    """
    description = describe(folder)
    if description.get("method") == tfidf.METHOD:
        return _load_tfidf(folder, description).eval(), None, description
    fused.install()
    tokenizer = load_tokenizer(folder)
    if description["pooling"] is not None:
        model = _load_probe(folder, description)
    elif (folder / "adapter_config.json").is_file():
        model = _load_adapter(folder, description, device or torch.device("cpu"))
    else:
        model = _load_whole(folder, description)
    if device is not None:
        model = model.to(device)
    return model.eval(), tokenizer, description


def _load_tfidf(folder: Path, description: dict[str, Any]) -> tfidf.TfidfModel:
    labels, multi_label = description["labels"], description["multi_label"]
    return tfidf.load(folder, num_labels=len(labels), multi_label=multi_label)


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a saved model's folder."""
    import transformers

    # AutoTokenizer takes a Qwen2 model's tokenizer for a Qwen2Tokenizer, whatever its own file says.
    kind = getattr(transformers, _read(folder / "tokenizer_config.json").get("tokenizer_class") or "", None)
    return (kind or transformers.AutoTokenizer).from_pretrained(folder, trust_remote_code=False)


def _is_text(description: dict[str, Any]) -> bool:
    return description.get("objective", "head") == "text"


def auto_class(description: dict[str, Any]) -> Any:
    """Return the class of transformers that loads a model of this description."""
    import transformers

    if _is_text(description):
        return getattr(transformers, GENERATIVE_CLASSES[description["model_card"]["family"]])
    return getattr(transformers, registry.load("tasks", description["task"]).AUTO_CLASS)


def _load_probe(folder: Path, description: dict[str, Any]) -> Any:
    import transformers

    attention = description["model_card"]["attention"]
    base, loading = transformers.AutoModel.from_pretrained(
        folder,
        use_safetensors=True,
        attn_implementation=attention,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told as missing
    )
    _check_loaded(loading, folder, but=("pooler",))  # which a probe does not read, and the run may not have had
    model = heads.ProbeModel(base, description["pooling"], len(description["labels"]))
    model.linear.load_state_dict(load_file(folder / PROBE))
    return model


def _load_whole(folder: Path, description: dict[str, Any]) -> Any:
    import transformers

    content = _unmarked(folder / "config.json")
    config = type(transformers.AutoConfig.for_model(content["model_type"])).from_dict(content)
    family = auto_class(description)
    config = text_part.of(config, family.__name__)
    own_heads.register(family.__name__, config)
    wrapped = text_part.is_wrapped(content)
    try:
        model, loading = family.from_pretrained(
            folder,
            output_loading_info=True,
            key_mapping=text_part.checkpoint_names(content, config, family.__name__) if wrapped else None,
            ignore_mismatched_sizes=True,  # told as missing
            config=config,
            use_safetensors=True,
            attn_implementation=description["model_card"]["attention"],
            trust_remote_code=False,
        )
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise DataError(f"the saved model {shown(str(folder))!r} can't be loaded: {reason(error)}") from error
    own_heads.name_body(model)
    attention_bias.apply(model)
    if wrapped:
        transformers_internals.keep_names(model)
    if own_writers.is_made(model):
        config.pad_token_id = description["pad_token_id"]
        others = {name for name in loading["unexpected_keys"] if own_writers.is_of_another_part(name, model)}
        loading["unexpected_keys"] = set(loading["unexpected_keys"]) - others
    head = Head.model_validate(description["head"])
    _check_loaded(loading, folder, but=heads.head_names(model) if head.kind == "mlp" else ())
    if head.kind == "mlp":
        heads.attach_mlp(model, head.hidden, head.dropout, norm=head.norm)
    _restore(model, folder)
    return model


def _check_loaded(loading: dict[str, Any], folder: Path, but: Sequence[str] = ()) -> None:
    """Raise DataError where transformers put random weights, or dropped some. but: modules that are put back apart."""
    missing = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    _check_keys(folder, missing, loading["unexpected_keys"], tuple(f"{name}." for name in but))


def _check_keys(folder: Path, missing: Iterable[str], unexpected: Iterable[str], restored: tuple[str, ...]) -> None:
    """Raise DataError for weights that a saved model lacks, which would be random, or that nothing would use.

    restored: beginnings of names that are put back by themselves.
    """
    for keys, what in ((missing, "lacks weights"), (unexpected, "holds weights that its model has no place for")):
        wrong = sorted(key for key in keys if not key.startswith(restored or ("\0",)))
        if wrong:
            raise DataError(
                f"{folder} {what}: {len(wrong)}, e.g. {wrong[0]}; the config is of another model, or files are missing"
            )


def _restore(model: Any, folder: Path) -> None:
    """Put back what plain loading loses: an MLP head's weights, and the float32 of a head on a 16-bit body."""
    parameters = dict(model.named_parameters())
    narrow = {name for name, parameter in parameters.items() if parameter.dtype.itemsize < 4}
    own = tuple(f"{name}." for name in heads.head_names(model))
    wanted = {name for name in parameters if name.startswith(own)}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (no mapping)
                widened = name in narrow and weights.get_slice(name).get_dtype() == "F32"
                if widened:
                    heads.keep_in_float32(model.get_submodule(name.rpartition(".")[0]))
                if widened or name in wanted:
                    parameters[name].data.copy_(weights.get_tensor(name))
                    wanted.discard(name)
    if wanted:
        raise DataError(f"{folder} lacks weights of the head, e.g. {min(wanted)}")


def base_of(description: dict[str, Any]) -> str:
    """Return the Hub id of an adapter's base model, or its folder's full path."""
    place = str(locate(ModelCard.model_validate(description["model_card"], strict=False)))
    return str(Path(place).resolve()) if Path(place).is_dir() else place


def load_unquantized(folder: Path) -> Any:
    """Return an adapter that was trained on a 4-bit base model, on that model in its own type, on the CPU."""
    description = {**describe(folder), "quantization": None, "unquantized": []}
    return _load_adapter(folder, description, torch.device("cpu")).eval()


def _load_base(folder: Path, description: dict[str, Any], device: torch.device) -> Any:
    """Return the model that an adapter in a folder was made for, in 4 bits where it was. Raises SetupError."""
    import transformers

    card = ModelCard.model_validate(description["model_card"], strict=False)
    trusted = foreign_code.trusts(card)
    beside = (folder / "base").is_dir()
    base = str(folder / "base") if beside else str(locate(card))
    extra: dict[str, Any] = {} if description["quantization"] is None else {"device_map": {"": device}}
    if extra and not beside:  # what lies beside the adapter is in 4 bits already
        settings = {**description["quantization"], "llm_int8_skip_modules": description["unquantized"]}
        extra["quantization_config"] = transformers.BitsAndBytesConfig(**settings)
    outputs = description.get("outputs") or description["labels"]
    family = auto_class(description)
    task = {} if _is_text(description) else task_settings(outputs, description["multi_label"], family.__name__)
    try:
        origin = {"revision": card.revision, "trust_remote_code": trusted}
        config = text_part.of(transformers.AutoConfig.from_pretrained(base, **origin, **task), family.__name__)
        config.pad_token_id = description["pad_token_id"]
        own_heads.register(family.__name__, config)
        own = transformers.PreTrainedConfig.get_config_dict(base, revision=card.revision)[0]
        model = family.from_pretrained(
            base,
            config=config,
            key_mapping=text_part.checkpoint_names(own, config, family.__name__) or None,
            **origin,
            use_safetensors=True,
            attn_implementation=card.attention,
            dtype=getattr(torch, card.dtype),
            ignore_mismatched_sizes=True,
            **extra,
        )
    except (OSError, ValueError) as error:
        raise SetupError(f"the base model {shown(base)!r} can't be loaded: {reason(error, base)}") from error
    own_heads.name_body(model)
    transformers_internals.keep_names(model)
    setattr(model, text_part.PLACE, text_part.place(own, family.__name__))
    return model


def _load_adapter(folder: Path, description: dict[str, Any], device: torch.device) -> Any:
    import peft

    model = _load_base(folder, description, device)
    head = Head.model_validate(description["head"])
    if head.kind == "mlp":
        heads.attach_mlp(model, head.hidden, head.dropout, norm=head.norm)
    if getattr(model, "is_quantized", False):
        adapters.prepare_quantized(model)
    # A language model's output head is not trained, and has the base model's own type.
    for name in set(description["unquantized"]) - set(heads.output_head_names(model)):
        heads.keep_in_float32(model.get_submodule(name))
    settings = _unmarked(folder / "adapter_config.json")
    where = getattr(model, text_part.PLACE)
    renamed = text_part.adapter_key_mapping(where) if where else None
    if where:
        settings = text_part.own_adapter_config(settings, where)
    config = peft.PeftConfig.from_peft_type(**settings)
    try:
        with warnings.catch_warnings():
            # What it warns of, weights that are missing, is an error here.
            warnings.filterwarnings("ignore", "Found missing adapter keys")
            wrapped = peft.PeftModel.from_pretrained(model, folder, config=config, key_mapping=renamed)
    except KeyError as error:  # of a module that is trained in full
        raise DataError(f"{folder} lacks weights: 1, e.g. {error.args[0]}") from error
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise DataError(f"the saved adapter {shown(str(folder))!r} can't be loaded: {reason(error)[:300]}") from error
    with safe_open(folder / ADAPTER, "pt") as weights:
        saved = {text_part.own_name(name, where) for name in weights.keys()}  # noqa: SIM118 (no mapping)
    wanted = set(peft.get_peft_model_state_dict(wrapped))
    _check_keys(folder, wanted - saved, saved - wanted, ())
    adapters.restore_type(wrapped, folder)
    return wrapped
