"""GGUF: what llama.cpp's converter needs of a config that transformers writes otherwise."""

import json

from bench.shipping import gguf_form


def test_gpt2_has_the_key_by_which_the_converter_reads_its_length(tmp_path):
    path = tmp_path / "config.json"
    for config, known in (
        ({"model_type": "gpt2", "n_positions": 128}, 128),
        ({"model_type": "gpt2", "n_positions": 128, "n_ctx": 64}, 64),
        ({"model_type": "llama", "n_positions": 128}, None),
    ):
        path.write_text(json.dumps(config), encoding="utf-8")
        gguf_form.give_old_keys(tmp_path)
        assert json.loads(path.read_text(encoding="utf-8")).get("n_ctx") == known
