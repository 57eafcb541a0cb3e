"""config/recipe_names.py: `tiny/bert-full` is found from any folder, and a misspelt name gets the nearest ones."""

import pytest

from bench.cli.main import main
from bench.config import recipe_names, resolve
from bench.errors import RecipeError
from tests.helpers.cases import together

GOOD = "dataset: reviews\nmodel: tiny_bert\nmethod: full\n"
SHIPPED = resolve.SHIPPED


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Another working folder than the checkout."""
    monkeypatch.chdir(tmp_path)


@together("name", ["tiny/bert-full", "recipes/tiny/bert-full", "studies/imdb", "studies/minilm/sst2-lora", "tiny"])
def test_what_comes_with_the_package_is_found_by_name(name):
    place = SHIPPED / name.removeprefix("recipes/")
    assert recipe_names.find(resolve.Path(name)) == (place if place.is_dir() else place.with_suffix(".yaml"))


def test_the_working_folders_own_recipes_win(write):
    own = write("recipes/tiny/bert-full.yaml", GOOD)
    assert recipe_names.find(resolve.Path("tiny/bert-full")).samefile(own)
    assert recipe_names.find(resolve.Path("tiny/mistral-lora")) == SHIPPED / "tiny" / "mistral-lora.yaml"


def test_a_path_that_is_there_is_no_name(write):
    write("tiny/bert-full", GOOD)
    assert recipe_names.find(resolve.Path("tiny/bert-full")) == resolve.Path("tiny/bert-full")


@together(
    "name, words",
    [
        ("tiny/bert-ful", "no recipe of this name. Did you mean 'tiny/bert-full'"),
        ("sst2-lora", "Did you mean 'minilm/sst2-lora' or 'studies/minilm/sst2-lora'?"),
        ("studies/imbd", "Did you mean 'studies/imdb'"),
        ("recipes/tiny/bert-full.yaml", "there is no such file. Did you mean 'tiny/bert-full', which comes with"),
        ("qzx/qzx", "`list studies` shows the names."),
    ],
)
def test_a_misspelt_name_gets_the_nearest_ones(name, words):
    with pytest.raises(RecipeError) as raised:
        recipe_names.find(resolve.Path(name))
    assert str(raised.value).startswith(f"{name}: there is no such file")
    assert words in str(raised.value)


@together("name", ["none.yaml", "../tiny", "/tiny/bert-full", "~/tiny/bert-full"])
def test_another_path_is_left_to_its_reader(name):
    assert recipe_names.find(resolve.Path(name)) == resolve.Path(name)


def test_commands_take_names(capsys):
    assert main(["check", "tiny/bert-full"]) == 0
    assert capsys.readouterr().out == "1 recipes and 0 cards checked, 0 problems\n"
    assert main(["check", "tiny/bert-ful"]) == 2
    assert "Did you mean 'tiny/bert-full'" in capsys.readouterr().err
    assert main(["sweep", "tiny/bert-full", "--num-seeds", "1", "--dry-run"]) == 0
    assert str(SHIPPED / "tiny" / "bert-full.yaml") in capsys.readouterr().out
