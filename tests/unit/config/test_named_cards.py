"""Models by name: a folder's own config makes its card; what a name means, what is refused, and how that is said."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import transformers
from safetensors.numpy import save_file

from bench.config import card_text, named_cards, registry, resolve
from bench.errors import RecipeError
from tests.helpers.cases import together

RECIPE = "dataset: reviews\nmodel: {model}\nmethod: full\n"
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64, "intermediate_size": 32}


@pytest.fixture(autouse=True)
def _fresh():
    named_cards.forget()


@pytest.fixture
def folder(tmp_path):
    """folder(name, kind of config, stored type, licence, **fields of the config) -> the folder of a model."""

    def made(name, kind="llama", stored=None, licence=None, **fields):
        place = tmp_path / name
        config = transformers.AutoConfig.for_model(kind, **{**SIZES, **fields})
        config.save_pretrained(place)
        if stored:
            save_file({"weight": np.zeros(2, stored)}, place / "model.safetensors")
        if licence:
            (place / "README.md").write_text(f"---\nlicense: {licence}\ntags: [x]\n---\n\n# Model\n")
        return place

    return made


@pytest.fixture
def load(write, monkeypatch, tmp_path):
    """load(what `model:` says, *overrides) -> Resolved; the recipe is study/own.yaml, the working folder is another."""

    def loaded(model, *overrides, text=RECIPE, **cards):
        for name, content in cards.items():
            write(f"models/{name}.yaml", content)
        path = write("study/own.yaml", text.format(model=model))
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        return resolve.load(path, overrides)

    return loaded


@pytest.fixture
def refused(load, tmp_path):
    def message(*arguments, **more):
        with pytest.raises(RecipeError) as caught:
            load(*arguments, **more)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return message


# What a made card says


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("bert", {}, ("encoder", 512, "float32", "sdpa")),
        ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, ("encoder", 512, "float32", "sdpa")),
        ("llama", {"max_position_embeddings": 2048, "dtype": "bfloat16"}, ("decoder", 2048, "bfloat16", "sdpa")),
        ("gemma2", {"max_position_embeddings": 8192, "dtype": "bfloat16"}, ("decoder", 8192, "bfloat16", "eager")),
        ("deberta-v2", {}, ("encoder", 512, "float32", "eager")),
        ("gpt2", {"n_positions": 1024, "dtype": "float16"}, ("decoder", 1024, "float16", "sdpa")),
        ("t5", {"d_model": 32, "d_kv": 16, "num_layers": 1}, ("encoder_decoder", None, "float32", "sdpa")),
        ("bart", {"max_position_embeddings": 1024}, ("encoder_decoder", 1024, "float32", "sdpa")),
        ("modernbert", {"max_position_embeddings": 8192}, ("encoder", 8192, "float32", "sdpa")),
        ("bert", {"is_decoder": True}, ("decoder", 512, "float32", "sdpa")),
    ],
)
def test_the_facts_of_a_config(folder, load, kind, fields, expected):
    place = folder("m", kind, **fields)
    card = load("../m").recipe.model
    assert (card.family, card.max_length, card.dtype, card.attention) == expected
    assert (card.id, card.revision, card.licence, card.weights) == (str(place), None, None, "pretrained")


def test_the_text_part_of_a_wrapped_model(tmp_path, load):
    text = transformers.AutoConfig.for_model("gemma3_text", **SIZES, max_position_embeddings=4096)
    config = transformers.AutoConfig.for_model("gemma3", text_config=text.to_dict(), dtype="bfloat16")
    config.save_pretrained(tmp_path / "m")
    card = load("../m").recipe.model
    assert (card.family, card.max_length, card.dtype) == ("decoder", 4096, "bfloat16")


def test_what_lies_beside_the_config(folder, load):
    place = folder("m", "t5", d_model=32, d_kv=16, num_layers=1, stored="float16", licence="apache-2.0")
    (place / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    card = load("../m").recipe.model
    assert (card.max_length, card.dtype, card.licence) == (512, "float16", "apache-2.0")
    (place / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert load("../m").recipe.model.max_length is None


def test_the_recipes_length_is_no_longer_than_the_context(folder, load):
    folder("short", max_position_embeddings=64)
    folder("long", max_position_embeddings=4096)
    assert (load("../short").recipe.max_length, load("../long").recipe.max_length) == (64, 256)


def test_a_hand_written_card_of_the_same_facts_is_the_same_recipe(folder, load):
    place = folder("m", max_position_embeddings=2048, dtype="bfloat16", licence="mit")
    card = f"id: {place}\nfamily: decoder\nlicence: MIT License\nmax_length: 2048\ndtype: bfloat16\nattention: sdpa\n"
    assert load("mine", mine=card).hash == load("../m").hash
    assert load("mine", mine=card.replace("2048", "1024")).hash != load("../m").hash


def test_the_printed_card_gives_the_same_recipe(folder, load, tmp_path, monkeypatch):
    folder("m", max_position_embeddings=2048, dtype="bfloat16", licence="mit")
    made = load("../m")
    text = card_text.text_of("model", "../m", [], "2026-11-29")
    assert "# ../m" not in text.splitlines()[0]
    assert "family: decoder  # model_type 'llama'" in text.splitlines()
    assert "max_length: 2048  # max_position_embeddings of the config" in text.splitlines()
    kept = load("kept", kept=text)
    assert (kept.hash, kept.recipe) == (made.hash, made.recipe)
    assert (kept.name, made.name) == ("study--kept--full", "study--m--full")


def test_the_printed_card_says_what_it_is_told(folder, load, tmp_path):
    folder("m")
    load("../m")
    text = card_text.text_of("model", "../m", ["dtype=bfloat16", "license=MIT"], "2026-11-29")
    assert "dtype: bfloat16" in text.splitlines()
    assert "licence: MIT" in text.splitlines()
    assert card_text.text_of("model", "tiny_bert", [], "").startswith("# ")
    with pytest.raises(RecipeError, match=r"dtyp: unknown key\. Did you mean 'dtype'"):
        card_text.text_of("model", "../m", ["dtyp=bfloat16"], "2026-11-29")


@together(
    "value", ["no", "1e-3", "a: b", "x # y", "ünï", "a\nb", "plain text", "", "null", 3, 1e-5, None, True, "-", "=1"]
)
def test_values_are_read_back_as_they_were(value):
    from bench.config.yaml_loader import Document

    text = f"a: {card_text.flow({'k': [value, {'v': value}]})}"
    assert Document(text, "x").data == {"a": {"k": (value, {"v": value})}}


# What a name means


def test_where_a_path_starts(folder, load, tmp_path):
    folder("study/beside")
    folder("project")
    folder("elsewhere/here")
    starts = {"beside": "study/beside", "project": "project", "here": "elsewhere/here"}
    for name, place in starts.items():
        for written in (name, f"./{name}", f"{{path: {name}}}", f"{{id: ./{name}}}", str(tmp_path / place)):
            assert load(written).recipe.model.id == str(tmp_path / place), written
    # On the command line it is the working folder.
    assert load("tiny_bert", "model=here").recipe.model.id == str(tmp_path / "elsewhere/here")
    assert load("tiny_bert", "model={path: ./here, dtype: float16}").recipe.model.dtype == "float16"


def test_a_card_goes_before_a_folder_of_its_name(folder, load):
    folder("study/tiny_bert")
    assert load("tiny_bert").recipe.model.weights == "random"
    assert load("./tiny_bert").recipe.model.id.endswith("/study/tiny_bert")


def test_other_keys_replace_what_was_found(folder, load):
    folder("m", max_position_embeddings=2048)
    resolved = load("{path: ../m, max_length: 100, licence: MIT}", "model.attention=eager")
    card = resolved.recipe.model
    assert (card.max_length, card.licence, card.attention) == (100, "MIT", "eager")
    assert resolved.card_overrides == {"model.attention": "eager"}  # the mapping is what the model is


def test_the_command_line_names_another_one(folder, load):
    folder("m", "bert")
    folder("elsewhere/other", "llama")
    lora = "method=lora"
    assert load("../m", "model.path=other").recipe.model.family == "decoder"
    assert load("{path: ../m, dtype: float16}", "model.id=./other", lora).recipe.model.dtype == "float16"
    assert load("{path: ../m, dtype: float16}", "model=tiny_bert", lora).recipe.model.dtype == "float32"
    assert load("{path: ../m}", "model.card=tiny_bert").recipe.model.id is None


def test_what_a_data_set_is_named_by(tmp_path, write):
    write("rows.csv", "a")
    write("tasks/own.yaml", "a")

    def spec(name):
        meant = named_cards.meant("dataset", name, "x", starts=[tmp_path], cards=["reviews"], is_card=False)
        return meant.spec, named_cards.shown(meant.spec)

    assert spec("rows.csv") == ({"path": f"{tmp_path}/rows.csv"}, "rows.csv")
    assert spec("a/b") == ({"id": "a/b"}, "a/b")
    assert spec("a/b:c@main") == ({"id": "a/b", "config": "c", "revision": "main"}, "a/b:c@main")
    assert spec("lm_eval:arc_easy") == ({"lm_eval": "arc_easy"}, "lm_eval:arc_easy")
    assert spec("lm_eval:tasks/own.yaml") == ({"lm_eval": f"{tmp_path}/tasks/own.yaml"}, "lm_eval:own.yaml")
    assert spec({"path": "rows.csv", "delimiter": ";"})[0] == {"path": f"{tmp_path}/rows.csv", "delimiter": ";"}
    assert spec({"id": "a/b", "config": "c"})[0] == {"id": "a/b", "config": "c"}


def test_a_task_file_is_relative_to_what_names_it(tmp_path, write, monkeypatch):
    write("study/own.yaml", "a")
    write("study/two.yml", "a")
    write("elsewhere/own.yaml", "a")
    monkeypatch.chdir(tmp_path / "elsewhere")
    starts = named_cards.starts_of(tmp_path / "study" / "recipe.yaml")

    def meant(name, starts):
        return named_cards.meant("dataset", name, "x", starts=starts, cards=[], is_card=False)

    for name in ("own.yaml", "./own.yaml", "two.yml", "./two.yml"):
        for chosen in (f"lm_eval:{name}", {"lm_eval": name}):
            assert meant(chosen, starts).spec == {"lm_eval": f"{tmp_path}/study/{name.removeprefix('./')}"}, chosen
    assert meant("lm_eval:own.yaml", named_cards.starts_of(None)).spec == {"lm_eval": f"{tmp_path}/elsewhere/own.yaml"}
    assert named_cards.short_name(meant("lm_eval:two.yml", starts).spec) == "two"
    for chosen in ("lm_eval:gone.yml", {"lm_eval": "gone.yml"}):
        with pytest.raises(RecipeError, match=r"there is no task file 'gone\.yml'; looked in") as caught:
            meant(chosen, starts)
        assert str(caught.value).count(str(tmp_path)) == 3


ROWS = "a;b\n" + "".join(f"text {number} of these;{'good' if number % 2 else 'bad'}\n" for number in range(40))
ROWS = ROWS.replace("a;b", "text;label")


@together("card", ["reviews", "{card: reviews, prompt: {template: '{text}'}}"])
def test_the_command_line_names_data_in_place_of_a_card(load, write, card):
    write("elsewhere/rows.csv", ROWS)
    text = f"dataset: {card}\nmodel: tiny_llama\nmethod: zero_shot\nobjective: text\n"
    for order in (1, -1):
        sets = ["dataset.path=rows.csv", "dataset.delimiter=;", "dataset.columns.label=label"][::order]
        resolved = load("", *sets, text=text.replace("{", "{{").replace("}", "}}"))
        card_of = resolved.recipe.dataset
        assert (resolved.dataset_name, card_of.source.kind, card_of.labels) == ("rows", "csv", ("bad", "good"))
        assert (card_of.prompt.template == "{text}") == (card != "reviews")


def test_the_command_line_names_a_folder_in_place_of_a_model_card(load, folder):
    folder("elsewhere/m", "llama")
    assert load("tiny_bert", "model.path=m", "method=lora").recipe.model.family == "decoder"


@together("key, near", [
    ("delimter", "delimiter"), ("encodin", "encoding"), ("pth", "path"), ("colums", "columns"), ("quotin", "quoting"),
])  # fmt: skip
def test_a_misspelt_key_by_which_data_are_found(refused, write, key, near):
    write("study/rows.csv", ROWS.replace(";", ","))
    text = f"dataset: {{{{path: rows.csv, {key}: x}}}}\nmodel: tiny_bert\nmethod: full\n"
    assert f"dataset.{key}: unknown key. Did you mean '{near}'?" in refused("", text=text)


def test_data_are_said_to_be_in_one_place(refused, write):
    write("study/rows.csv", ROWS)
    text = "dataset: {{path: rows.csv, delimiter: ;, source: {{folder: other}}}}\nmodel: tiny_bert\nmethod: full\n"
    told = "study/own.yaml:1: dataset: `path` says where the data are, and so does `source.folder`; remove one of them"
    assert told in refused("", text=text)
    plain = text.replace(", source: {{folder: other}}", "")
    assert "and so does `source.folder`" in refused("", "dataset.source.folder=other", text=plain)


def test_a_model_in_a_subfolder(load, refused, folder, tmp_path):
    folder("org/m", "llama")
    for written in ("{path: ../org, subfolder: m}", "{id: ../org, subfolder: m}"):
        model = load(written, "method=lora").recipe.model
        assert (model.id, model.subfolder, model.family) == (str(tmp_path / "org/m"), "", "decoder")
    assert "org/gone' is no folder" in refused("{path: ../org, subfolder: gone}")
    assert "model.subfolder: expected text, got 3" in refused("{path: ../org, subfolder: 3}")
    told = "model: 'a/b' with subfolder 'c': a subfolder is not read from the Hub; download the repository, as by `hf"
    assert told in refused("{id: a/b, subfolder: c}")


def test_a_mapping_is_understood_by_the_command_that_prints_cards(write, folder, tmp_path, monkeypatch, capsys):
    from bench.cli import main

    write("rows.csv", ROWS)
    folder("org/m", "llama")
    monkeypatch.chdir(tmp_path)
    for text, first in {
        "{path: rows.csv, delimiter: ;}": "# rows.csv, by `python -m bench card '{path: rows.csv, delimiter: ;}' --as",
        "{path: org, subfolder: m}": "# org, by `python -m bench card '{path: org, subfolder: m}' --as model` on 2",
        "{path: org/m}": "# m, by `python -m bench card '{path: org/m}' --as model` on 2",
    }.items():
        assert main.main(["card", text]) == 0
        assert capsys.readouterr().out.startswith(first), text
    for text, told in {
        "{path: gone.csv}": "card.path: there is no file or folder './gone.csv'",
        "{card: reviews, labels: [a]}": "name the card alone, and change a copy of it",
        "{path: rows.csv": "not valid YAML",
    }.items():
        assert main.main(["card", text]) != 0
        found = capsys.readouterr().err
        assert told in " ".join(found.split()), text
        assert "Known:" not in found


def test_random_weights_need_no_more_than_an_architecture(load):
    text = "{weights: random, architecture: {model_type: llama, hidden_size: 64}, tokenizer: {train: bpe}}"
    resolved = load(text)
    assert (resolved.recipe.model.family, resolved.name) == ("decoder", "study--llama--full")


def test_family_and_licence_are_not_needed_in_a_card(folder, load):
    place = folder("m", "t5", d_model=32, d_kv=16, num_layers=1)
    card = load("mine", mine=f"id: {place}\nmax_length: 64\n").recipe.model
    assert (card.family, card.licence) == ("encoder_decoder", None)
    assert load("mine", mine="weights: random\narchitecture: {model_type: bert}\n").recipe.model.family == "encoder"


def test_a_licence_in_another_spelling(load, refused):
    card = "id: a/b\nfamily: encoder\nlicense: MIT\n"
    assert load("mine", mine=card).recipe.model.licence == "MIT"
    assert load("{card: mine, licence: other}", mine=card).recipe.model.licence == "other"
    assert load("{card: mine, license: other}", "model.license=last", mine=card).recipe.model.licence == "last"
    twice = refused("mine", mine=card + "licence: MIT\n")
    assert twice == "models/mine.yaml:3: license: this is 'licence' in another spelling, which is given too; remove one"
    assert "models/mine.yaml:3: license: expected text, got 3" in refused("mine", mine=card.replace("MIT", "3"))


@together("name, safe", [
    ({"id": "Qwen/Qwen3-0.6B", "revision": "x/y"}, "Qwen3-0.6B"),
    ({"id": "nyu-mll/glue", "config": "sst2"}, "glue-sst2"),
    ({"path": "/data/my tickets (1).csv"}, "my-tickets-1-.csv"),
    ({"path": "/data/ünï"}, "n"),
    ({"path": "/data/.."}, "unnamed"),
    ({"lm_eval": "arc_easy"}, "arc_easy"),
    ({"lm_eval": "/tasks/my task.yaml"}, "my-task"),
])  # fmt: skip
def test_names_are_safe_for_folders(name, safe):
    assert named_cards.short_name(name) == safe
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", safe)


def test_the_record_says_what_was_made(folder, load):
    place = folder("m", dtype="bfloat16", licence="mit")
    resolved = load("{path: ../m, dtype: float16}", "method=lora")
    record = resolve.first_record(resolved)
    made = record.recipe.made_cards["model"]
    assert made["card"]["dtype"] == "bfloat16"
    assert made["sources"]["dtype"] == "dtype of the config"
    assert record.recipe.resolved["model"]["dtype"] == "float16"
    assert record.recipe.as_written["model"] == {"path": "../m", "dtype": "float16"}
    assert set(record.files) >= {"recipe/own.yaml"}
    assert not any(name.startswith("models/") for name in record.files)
    assert len(made["notes"]) == 1
    assert (
        f"made from the config of {'/'.join(place.parts[-2:])} (llama, no class named): decoder, " in made["notes"][0]
    )
    assert resolved.made_notes == made["notes"]
    assert resolve.first_record(load("tiny_bert")).recipe.made_cards == {}


# What is refused


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "tiny_brt",
            "study/own.yaml:2: model: there is no model card 'tiny_brt'. Did you mean 'tiny_bert'?",
        ),
        ("./gone", "study/own.yaml:2: model: there is no folder './gone'; looked in "),
        ("../mm", "Did you mean 'm'?"),
        ("zzz", "xlm_roberta_base. A name on the Hub is written owner/name, a file or folder ./name."),
        ("{path: gone}", "study/own.yaml:2: model.path: there is no folder './gone'"),
        ("{id: 3}", "study/own.yaml:2: model.id: expected text, got 3"),
        ("{dtype: float16}", "study/own.yaml:2: model: expected the name of a model card, or a mapping with `card`"),
        ("{id: a/b, path: ../m}", "`id` and `path` each name a model; give one of them"),
        ("{id: a/b@main, revision: x}", "'a/b@main' says the revision too; give it once"),
        ("{path: ../m, revision: x}", "is a folder, which has no revision"),
        ("{path: ../m, dtyp: float16}", "study/own.yaml:2: model.dtyp: unknown key. Did you mean 'dtype'?"),
        ("../empty", "has no config.json, which every model of transformers has; it holds notes.txt"),
        ("../adapter", "holds an adapter of 'a/base', not a whole model"),
        ("../gguf", "holds GGUF weights, which are not read"),
        ("../broken", "broken' can't be read: Expecting value"),
        ("../typeless", "names no model_type"),
        ("../vit", "is of type 'vit' (ViTModel), which is no model of texts that can be trained here"),
        ("../new", "is of type 'brand_new', which transformers "),
        ("../own_code", "it runs code of its own; write `trust_remote_code: true`"),
        ("{path: ../own_code, trust_remote_code: true}", "confirm it with --trust-remote-code"),
        ("{architecture: {hidden_size: 3}, weights: random}", "an `architecture` needs a `model_type`"),
        ("{architecture: {model_type: lama}, weights: random}", "there is no model type 'lama'"),
        ("nobody/nothing", "nobody/nothing is not in the local cache"),
        ("google/gemma-2b", "; the card 'gemma_2b' describes this model"),
        ("google-bert/bert-base-uncasd", "Did you mean 'google-bert/bert-base-uncased'?"),
    ],
)
def test_what_is_refused(refused, folder, write, model, message):
    folder("m")
    write("empty/notes.txt", "x")
    write("adapter/adapter_config.json", '{"base_model_name_or_path": "a/base"}')
    write("gguf/model.gguf", "x")
    write("broken/config.json", "x")
    write("typeless/config.json", "{}")
    write("vit/config.json", '{"model_type": "vit", "architectures": ["ViTModel"]}')
    write("new/config.json", '{"model_type": "brand_new"}')
    write("own_code/config.json", '{"model_type": "theirs", "auto_map": {"AutoConfig": "x.Y"}}')
    assert message in refused(model)


def test_a_misspelt_path_that_could_be_a_name_on_the_hub(refused, folder, monkeypatch, tmp_path):
    folder("models/tiny-bert")
    monkeypatch.chdir(tmp_path)
    said = refused("models/tiny-brt")
    assert "models/tiny-brt is not in the local cache" in said
    assert "; nor is there a file or folder of this name in models. Did you mean 'models/tiny-bert'?" in said
    assert "nor is there" not in refused("nobody/nothing")


def test_all_problems_at_once(refused):
    more = "lr: 1\ntraining: {batch_size: 3, epochs: 0}\n"
    text = "dataset: reviws\nmodel: nobody/nothing\nmethod: {name: lora, lora_r: 8}\n" + more
    found = refused("", text=text.replace("{", "{{").replace("}", "}}"))
    for line in (
        "study/own.yaml:1: dataset: there is no dataset card 'reviws'. Did you mean 'reviews'?",
        "study/own.yaml:2: model: nobody/nothing is not in the local cache",
        "study/own.yaml:3: method.lora_r: unknown key. Here it is `method.config.r`.",
        "study/own.yaml:4: lr: unknown key. Here it is `training.learning_rate`.",
        "study/own.yaml:5: training.batch_size: unknown key. Here it is `training.global_batch`.",
        "study/own.yaml:5: training.epochs: expected a number greater than 0, got 0.",
    ):
        assert line in found
    assert len(found.splitlines()) == 6


def test_a_misspelt_key_is_told_where_no_card_could_be_made(refused):
    found = refused("{path: gone, dtyp: float16, tokenizer: {idd: x}}").splitlines()
    keys = [line.partition(": ")[2].partition(":")[0] for line in found]
    assert keys == ["model.path", "model.tokenizer.idd", "model.dtyp"]


def test_a_class_that_has_no_head_for_the_task(refused, load, folder):
    folder("m", "pegasus", d_model=32, encoder_layers=1, decoder_layers=1)
    assert "own.yaml:2: model: a model of type 'pegasus' has no class in transformers for this task" in refused("../m")
    assert load("../m", "objective=text").recipe.model.family == "encoder_decoder"


def test_names_of_other_tools(refused):
    text = RECIPE + "KEY: 3\n"
    for key, place in {
        "num_train_epochs": "it is `training.epochs`", "model_name_or_path": "it is `model`",
        "lora_alpha": "it is `method.config.lora_alpha`",
        "per_device_train_batch_size": "it is `training.per_device_batch`", "cutoff_len": "it is `max_length`",
        "gradient_accumulation_steps": "it is set by nothing: it follows from", "bf16": "it is set by the accelerate",
        "learning-rate": "it is `training.learning_rate`", "output_dir": "it is set by `--out`",
    }.items():  # fmt: skip
        assert f"4: {key}: unknown key. Here {place}" in refused("tiny_bert", text=text.replace("KEY", key)), key


def test_every_name_of_other_tools_leads_to_a_key():
    from bench.config import other_tools
    from bench.config.recipe import Recipe

    places = [name.strip("`") for name in other_tools.hints().values()]
    assert len(places) > 40
    for place in places:
        model = Recipe
        first, *rest = place.split(".")
        assert first in Recipe.model_fields, place
        if first == "method":
            methods = [registry.load("methods", name).Options.model_fields for name in registry.names("methods")]
            assert not rest or any(rest[0] in fields for fields in methods), place
            continue
        for part in place.split("."):
            field = model.model_fields[part]
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            model = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)


def test_making_cards_is_imported_without_torch():
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(('torch', 'transformers', 'huggingface_hub')))\n"
        "import bench.models.card_from_config\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
