"""Model cards made from a checkpoint's own config: family, context, type, attention, licence and commit.

The config classes and the tables of model classes are those of transformers. What can't be read is asked for, never
guessed.
"""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import console
from bench.config import foreign_code, yaml_loader
from bench.config.cards import ModelCard
from bench.config.named_cards import MadeCard, WrongKeys
from bench.config.validation import shortened
from bench.errors import BenchError, RecipeError, SetupError
from bench.models import hub_models, location
from bench.utils import files
from bench.utils.loading_errors import reason, shown

CONFIG, ADAPTER = "config.json", "adapter_config.json"
# Types that a frozen body may be held in, by their names in a config and in the header of a safetensors file.
DTYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
# A safetensors file begins with the length of its header, in eight bytes.
_HEADER_BYTES = 100 * 2**20
# Above, the tokenizers library says that there is no limit.
_NO_LIMIT = 10**9
# RoBERTa and its kin have rows for positions that they never use: they count from behind the pad's.
_COUNTS_FROM_PAD = re.compile(r"max_position_embeddings,\s*config\.\w+,\s*padding_idx=")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The facts of a model that are there before its weights are read.

    place: Hub id or folder. config_file: its config.json. commit: of the Hub. stored: type of its weights, if known.
    """

    place: str
    config_file: Path
    commit: str | None = None
    licence: str | None = None
    stored: str | None = None
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)


def make(spec: Mapping[str, Any]) -> MadeCard:
    """Return the card of the model that `path`, `id` with `revision`, `package` with `subfolder`, or `architecture` is.

    spec: also any other key of a model card; `trust_remote_code` and `family` are heeded here. Raises RecipeError with
    what was tried.
    """
    console.quiet_libraries()
    _check_types(spec)
    if not any(spec.get(key) for key in ("path", "id", "package")):
        return _of_architecture(spec)
    checkpoint = _checkpoint(spec)
    config, raw = _config(checkpoint, spec)
    text = _text_part(config, checkpoint.place)
    family = spec.get("family") or _family(config, text, raw, checkpoint.place)
    sources = dict(checkpoint.sources)
    kind = f"model_type {config.model_type!r}" + (f" with {text.model_type!r}" if text is not config else "")
    sources["family"] = "the recipe" if spec.get("family") else kind
    folder = checkpoint.config_file.parent
    context, sources["max_length"] = _context(text, folder)
    dtype, sources["dtype"] = _dtype(raw, checkpoint, folder)
    attention, sources["attention"] = _attention(config, text)
    where = {key: spec[key] for key in ("package", "subfolder") if spec.get(key)}
    if "package" not in where:
        where = {"id": checkpoint.place}  # with the subfolder, if it has one
    card = {
        **where,
        "revision": checkpoint.commit,
        "family": family,
        "licence": checkpoint.licence,
        "max_length": context,
        "dtype": dtype,
        "attention": attention,
    }
    if "package" in where:
        del card["revision"]
    return MadeCard(
        card=card,
        notes=(_summary(card, raw, config), *checkpoint.notes, *_own_notes(card, raw)),
        sources=sources,
        model_type=text.model_type,
    )


def _check_types(spec: Mapping[str, Any]) -> None:
    """Raise WrongKeys with a line for each key that is read here and is not of the type that a card's is."""
    text = ("id", "path", "package", "subfolder", "revision", "family")
    wrong = [(key, "text") for key in text if not isinstance(spec.get(key), str | None)]
    if not isinstance(spec.get("architecture"), Mapping | None):
        wrong.append(("architecture", "a mapping of keys to values"))
    if not isinstance(spec.get("trust_remote_code"), bool | None):
        wrong.append(("trust_remote_code", "true or false"))
    if wrong:
        lines = [f"{key}: expected {expected}, got {shortened(spec[key])}." for key, expected in wrong]
        raise WrongKeys("\n".join(lines))


def _summary(card: Mapping[str, Any], raw: Mapping[str, Any], config: Any) -> str:
    place = shown(str(card.get("id") or card["package"]))
    at = f" at {card['revision']}" if card.get("revision") else ""
    classes = ", ".join(map(str, raw.get("architectures") or [])) or "no class named"
    context = f"{card['max_length']} tokens" if card["max_length"] else "no limit known"
    facts = f"{card['family']}, context: {context}, {card['dtype']}, attention: {card['attention']}"
    licence = f"licence: {card['licence'] or 'unknown'}"
    return (
        f"the model card was made from the config of {place}{at} ({config.model_type}, {classes}): {facts}, {licence}"
    )


def _own_notes(card: Mapping[str, Any], raw: Mapping[str, Any]) -> list[str]:
    notes = []
    if card["max_length"] is None:
        notes.append("the model's context length is not known: neither its config nor its tokenizer says one")
    quantized = raw.get("quantization_config")
    if isinstance(quantized, Mapping):
        notes.append(f"the checkpoint is quantised ({quantized.get('quant_method', 'by an unnamed method')})")
    return notes


def _of_architecture(spec: Mapping[str, Any]) -> MadeCard:
    """Return the card of a model of random weights, which needs no more than its type."""
    from transformers import AutoConfig

    kind = (spec.get("architecture") or {}).get("model_type")
    if not isinstance(kind, str):
        raise RecipeError("an `architecture` needs a `model_type`, as in a transformers config")
    try:
        config = AutoConfig.for_model(kind)
    except (ValueError, KeyError) as error:
        raise RecipeError(f"there is no model type {kind!r} in the installed transformers") from error
    family = _family(config, config.get_text_config(), {}, f"an architecture of type {kind!r}")
    card = {"weights": "random", "family": family}
    note = f"the model card was made from an architecture of type {kind!r}: {family}, random weights"
    return MadeCard(card=card, notes=(note,), sources={"family": f"model_type {kind!r}"}, model_type=kind)


# ---------------------------------------------------------------- what is there


def _checkpoint(spec: Mapping[str, Any]) -> Checkpoint:
    if spec.get("package"):
        folder = location.package_folder(str(spec["package"]), str(spec.get("subfolder") or ""))
        return _of_folder(folder, spec)
    place, inner = str(spec.get("path") or spec["id"]), spec.get("subfolder") or ""
    if not isinstance(inner, str):
        raise RecipeError(f"`subfolder` is the name of a folder, not {inner!r:.100}")
    if spec.get("path") or Path(place).is_absolute():
        return _of_folder(Path(place) / inner, spec)
    if inner:
        raise RecipeError(
            f"{place!r} with subfolder {inner!r}: a subfolder is not read from the Hub; download the repository, as by "
            f"`hf download {place} --local-dir DIR`, and write `path: DIR/{inner}`"
        )
    return _of_hub(place, spec.get("revision"))


def _of_folder(folder: Path, spec: Mapping[str, Any]) -> Checkpoint:
    place = shown(str(folder))
    if spec.get("revision") is not None:
        raise RecipeError(
            f"{place!r} is a folder, which has no revision; remove `revision`, or name a model of the Hub"
        )
    if not folder.is_dir():
        raise RecipeError(f"{place!r} is no folder; a model's folder holds {CONFIG}, its weights and its tokenizer")
    names = sorted(path.name for path in folder.iterdir())
    if CONFIG not in names:
        raise RecipeError(_no_config(f"the folder {place!r}", names, _base_of(folder / ADAPTER)))
    licence = _licence_in(folder / "README.md")
    return Checkpoint(
        place=str(folder),
        config_file=folder / CONFIG,
        licence=licence,
        notes=() if licence else ("the model's licence is not known: its folder has no README.md that says it",),
        sources={"id": "as it was named", "licence": "README.md of the folder" if licence else "not known"},
    )


def _no_config(place: str, names: list[str], base: str | None) -> str:
    """Return why there is no model where no config.json is."""
    if ADAPTER in names:
        of = f" of {base!r}" if base else ""
        return (
            f"{place} holds an adapter{of}, not a whole model; name the base model, or merge the adapter into it first"
        )
    if any(name.endswith(".gguf") for name in names):
        return f"{place} holds GGUF weights, which are not read; name the model that they were made from"
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{place} has no {CONFIG}, which every model of transformers has; it holds {listed or 'nothing'}"


def _base_of(adapter: Path) -> str | None:
    try:
        return str(json.loads(files.read_text(adapter))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _licence_in(readme: Path) -> str | None:
    """Return the licence of a model's README, from the metadata at its top; None where there is none."""
    try:
        parts = files.read_text(readme).split("---\n", 2)
        data = yaml_loader.Document(parts[1], readme.name).data if len(parts) == 3 and not parts[0].strip() else None
    except (OSError, ValueError, BenchError):
        return None
    return hub_models.licence_of(data) if isinstance(data, dict) else None


def _of_hub(name: str, revision: str | None) -> Checkpoint:
    found = hub_models.find(name, revision, CONFIG)
    if found.file is None:
        raise RecipeError(_no_config(f"{name} on the Hub", list(found.files), None))
    licence = found.licence or _licence_in(found.file.parent / "README.md")
    notes = list(found.notes)
    if licence is None:
        notes.append("the model's licence is not known: " + (found.why_not_asked or "its page on the Hub names none"))
    source = "the Hub" if found.why_not_asked is None else "the cached snapshot"
    return Checkpoint(
        place=name,
        config_file=found.file,
        commit=found.commit,
        licence=licence,
        stored=found.stored,
        notes=tuple(notes),
        sources={"id": "as it was named", "revision": source, "licence": source if licence else "not known"},
    )


# ---------------------------------------------------------------- what its config says


def _config(checkpoint: Checkpoint, spec: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the config as transformers reads it, and as it is written."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    place = shown(checkpoint.place)
    try:
        raw = json.loads(files.read_text(checkpoint.config_file))
    except (OSError, ValueError) as error:
        raise RecipeError(f"the {CONFIG} of {place!r} can't be read: {reason(error)}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise RecipeError(f"the {CONFIG} of {place!r} names no model_type, so it is no model of transformers")
    trusted = _trusts(checkpoint, spec, raw)
    source: Any = checkpoint.config_file.parent if not trusted or checkpoint.commit is None else checkpoint.place
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trusted, revision=checkpoint.commit)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        if "does not recognize this architecture" in str(error):
            raise RecipeError(_unknown_type(raw, place)) from error
        raise RecipeError(f"the {CONFIG} of {place!r} can't be read: {reason(error)}") from error
    return config, raw


def _trusts(checkpoint: Checkpoint, spec: Mapping[str, Any], raw: Mapping[str, Any]) -> bool:
    """Return whether a config's own code is run. Raises RecipeError where it would have to, and may not."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if spec.get("trust_remote_code") is True:
        card = ModelCard(id=checkpoint.place, family="encoder", trust_remote_code=True)
        try:
            return foreign_code.trusts(card)
        except SetupError as error:
            raise RecipeError(str(error)) from error
    if raw["model_type"] not in CONFIG_MAPPING_NAMES and "auto_map" in raw:
        raise RecipeError(
            f"{shown(checkpoint.place)!r} is of type {raw['model_type']!r}, which transformers does not have: it runs "
            f"code of its own; write `trust_remote_code: true` beside its id, and confirm it with {foreign_code.FLAG}"
        )
    return False


def _unknown_type(raw: Mapping[str, Any], place: str) -> str:
    import transformers

    version = f"transformers {transformers.__version__}"
    return f"{place!r} is of type {raw['model_type']!r}, which {version} does not have; a newer version may"


def _text_part(config: Any, place: str) -> Any:
    try:
        return config.get_text_config()
    except ValueError as error:
        raise RecipeError(f"{shown(place)!r} has more than one text model in it ({config.model_type})") from error


def _family(config: Any, text: Any, raw: Mapping[str, Any], place: str) -> str:
    """Return encoder, decoder or encoder_decoder, by the tables of transformers' classes.

    A type with a masked language model is an encoder, though it may be built as a decoder too (BERT), unless its config
    says that it was. Raises RecipeError for what is no text model.
    """
    from transformers.models.auto import modeling_auto as tables

    types = (text.model_type, config.model_type)
    if config.is_encoder_decoder:
        if config.model_type in tables.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
            return "encoder_decoder"
    elif text.model_type in tables.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(text, "is_decoder", False):
        return "encoder"
    elif any(kind in tables.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES for kind in types):
        return "decoder"
    elif any(kind in tables.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES for kind in types):
        return "encoder"
    elif text is not config and config.model_type in tables.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "decoder"  # the text part of a class for images and text, as Qwen3-VL's
    classes = ", ".join(map(str, raw.get("architectures") or [])) or "no class named"
    raise RecipeError(
        f"{shown(place)!r} is of type {config.model_type!r} ({classes}), which is no model of texts that can be "
        "trained here: transformers has it neither as a language model nor as a classifier of texts; if it is one by "
        "its own code, write `family: encoder`, decoder or encoder_decoder"
    )


def _context(text: Any, folder: Path) -> tuple[int | None, str]:
    """Return the tokens that a model reads at most, never more than it has positions for, and where that is from."""
    stated = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
    if isinstance(stated, int) and stated > 0:
        if _COUNTS_FROM_PAD.search(_modeling_source(text)):
            rows = (getattr(text, "pad_token_id", None) or 0) + 1
            return stated - rows, f"max_position_embeddings of the config, {stated}, less {rows} rows up to the pad's"
        return stated, "max_position_embeddings of the config"
    length = _tokenizer_limit(folder)
    return length, "model_max_length of the tokenizer" if length else "not known"


def _tokenizer_limit(folder: Path) -> int | None:
    try:
        limit = json.loads(files.read_text(folder / "tokenizer_config.json")).get("model_max_length")
    except (OSError, ValueError, AttributeError):
        return None
    return limit if isinstance(limit, int) and 0 < limit < _NO_LIMIT else None


def _dtype(raw: Mapping[str, Any], checkpoint: Checkpoint, folder: Path) -> tuple[str, str]:
    """Return the type of a checkpoint's weights, and where that is from."""
    for part, name in ((raw, "the config"), (raw.get("text_config"), "the config's text part")):
        written = (part.get("dtype") or part.get("torch_dtype")) if isinstance(part, Mapping) else None
        if isinstance(written, str) and written.removeprefix("torch.") in DTYPES:
            return DTYPES[written.removeprefix("torch.")], f"dtype of {name}"
    stored = checkpoint.stored or _stored_type(folder)
    if stored is not None:
        return stored, "the checkpoint's weights"
    return "float32", "the default: neither config nor weights say it"


def _stored_type(folder: Path) -> str | None:
    """Return the type of the first weights of a folder's first safetensors file; None without one."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(min(size, _HEADER_BYTES)))
        except (OSError, ValueError):
            return None
        kinds = [
            hub_models.STORED.get(part.get("dtype", "")) for name, part in header.items() if name != "__metadata__"
        ]
        return next((kind for kind in kinds if kind is not None), None)
    return None


def _attention(config: Any, text: Any) -> tuple[str, str]:
    """Return the fused attention where the model's classes have it and compute the same with it, else the plain one.

    Scores that are capped (Gemma 2) are computed by the plain one alone.
    """
    if getattr(text, "attn_logit_softcapping", None):
        return "eager", "attention scores are capped, which the fused attention does not do"
    for part in (text, config):
        source = _modeling_source(part)
        if not source:
            return "eager", "the model's own code, of which nothing is known"
        if "_supports_sdpa = True" not in source:
            return "eager", f"transformers has no fused attention for {part.model_type!r}"
    return "sdpa", f"supported by transformers for {text.model_type!r}"


def _modeling_source(config: Any) -> str:
    """Return the text of the modules of a config's model in transformers; empty for a model by its own code."""
    import transformers

    module = type(config).__module__.split(".")
    if module[:2] != ["transformers", "models"]:
        return ""
    return _source_of(Path(transformers.__file__).parent / "models" / module[2])


@functools.cache
def _source_of(folder: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("modeling_*.py")))


def refusal(model_type: str, family: str, auto_class: str) -> str | None:
    """Return why a model can't get the head of a task, or None. auto_class: transformers' class for that head.

    An encoder-decoder needs a class of transformers; decoders and encoders that lack one are looked at when the model
    is built, before its weights are read.
    """
    from transformers.models.auto import modeling_auto as tables

    table = {
        "AutoModelForSequenceClassification": tables.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "AutoModelForTokenClassification": tables.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    }.get(auto_class)
    if family != "encoder_decoder" or table is None or model_type in table:
        return None
    return (
        f"a model of type {model_type!r} has no class in transformers for this task ({auto_class} refuses it); "
        "set objective: text, or take another model"
    )
