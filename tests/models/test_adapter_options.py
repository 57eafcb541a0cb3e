"""Options of PEFT: each is in force, or refused in a sentence; none is dropped, misread or left to a later crash."""

import ast
import importlib.util
import math
import re
import warnings
from pathlib import Path

import peft
import pytest
import torch
from pydantic import ValidationError

from bench.errors import SetupError
from bench.models import adapter_readback, peft_options
from tests.helpers import models as tiny
from tests.helpers.cases import together
from tests.helpers.saved_models import loaded_logits, train_and_save

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
METHODS = [name for name in peft_options.config_classes() if peft_options.is_method(name)]


def problems(name, config):
    return [(problem.key, problem.sentence) for problem in peft_options.problems(name, config)]


def wrapped(folder, config, family="bert", **settings):
    return tiny.adapted(tiny.card(family), folder, "lora", {"config": config, **settings})


# ---------------------------------------------------------------- before a model is built


def test_peft_is_read_without_importing_it():
    assert {"LoraConfig", "IA3Config", "VeraConfig", "LoHaConfig"} <= set(METHODS)
    assert {"r", "lora_alpha", "use_dora", "target_modules"} <= set(peft_options.fields_of("LoraConfig"))
    assert {"rank_pattern", "task_type"} <= set(peft_options.fields_of("LoHaConfig"))


@together("name", METHODS)
def test_every_methods_fields_are_pefts(name):
    assert set(peft_options.fields_of(name)) == set(getattr(peft, name).__dataclass_fields__)


@together("name", METHODS)
def test_every_default_is_of_its_type(name):
    import dataclasses

    known = peft_options.fields_of(name)
    for field in dataclasses.fields(getattr(peft, name)):
        if type(field.default) in (int, float, bool, str, type(None)):
            assert list(peft_options._type_problems(field.name, known[field.name], field.default)) == [], field.name


@together(
    "name, config, sentence",
    [
        ("LoraConfg", {}, "peft has no configuration 'LoraConfg' of a method. Did you mean 'LoraConfig'?"),
        ("LoraRuntimeConfig", {}, "peft has no configuration 'LoraRuntimeConfig' of a method"),
        ("PeftConfig", {}, "peft has no configuration 'PeftConfig' of a method"),
        ("LoraConfig", {"lora_alpa": 4}, "LoraConfig has no field 'lora_alpa'. Did you mean 'lora_alpha'?"),
        ("LoraConfig", {"task_type": "SEQ_CLS"}, "'task_type' is set by the harness"),
        ("LoraConfig", {"revision": "main"}, "'revision' is set by the harness"),
        ("XLoraConfig", {}, "XLoraConfig is not supported: it can't train a task head"),
        # What would need a call or a term of the loss.
        ("AdaLoraConfig", {}, "AdaLoraConfig is not supported: its ranks are pruned by a call after every step"),
        ("PolyConfig", {}, "PolyConfig is not supported: its router needs the id of a task with every batch"),
        ("ShadowConfig", {}, "ShadowConfig is not supported: its model adds a loss term"),
        ("MultitaskPromptTuningConfig", {}, "need the id of a task with every batch"),
        ("LoraConfig", {"init_lora_weights": "eva"}, "'eva' is not supported: it needs a call with batches"),
        ("LoraConfig", {"init_lora_weights": "EVA"}, "'EVA' is not supported: it needs a call with batches"),
        ("LoraConfig", {"init_lora_weights": "corda"}, "'corda' is not supported: it needs a call with sample data"),
        ("LoraConfig", {"init_lora_weights": "lora_ga"}, "'lora_ga' is not supported: it needs gradients"),
        ("LoraConfig", {"init_lora_weights": "loftq"}, "'loftq' is not supported: it replaces the base model's"),
        ("LoraConfig", {"init_lora_weights": "pissa_niter_16"}, "'pissa_niter_16' is not supported: its decomposition"),
        ("LoraConfig", {"kasa_config": {}}, "not supported: its loss term (LoraModel._get_kasa_loss) is not added"),
        ("LoraConfig", {"kasa_config": {"beta": 1000.0}}, "not supported: its loss term"),
        ("LoraConfig", {"monteclora_config": {"num_samples": 4}}, "not supported: its loss term"),
        ("AdamssConfig", {"use_asa": True}, "not supported: its subspaces are chosen by a call after every step"),
        ("LoraConfig", {"arrow_config": {}}, "not supported: it routes between adapters"),
        # What would be ignored.
        ("LoraConfig", {"eva_config": {"rho": 2.0}}, "only used by init_lora_weights 'eva', which is not supported"),
        ("LoraConfig", {"corda_config": {}}, "only used by init_lora_weights 'corda'"),
        ("LoraConfig", {"layers_pattern": "layer"}, "only used with layers_to_transform, which is not set"),
        ("LoraConfig", {"qalora_group_size": 8}, "only used with use_qalora, which is not set"),
        ("AdamssConfig", {"mask_interval": 8}, "only used with use_asa, which is not set"),
        ("PrefixTuningConfig", {"num_virtual_tokens": 2, "encoder_hidden_size": 8}, "only used with prefix_projection"),
        ("PveraConfig", {"sample_at_inference": True}, "predictions would be drawn at random"),
        # Types.
        ("LoraConfig", {"r": "8"}, "expected a whole number, got '8'"),
        ("LoraConfig", {"r": 8.0}, "expected a whole number, got 8.0"),
        ("LoraConfig", {"r": True}, "expected a whole number, got true"),
        ("LoraConfig", {"r": None}, "expected a whole number, got nothing"),
        ("LoraConfig", {"use_dora": 1}, "expected true or false, got 1"),
        ("LoraConfig", {"lora_dropout": "0.1"}, "expected a number, got '0.1'"),
        ("LoraConfig", {"lora_dropout": -0.1}, "expected a share of at least 0 and below 1, got -0.1"),
        ("VeraConfig", {"vera_dropout": 1}, "expected a share of at least 0 and below 1, got 1"),
        ("LoraConfig", {"bias": "lora"}, "expected one of 'none', 'all', 'lora_only', got 'lora'"),
        ("LoraConfig", {"init_lora_weights": "gausian"}, "expected true or false or one of 'gaussian'"),
        ("LoraConfig", {"target_modules": [1]}, "expected a list of text or text, got [1]"),
        ("LoraConfig", {"rank_pattern": {"query": "64"}}, "expected a positive whole number for 'query', got '64'"),
        ("LoraConfig", {"rank_pattern": {"query": 0}}, "expected a positive whole number for 'query', got 0"),
        ("LoraConfig", {"alpha_pattern": {"que(ry": 4}}, "'que(ry' is no regular expression"),
        ("LoraConfig", {"rank_pattern": ["query"]}, "expected a mapping, got ['query']"),
        ("LoraConfig", {"layer_replication": [[0, 1, 2]]}, "expected a list of a list of a whole number"),
        ("LoraConfig", {"velora_config": {"num_groups": 2.5}}, "expected a whole number, got 2.5"),
        ("LoraConfig", {"velora_config": {"groups": 2}}, "VeloraConfig has no field 'groups'"),
        ("LoraConfig", {"trainable_token_indices": ["a"]}, "expected a list of a whole number or a mapping"),
        ("PrefixTuningConfig", {}, "PrefixTuningConfig needs it, a whole number; it has no default"),
        ("PromptTuningConfig", {"num_virtual_tokens": "4"}, "expected a whole number, got '4'"),
        ("C3AConfig", {"block_size": "64"}, "expected a whole number, got '64'"),
    ],
)
def test_options_that_are_refused(name, config, sentence):
    found = problems(name, config)
    assert len(found) == 1
    assert sentence in found[0][1]
    if config and name != "XLoraConfig":
        assert found[0][0].startswith("config.")


@together(
    "name, config",
    [
        ("LoraConfig", {"r": 4, "lora_dropout": 0, "init_lora_weights": "gaussian", "bias": "all"}),
        ("LoraConfig", {"init_lora_weights": False, "target_modules": "all-linear", "layers_to_transform": [0]}),
        ("LoraConfig", {"target_modules": ("query",), "layer_replication": ((0, 1), [0, 2])}),
        ("LoraConfig", {"velora_config": {"scale": 2}, "trainable_token_indices": {"embed_tokens": [1]}}),
        ("LoraConfig", {"rank_pattern": {"query": 4}, "alpha_pattern": {"query": 0.5}, "kasa_config": None}),
        ("PromptEncoderConfig", {"num_virtual_tokens": 4, "encoder_reparameterization_type": "LSTM"}),
        ("OSFConfig", {"rank_pattern": {"query": 0.5}, "effective_rank": 8}),
        ("MissConfig", {"init_weights": "bat"}),
    ],
)
def test_options_that_are_taken(name, config):
    assert problems(name, config) == []


def test_a_wrong_option_is_blamed_at_its_key():
    module, _ = tiny.options("lora")
    with pytest.raises(ValidationError) as error:
        module.Options.model_validate({"config": {"r": "8"}})
    assert error.value.errors()[0]["ctx"]["error"].key == ("config", "r")
    with pytest.raises(ValidationError, match=r"config\.r: expected .*; config\.bias: expected"):
        module.Options.model_validate({"config": {"r": "8", "bias": 1}})


def test_every_hook_of_peft_that_a_training_must_call_is_known():
    """Methods that PEFT leaves to its users: a new one is looked at before its method is run."""
    found = set()
    root = Path(importlib.util.find_spec("peft").submodule_search_locations[0])
    for path in root.glob("tuners/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and re.fullmatch(
                r"update_and_allocate|_?get_\w+_loss|preprocess_\w+|initialize_\w+_weights", node.name
            ):
                found.add((path.parent.name, node.name))
    assert found == {
        ("adalora", "update_and_allocate"),
        ("adamss", "update_and_allocate"),
        ("lora", "_get_kasa_loss"),
        ("lora", "_get_monteclora_loss"),
        ("lora", "get_variational_loss"),
        ("lora", "initialize_lora_eva_weights"),
        ("lora", "preprocess_corda"),
        ("lora", "preprocess_loraga"),
    }


# ---------------------------------------------------------------- every method


def test_every_method_of_peft_is_refused_or_trained_and_loaded_again(tmp_path):
    run = []
    for name in METHODS:
        fields, config = peft_options.fields_of(name), dict(tiny.PEFT_SIZES.get(name, {}))
        if "num_virtual_tokens" in fields:
            config["num_virtual_tokens"] = 4
        if "target_modules" in fields:
            config.setdefault("target_modules", ["query", "value"])
        if problems(name, config):
            continue
        folder = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected, _ = train_and_save(tiny.card("bert"), folder, "lora", settings={"peft": name, "config": config})
            torch.manual_seed(99)  # whatever is drawn anew is another one
            torch.testing.assert_close(loaded_logits(folder), expected, atol=1e-5, rtol=0, msg=name)
        run.append(name)
    assert len(run) > 30


@together("init", [True, False, "gaussian", "olora", "pissa", "orthogonal", "mica"])
def test_every_start_of_lora_is_loaded_again(init, tmp_path):
    folder = tmp_path / str(init)
    config = {"init_lora_weights": init, "r": 4, "target_modules": ["query", "value"]}
    expected, _ = train_and_save(tiny.card("bert"), folder, "lora", settings={"config": config})
    torch.manual_seed(99)
    torch.testing.assert_close(loaded_logits(folder), expected, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- names


@together(
    "family, config, sentence",
    [
        (
            "bert",
            {"target_modules": ["query", "valu"]},
            "target_modules: the model has no module 'valu'. Did you mean 'value'?",
        ),
        ("bert", {"target_modules": ["q_proj"]}, "target_modules: the model has no module 'q_proj'."),
        ("bert", {"target_modules": ["self.qery"]}, "no module 'self.qery'. Did you mean 'self.query'?"),
        ("bert", {"target_modules": "query"}, "a text is a pattern of whole names; write the name in a list: [query]"),
        ("bert", {"target_modules": ".*qery"}, "the pattern '.*qery' matches no module. Did you mean 'query'?"),
        ("bert", {"target_modules": ".*(query"}, "is no regular expression"),
        (
            "bert",
            {"target_modules": ".*[.](query|valu)"},
            "'valu' in the pattern '.*[.](query|valu)' matches no module",
        ),
        ("bert", {"target_modules": r".*\.(?:qeury|value)"}, "matches no module. Did you mean 'query'?"),
        ("bert", {"target_modules": "bert.*query|bert.*self.valeu"}, "'valeu' in the pattern"),
        ("llama", {"target_modules": r".*\.layers\.[01]\..*(q_proj|v_prj)"}, "Did you mean 'v_proj'?"),
        (
            "bert",
            {"target_modules": ["query"], "exclude_modules": ".*(output|atention).*|.*query1?[.]x|.*key"},
            "'atention'",
        ),
        (
            "bert",
            {"modules_to_save": ["poler"]},
            "modules_to_save: the model has no module 'poler'. Did you mean 'pooler'?",
        ),
        (
            "bert",
            {"modules_to_save": ["ense"]},
            "modules_to_save: the model has no module 'ense'. Did you mean 'dense'?",
        ),
        ("llama", {"modules_to_save": ["norm"]}, "PEFT would train 'input_layernorm', 'post_attention_layernorm' too"),
        (
            "bert",
            {"exclude_modules": ["qery"]},
            "exclude_modules: the model has no module 'qery'. Did you mean 'query'?",
        ),
        ("bert", {"exclude_modules": "qery"}, "exclude_modules: the pattern 'qery' matches no module"),
        (
            "bert",
            {"rank_pattern": {"qery": 64}},
            "rank_pattern: 'qery' applies to nothing: no adapter's layer. Did you mean 'query'?",
        ),
        ("bert", {"alpha_pattern": {"attention": 64}}, "alpha_pattern: 'attention' applies to nothing"),
        (
            "bert",
            {"rank_pattern": {"query": 2, "self.query": 4}},
            "'self.query' applies to nothing: an earlier pattern",
        ),
        ("bert", {"target_modules": ["query"], "rank_pattern": {"value": 2}}, "'value' applies to nothing"),
        (
            "bert",
            {"target_modules": ["query"], "layers_to_transform": [0, 7]},
            "layers_to_transform: no adapter is on layer 7",
        ),
        (
            "bert",
            {"target_modules": ["query"], "layers_to_transform": 2},
            "not found in the base model|No modules were",
        ),
        (
            "bert",
            {"target_modules": ["query"], "layers_to_transform": [0], "layers_pattern": "layr"},
            "no list of layers 'layr'. Did you mean 'layer'?",
        ),
        (
            "bert",
            {"target_modules": ["query", "value"], "exclude_modules": ["value"]},
            "no adapter is on 'value', whose modules are all left out by exclude_modules",
        ),
        (
            "llama",
            {"target_parameters": ["mlp.gate.weigt"]},
            "target_parameters: the model has no parameter 'mlp.gate.weigt'",
        ),
        (
            "llama",
            {"trainable_token_indices": {"embed_token": [1]}},
            "no module 'embed_token'. Did you mean 'embed_tokens'?",
        ),
        (
            "llama",
            {"trainable_token_indices": [100000]},
            "trainable_token_indices: 100000 is no token of the model's vocabulary",
        ),
    ],
)
def test_names_that_match_nothing(family, config, sentence, tmp_path):
    with pytest.raises(SetupError, match=r"^method\.config") as error:
        wrapped(tmp_path, config, family)
    text = str(error.value)
    assert any(part in text for part in sentence.split("|")), text


@together(
    "family, pattern, number",
    [
        ("bert", r".*\.layer\.\d+\.attention\.self\.(query|value)", 4),
        ("bert", "bert.*(query|que.y|quer[yz])", 2),
        ("bert", r"(?!.*(vision|vale)).*(query|value)", 4),
        ("bert", "(?i).*QUERY", 2),
        ("llama", r".*\.(q|v)_proj", 4),
        ("llama", r"model\.layers?\.[0-9]+\.self_attn\.q_proj", 2),
        ("llama", ".*(q_proj|query_key_value|c_attn)", 2),
    ],
)
def test_patterns_of_many_forms_are_taken(family, pattern, number, tmp_path):
    model = wrapped(tmp_path, {"target_modules": pattern}, family)
    assert len([name for name in tiny.trainable(model) if "lora_A" in name]) == number


def test_a_whole_name_is_trained_alone(tmp_path):
    model = wrapped(tmp_path, {"modules_to_save": ["model.norm"]}, "llama")
    trained = [name for name in tiny.trainable(model) if "norm" in name]
    assert trained == ["base_model.model.model.norm.modules_to_save.default.weight"]


# ---------------------------------------------------------------- in force


@together(
    "family, config, sentence",
    [
        ("llama", {"bias": "all"}, "bias: 'all' trains nothing: the adapted layers of this model have no biases"),
        ("llama", {"bias": "lora_only"}, "bias: 'lora_only' trains nothing"),
        ("bert", {"fan_in_fan_out": True}, "fan_in_fan_out: asked True, in force False"),
        ("bert", {"ensure_weight_tying": True}, "LoraConfig would not do what is asked: You have requested"),
        ("bert", {"alora_invocation_tokens": [5]}, "aLoRA is currently only supported for CAUSAL_LM"),
        ("bert", {"r": 0}, "LoraConfig can't be applied to this model: `r` should be a positive integer"),
        ("bert", {"use_dora": True, "velora_config": {}}, "LoraConfig can't be applied to this model: Invalid or"),
    ],
)
def test_options_that_would_not_be_in_force(family, config, sentence, tmp_path):
    with pytest.raises(SetupError, match=r"^method\.config") as error:
        wrapped(tmp_path, config, family)
    assert sentence in str(error.value)


@together(
    "peft_name, family, config, sentence",
    [
        ("IA3Config", "albert", {}, "IA3Config can't be applied to this model: Please specify `target_modules`"),
        ("LoHaConfig", "gpt2", {"target_modules": ["c_attn"]}, "not supported"),
        ("C3AConfig", "bert", {"target_modules": ["query"]}, "method.config.block_size: C3AConfig can't be applied"),
        ("RoadConfig", "bert", {"target_modules": ["query"], "group_size": 48}, "method.config.group_size: RoadConfig"),
        ("PsoftConfig", "bert", {"target_modules": ["query"], "psoft_svd_lowrank_niter": 3}, "will be ignored"),
    ],
)
def test_what_peft_refuses_is_a_sentence(peft_name, family, config, sentence, tmp_path):
    with pytest.raises(SetupError, match=r"^method\.config") as error:
        wrapped(tmp_path, config, family, peft=peft_name)
    assert sentence in str(error.value)


def test_a_value_that_a_layer_does_not_hold_is_refused(tmp_path):
    model = wrapped(tmp_path, {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1})
    asked = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "use_dora": False}
    adapter_readback.check_in_force(model, asked)
    layer = model.get_base_model().bert.encoder.layer[1].attention.self.query
    changes = {
        "r": lambda: layer.r.update(default=8),
        "lora_alpha": lambda: layer.lora_alpha.update(default=16),
        "use_dora": lambda: layer.use_dora.update(default=True),
        "lora_dropout": lambda: layer.lora_dropout.update({"default": torch.nn.Identity()}),
    }
    for key, change in changes.items():
        change()
        with pytest.raises(SetupError, match=f"method.config.{key}: asked .*, in force .*layer.1.attention.self.query"):
            adapter_readback.check_in_force(model, {key: asked[key]})
    layer.scaling["default"] = 1.0
    with pytest.raises(SetupError, match=r"lora_alpha: the scale of layer .* is 1\.0, not 2\.0"):
        adapter_readback.check_in_force(model, {})


def test_a_loss_term_that_nobody_adds_is_found_in_the_model(tmp_path):
    model = tiny.build(tiny.card("bert"), tmp_path)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], kasa_config=peft.KasaConfig())
    with pytest.raises(SetupError, match=r"this method has a loss term \(_get_kasa_loss\), which is not added"):
        adapter_readback.check_in_force(peft.get_peft_model(model, config), {})


def test_what_is_in_force_is_told(tmp_path):
    config = {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "target_modules": ["query", "value"],
        "rank_pattern": {"value": 16},
        "modules_to_save": ["pooler"],
    }
    found = adapter_readback.in_force(wrapped(tmp_path, config))
    assert found == {
        "peft": "LoraConfig",
        "layers": 4,
        "modules": ["query", "value"],
        "r": [4, 16],
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "use_rslora": True,
        "use_dora": False,
        "lora_bias": False,
        "scaling": [2.0, 8 / math.sqrt(4)],
        "init": True,
        "trained_in_full": ["bert.pooler", "classifier"],
    }
    assert adapter_readback.in_force(tiny.build(tiny.card("bert"), tmp_path)) is None
    prompts = wrapped(tmp_path, {"num_virtual_tokens": 4}, peft="PromptTuningConfig")
    assert adapter_readback.in_force(prompts)["num_virtual_tokens"] == 4
