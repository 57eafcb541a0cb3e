"""Forms of a shipped model by the words of the command line. Loads no torch."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import BenchError, did_you_mean

MERGED, INT8, NF4, ONNX, GGUF, VLLM = "merged", "int8", "nf4", "onnx", "gguf", "vllm"
# In the order in which they are made and shown.
KINDS = {
    MERGED: "the adapter merged into its base model, loaded by transformers",
    INT8: "linear layers in 8 bits, activations quantised as they come (torch)",
    NF4: "linear layers in 4 bits (bitsandbytes)",
    ONNX: "a graph of ONNX, run by onnxruntime",
    GGUF: "a file of llama.cpp, as gguf:Q4_K_M",
    VLLM: "a server that speaks the OpenAI completions API, as vLLM does (--server)",
}
# Types of llama.cpp's files, as its own tools name them.
GGUF_TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0"),
    *("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K"),
)
DEFAULT_GGUF_TYPE = "Q4_K_M"
# Kind -> modules it needs beyond the harness's own requirements, and the extra that installs them.
NEEDS = {ONNX: (("onnx", "onnxscript", "onnxruntime"), "onnx"), GGUF: (("llama_cpp",), "gguf")}


@dataclass(frozen=True, kw_only=True)
class FormName:
    """A form. kind: one of KINDS. variant: of gguf, the type of its numbers."""

    kind: str
    variant: str | None = None

    def __str__(self) -> str:
        """Return it as the command line has it."""
        return self.kind if self.variant is None else f"{self.kind}:{self.variant}"

    @property
    def folder(self) -> str:
        """Return the name of its folder."""
        return str(self).replace(":", "-")


def parse(text: str) -> tuple[FormName, ...]:
    """Return the forms of a list like merged,int8,gguf:Q4_K_M. Raises BenchError for an unknown or repeated one."""
    found = [_parsed(word.strip()) for word in text.split(",") if word.strip()]
    if not found:
        raise BenchError(f"--as {text}: name a form, or several: {', '.join(KINDS)}")
    for name in found:
        if found.count(name) > 1:
            raise BenchError(f"--as {text}: {name} stands twice")
    return tuple(found)


def _parsed(word: str) -> FormName:
    kind, colon, variant = word.partition(":")
    if kind not in KINDS:
        raise BenchError(f"--as {word}: there is no form {kind!r}.{did_you_mean(kind, KINDS)}")
    if kind != GGUF:
        if colon:
            raise BenchError(f"--as {word}: only gguf has types, as in gguf:{DEFAULT_GGUF_TYPE}; write {kind}")
        return FormName(kind=kind)
    variant = variant.upper() or DEFAULT_GGUF_TYPE
    if variant not in GGUF_TYPES:
        raise BenchError(f"--as {word}: llama.cpp has no type {variant!r}.{did_you_mean(variant, GGUF_TYPES)}")
    return FormName(kind=kind, variant=variant)


def lacking(kind: str) -> str | None:
    """Return which package a kind of form needs that is not installed, and how to install it; None where all are."""
    modules, extra = NEEDS.get(kind, ((), ""))
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    return f"{' and '.join(missing)} {verb} not installed: pip install 'finetune-bench[{extra}]'"


def available(server: str | None) -> tuple[FormName, ...]:
    """Return the forms whose packages are installed; vllm where a server is named."""
    kinds: Sequence[str] = [kind for kind in KINDS if lacking(kind) is None and (kind != VLLM or server is not None)]
    return tuple(FormName(kind=kind, variant=DEFAULT_GGUF_TYPE if kind == GGUF else None) for kind in kinds)
