"""Folders of models: found from the file that names them, from whatever working folder a command is given."""

from pathlib import Path

import pytest

from bench.config.model_paths import resolved
from bench.config.resolve import load
from tests.helpers.cases import together

RECIPE = "dataset: reviews\nmodel: {model}\nmethod: full\n"
CARD = "id: {id}\nfamily: encoder\nlicence: none\nmax_length: 64\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """place(id in a card, folders that there are, working folder) -> (model.id, tokenizer.id) as resolved."""

    def found(name, *folders, within="elsewhere", recipe="mine", tokenizer=None, overrides=()):
        for folder in ("study", "models", "elsewhere", *folders):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        card = CARD.format(id=name) + (f"tokenizer: {{id: {tokenizer}}}\n" if tokenizer else "")
        (tmp_path / "models" / "mine.yaml").write_text(card)
        (tmp_path / "study" / "own.yaml").write_text(RECIPE.format(model=recipe))
        monkeypatch.chdir(tmp_path / within)
        card = load(tmp_path / "study" / "own.yaml", overrides).recipe.model
        assert not isinstance(card.id, Path)
        return card.id.replace(f"{tmp_path}/", "ROOT/"), (card.tokenizer.id or "").replace(f"{tmp_path}/", "ROOT/")

    return found


def test_a_path_in_a_card(place):
    assert place("weights/m", "models/weights/m")[0] == "ROOT/models/weights/m"


def test_a_path_from_the_project(place):
    assert place("out/model", "out/model")[0] == "ROOT/out/model"
    assert place("out/model", within=".")[0] == "ROOT/out/model"


def test_a_path_from_the_working_folder(place):
    assert place("here/m", "elsewhere/here/m")[0] == "ROOT/elsewhere/here/m"


def test_a_path_is_never_asked_for_on_the_hub(place):
    assert place("./gone")[0] == "ROOT/models/gone"
    assert place("../gone/m")[0] == "ROOT/gone/m"
    assert place("../out/model", "out/model")[0] == "ROOT/out/model"


def test_a_path_in_a_recipe_and_on_the_command_line(place):
    recipe = "{card: mine, id: ../out/m}"
    assert place("x/y", "out/m", recipe=recipe)[0] == "ROOT/out/m"
    assert place("x/y", "elsewhere/z", overrides=("model.id=./z",))[0] == "ROOT/elsewhere/z"
    assert place("x/y", overrides=("model.id=../gone",))[0] == "ROOT/gone"


def test_the_tokenizers_path(place):
    assert place("x/y", "models/tok", tokenizer="./tok") == ("x/y", "ROOT/models/tok")


def test_a_name_on_the_hub_stays(place):
    assert place("google-bert/bert-base-uncased")[0] == "google-bert/bert-base-uncased"


@together("name", ["/tmp/a/../b", "gpt2", "owner/name", "a/b/c"])
def test_what_is_left_as_it_is(name, tmp_path):
    assert resolved(name, [tmp_path]) == name


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolved("~/m", [Path("/elsewhere")]) == f"{tmp_path}/m"
