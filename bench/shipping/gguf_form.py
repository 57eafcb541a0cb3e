"""The form `gguf`: llama.cpp's own converter writes the file, llama-cpp-python quantises and runs it.

The converter is a script of llama.cpp's repository, `convert_hf_to_gguf.py`, found on the PATH or in the folder that
the environment variable LLAMA_CPP names.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.errors import SetupError
from bench.shipping import names
from bench.shipping.form import Loaded, Workshop
from bench.shipping.names import FormName
from bench.shipping.other_engine import EngineModel
from bench.utils import files

CONVERTER, FOLDER_VARIABLE = "convert_hf_to_gguf.py", "LLAMA_CPP"
# What the converter itself writes; all others are made of its 32-bit file.
CONVERTED = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
# Prompts that are also read by llama.cpp's own tokenizer.
PROBED = 8


class Gguf:
    """A decoder whose answers are chosen by their likelihood: llama.cpp has no heads of transformers' classifiers."""

    def why_not(self, work: Workshop, name: FormName) -> str | None:
        """Return what is not installed, or what llama.cpp has not."""
        source = work.source
        if source.recipe.objective != "text" or source.description["model_card"]["family"] != "decoder":
            return "llama.cpp runs decoders that score or write text, and this run's model has a head or an encoder"
        if work.writes:
            return "the run's answers are written, and this form scores likelihoods of answers alone"
        if (lacking := names.lacking(name.kind)) is not None:
            return lacking
        if converter() is None:
            return (
                f"llama.cpp's {CONVERTER} was not found: clone https://github.com/ggml-org/llama.cpp and set "
                f"{FOLDER_VARIABLE} to its folder"
            )
        return None

    def make(self, work: Workshop, name: FormName, folder: Path) -> None:
        """Convert, then quantise where the converter itself does not write the type."""
        variant, path = str(name.variant), folder / "model.gguf"
        if variant in CONVERTED:
            _convert(work.whole(), path, CONVERTED[variant])
            return
        wide = folder / "wide.gguf"
        _convert(work.whole(), wide, "f32")
        _quantise(wide, path, variant)
        wide.unlink()

    def load(self, work: Workshop, name: FormName, folder: Path) -> Loaded:
        """Load the file, with room for the longest prompt and its answer."""
        import llama_cpp
        import transformers

        split = work.source.split
        longest = max(_tokens(feature) for feature in split.features)
        engine = llama_cpp.Llama(
            str(folder / "model.gguf"),
            n_ctx=longest,
            n_batch=longest,
            n_ubatch=longest,
            n_threads=torch.get_num_threads(),
            n_threads_batch=torch.get_num_threads(),
            logits_all=True,
            verbose=False,
        )
        config = transformers.AutoConfig.from_pretrained(work.whole(), trust_remote_code=False)
        wanted = config.get_text_config().vocab_size
        if engine.n_vocab() != wanted:
            raise SetupError(f"the file of llama.cpp has {engine.n_vocab()} tokens, and the run's model {wanted}")
        model = EngineModel(config, lambda inputs: {"logits": _logits(engine, inputs)})
        return Loaded(
            model=model.eval(), scoring=work.plain_scoring(), notes=_other_tokens(engine, work), close=engine.close
        )


def converter() -> Path | None:
    """Return llama.cpp's converter; None where it is not found."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder and (Path(folder) / CONVERTER).is_file():
        return Path(folder) / CONVERTER
    found = shutil.which(CONVERTER)
    return Path(found) if found else None


def give_old_keys(whole: Path) -> None:
    """Give GPT-2's config the key by which llama.cpp's converter reads its length; transformers 5 writes it no more."""
    path = whole / "config.json"
    config = json.loads(files.read_text(path))
    if config.get("model_type") == "gpt2" and "n_positions" in config:
        files.write_text(path, json.dumps({"n_ctx": config["n_positions"], **config}, indent=2) + "\n")


def _convert(whole: Path, out: Path, kind: str) -> None:
    give_old_keys(whole)
    command = [sys.executable, str(converter()), str(whole), "--outfile", str(out), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise SetupError(f"{CONVERTER} can't convert this model: {lines[-1][:300]}")


def _quantise(source: Path, target: Path, variant: str) -> None:
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    prefix = "LLAMA_FTYPE_MOSTLY_"
    settings.ftype = getattr(llama_cpp, f"{prefix}{variant}")
    code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), settings)
    if code:
        raise SetupError(f"llama.cpp can't quantise this model to {variant} (code {code})")


def _tokens(feature: Mapping[str, Any]) -> int:
    return len(feature["prompt_ids"]) + max(map(len, feature["continuation_ids"]))


def _logits(engine: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return logits [rows, tokens, vocabulary] of rows that are padded on the right, each run by itself; 0 for pads."""
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    logits = torch.zeros(*ids.shape, engine.n_vocab())
    for row, length in enumerate(mask.sum(-1).tolist()):
        engine.reset()
        engine.eval(ids[row, :length].tolist())
        logits[row, :length] = torch.from_numpy(engine.scores[:length].copy())
    return logits


def _other_tokens(engine: Any, work: Workshop) -> tuple[str, ...]:
    """Return a note where llama.cpp's own tokenizer reads the run's prompts as other tokens."""
    tokenizer, prompts = work.source.scoring.tokenizer, work.source.split.features[:PROBED]
    texts = [tokenizer.decode(feature["prompt_ids"]) for feature in prompts]
    own = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    read = [engine.tokenize(text.encode(), add_bos=False, special=True) for text in texts]
    differ = sum(list(one) != list(other) for one, other in zip(own, read, strict=True))
    if not differ:
        return ()
    return (
        f"scored by the run's own tokens; llama.cpp's tokenizer reads {differ} of {len(texts)} prompts as other ones, "
        "so that the file by itself would be asked otherwise",
    )
