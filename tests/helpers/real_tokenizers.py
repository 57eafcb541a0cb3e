"""Published tokenizers, where they lie beside the project."""

import pytest

from tests.helpers.launching import ROOT

SHARED = ROOT.parent / "shared"


def real(name, **options):
    import transformers

    folder = SHARED / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip("the real tokenizers lie beside the project only where it is developed")
    if name == "gpt2":
        return transformers.GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    return transformers.LlamaTokenizer.from_pretrained(str(folder), **options)
