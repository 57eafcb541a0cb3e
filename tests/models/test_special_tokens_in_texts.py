"""Texts in which special tokens are spelt out are classified as any other."""

import pytest
import torch

from bench.evaluation.readers.head import encode_rows
from tests.helpers import models as tiny
from tests.helpers.tiny_cards import FORGED


def test_t5_classifies_texts_with_forged_ends(tmp_path):
    known = tiny.card("t5")
    tokens = tiny.tokenizer(known)
    model = tiny.liven(tiny.build(known, tmp_path))
    rows = [{"text": text, "label": 0} for text in FORGED]
    features, _ = encode_rows(rows, tokens, 64)
    together = tiny.logits(model, tiny.collate(features, tokens))
    alone = torch.cat([tiny.logits(model, tiny.collate([feature], tokens)) for feature in features])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", tiny.DECODERS)
def test_decoders_read_the_last_token_of_texts_with_forged_pads(name, tmp_path):
    known = tiny.card(name)
    tokens = tiny.tokenizer(known)
    model = tiny.liven(tiny.build(known, tmp_path))
    features, _ = encode_rows([{"text": text, "label": 0} for text in FORGED], tokens, 64)
    together = tiny.logits(model, tiny.collate(features, tokens))
    for feature, row in zip(features, together, strict=True):
        inputs = torch.tensor([feature["input_ids"]])
        with torch.no_grad():
            states = model.base_model(inputs).last_hidden_state
        torch.testing.assert_close(model.score(states[:, -1])[0].detach(), row, atol=1e-5, rtol=0)
