"""Fields of an architecture are checked without torch, and a card's facts go when another model is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.config import architecture, resolve
from bench.errors import RecipeError

CARD = "family: {family}\nlicence: x\nweights: random\narchitecture: {{model_type: {kind}, {fields}}}\n"
RECIPE = "dataset: reviews\nmodel: {card: mine}\nmethod: full\n"


def check(tmp_path: Path, kind: str, fields: str, family: str = "decoder") -> None:
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(CARD.format(kind=kind, fields=fields, family=family), encoding="utf-8")
    resolve.load_card("model", folder / "mine.yaml")


@pytest.mark.parametrize(
    ("kind", "field", "near"),
    [
        ("llama", "hiden_size", "hidden_size"),
        ("llama", "num_key_value_head", "num_key_value_heads"),
        ("gpt2", "n_lyer", "n_layer"),
        ("gpt2", "hidden_sizes", "hidden_size"),
        ("t5", "d_modle", "d_model"),
        ("roberta", "type_vocab_sizes", "type_vocab_size"),
        ("qwen3_moe", "num_expert", "num_experts"),
        ("deberta-v2", "relative_attentions", "relative_attention"),
    ],
)
def test_a_misspelt_field_is_found_with_the_nearest(kind, field, near, tmp_path):
    with pytest.raises(RecipeError) as error:
        check(tmp_path, kind, f"{field}: 3")
    assert str(error.value).endswith(
        f"mine.yaml:4: architecture.{field}: a {kind!r} config has no such field. Did you mean {near!r}?"
    ) or f"architecture.{field}: a {kind!r} config has no such field. Did you mean {near!r}?" in str(error.value)


def test_a_field_that_the_model_asks_for_without_its_config_declaring_it(tmp_path):
    check(tmp_path, "deberta-v2", "position_buckets: 256, share_att_key: true, norm_rel_ebd: layer_norm", "encoder")
    with pytest.raises(RecipeError, match=r"a 'deberta-v2' config has no such field\. Did you mean 'position_buckets'"):
        check(tmp_path, "deberta-v2", "position_bucket: 256", "encoder")


def test_a_field_that_is_like_no_other(tmp_path):
    with pytest.raises(RecipeError, match=r"architecture.zzz: a 'llama' config has no such field\.$"):
        check(tmp_path, "llama", "zzz: 3")


def test_what_the_task_decides_is_no_field(tmp_path):
    with pytest.raises(RecipeError, match=r"architecture\.num_labels: a 'bert' config has no such field"):
        check(tmp_path, "bert", "num_labels: 5", "encoder")


def test_fields_of_a_config_inside(tmp_path):
    check(tmp_path, "gemma3", "text_config: {hidden_size: 32}")
    with pytest.raises(RecipeError, match=r"text_config.hiden_size: a 'gemma3.text_config' .* mean 'hidden_size'"):
        check(tmp_path, "gemma3", "text_config: {hiden_size: 32}")


def test_a_misspelt_type(tmp_path):
    with pytest.raises(
        RecipeError, match=r"architecture.model_type: there is no model type 'lama'\. Did you mean 'llama'"
    ):
        check(tmp_path, "lama", "hidden_size: 32")


@pytest.mark.parametrize(
    "fields", ["rope_parameters: {rope_type: default, rope_theta: 1e4}", "hidden_act: silu", "eos_token_id: [1, 2]"]
)
def test_known_fields(fields, tmp_path):
    check(tmp_path, "llama", fields)


def test_recipes_are_checked_too(tmp_path):
    (tmp_path / "s").mkdir()
    path = tmp_path / "s" / "r.yaml"
    path.write_text(
        "dataset: reviews\nmodel: {card: tiny_llama, architecture: {hiden_size: 4}}\nmethod: full\n", encoding="utf-8"
    )
    with pytest.raises(RecipeError, match=r"r.yaml:2: model.architecture.hiden_size: .* Did you mean 'hidden_size'"):
        resolve.load(path)
    path.write_text("dataset: reviews\nmodel: tiny_llama\nmethod: full\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"command line: model\.architecture.hiden_size"):
        resolve.load(path, ("model.architecture.hiden_size=3",))


def test_every_type_of_the_library_knows_its_own_fields():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.utils import logging

    logging.set_verbosity_error()
    missing = {}
    for kind in ("llama", "gpt2", "t5", "bert", "roberta", "deberta-v2", "gemma3", "qwen3_moe", "mamba", "bart", "opt"):
        default = CONFIG_MAPPING[kind]()
        own = {name for name in [*default.to_dict(), *default.attribute_map] if not name.startswith("_")}
        missing[kind] = own - (architecture.fields(kind) or set()) - architecture.NOT_GIVEN - {"model_type"}
    assert missing == {kind: set() for kind in missing}


def test_torch_is_not_loaded():
    code = "import sys; from bench.config import architecture as a; a.fields('llama'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Another model in the place of a card's own


def load(tmp_path: Path, model: str, *overrides: str) -> resolve.Resolved:
    (tmp_path / "s").mkdir()
    path = tmp_path / "s" / "r.yaml"
    path.write_text(f"dataset: reviews\nmodel: {model}\nmethod: full\n", encoding="utf-8")
    return resolve.load(path, overrides)


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("{card: bert_base_uncased, id: someone/other-bert}", ()),
        ("bert_base_uncased", ("model.id=someone/other-bert",)),
        ("{card: tiny_bert}", ("model.id=someone/other-bert",)),
        ("bert_base_uncased", ("model={card: bert_base_uncased, id: someone/other-bert}",)),
        ("{card: minilm, id: someone/other-bert}", ()),
    ],
)
def test_another_id_takes_the_cards_facts_away(model, overrides, tmp_path):
    found = load(tmp_path, model, *overrides)
    card = found.recipe.model
    assert (card.id, card.package, card.revision, card.architecture) == ("someone/other-bert", None, None, {})
    assert (card.max_length, card.weights, card.tokenizer.id) == (None, "pretrained", None)
    assert card.licence.startswith("not known")
    assert found.name == "s--other-bert--full"


def test_what_is_said_beside_the_new_id_stays(tmp_path):
    found = load(
        tmp_path,
        "{card: bert_base_uncased, id: a/b, revision: abc, architecture: {model_type: bert, hidden_size: 32}}",
    )
    card = found.recipe.model
    assert (card.revision, card.max_length, card.architecture["hidden_size"]) == ("abc", None, 32)
    assert "vocab_size" not in card.architecture


def test_the_same_id_takes_nothing_away(tmp_path):
    plain = resolve.load_card(
        "model", next(path for path in resolve.find_cards("model") if path.stem == "bert_base_uncased")
    )
    found = load(tmp_path, "bert_base_uncased", f"model.id={plain.id}")
    assert found.recipe.model == plain
    assert found.name == "s--bert_base_uncased--full"


def test_nested_lists_are_json():
    from bench.models.build import as_json

    given = {"a": ((1, 2), (3, (4,))), "b": {"c": ("x", {"d": (1,)})}, "e": "text", "f": None}
    assert as_json(given) == {"a": [[1, 2], [3, [4]]], "b": {"c": ["x", {"d": [1]}]}, "e": "text", "f": None}


@pytest.mark.parametrize("value", ["no", "0", "null", "[false]"])
def test_a_field_of_the_harness_is_true_or_false(value, tmp_path):
    with pytest.raises(RecipeError, match=r"architecture\.attention_bias: expected true or false, got"):
        check(tmp_path, "gpt2", f"attention_bias: {value}")
    check(tmp_path, "gpt2", "attention_bias: false")
