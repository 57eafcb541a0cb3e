"""Forms by the words of the command line."""

import importlib.util

import pytest

from bench.errors import BenchError
from bench.shipping import names
from bench.shipping.names import FormName
from tests.helpers.cases import together


def test_forms_are_read_in_their_order():
    found = names.parse("onnx, merged,gguf,gguf:q8_0")
    assert [str(one) for one in found] == ["onnx", "merged", "gguf:Q4_K_M", "gguf:Q8_0"]
    assert found[-1].folder == "gguf-Q8_0"


@together("text, says", [
    ("merged,int9", "--as int9: there is no form 'int9'. Did you mean 'int8'?"),
    ("int8,int8", "--as int8,int8: int8 stands twice"),
    (" , ", "--as  , : name a form, or several: merged, int8, nf4, onnx, gguf, vllm"),
    ("nf4:Q4_K_M", "--as nf4:Q4_K_M: only gguf has types, as in gguf:Q4_K_M; write nf4"),
    ("gguf:Q4_K_X", "--as gguf:Q4_K_X: llama.cpp has no type 'Q4_K_X'. Did you mean 'Q4_K_S'?"),
])  # fmt: skip
def test_what_is_no_form_is_refused(text, says):
    with pytest.raises(BenchError) as error:
        names.parse(text)
    assert str(error.value) == says


def test_what_a_form_lacks_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else name)
    assert names.lacking("onnx") == (
        "onnx and onnxscript and onnxruntime are not installed: pip install 'finetune-bench[onnx]'"
    )
    assert names.lacking("gguf") is None
    assert names.lacking("merged") is None
    assert FormName(kind="int8").folder == "int8"
