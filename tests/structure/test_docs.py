"""What the documents name exists: files, recipes, configs, commands, options and keys."""

import re
import shlex

import pytest
import yaml

from bench.cli import main
from bench.config import recipe_names, resolve
from bench.config.recipe import Recipe
from bench.runner import lifecycle
from tests.helpers.launching import ROOT

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md")]


def shell_lines():
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_that_are_named_exist(document):
    text = document.read_text(encoding="utf-8")
    named = set(
        re.findall(r"(?<![\w/.-])((?:bench|recipes|accelerate_configs|scripts|reports|tests)/[\w./-]+\w)", text)
    )
    for path in named:
        assert (ROOT / path).exists() or "<" in path, path
    linked = set(re.findall(r"\]\(([^)#:]+)\)", text))
    for path in linked:
        assert (ROOT / path).exists(), path


def test_readme_commands_are_real():
    seen = []
    for words in shell_lines():
        if words[0].startswith("scripts/"):
            assert (ROOT / words[0]).is_file()
        elif words[1:3] == ["-m", "bench"]:
            main.parser().parse_args(words[3:])
        elif words[0] == main.PROGRAM:
            # Overrides may follow an option; a recipe is there by its name or path.
            options, rest = main.parser().parse_known_args(words[1:])
            assert all("=" in word for word in rest), words
            if hasattr(options, "recipe"):
                resolve.load(ROOT / recipe_names.find(options.recipe), (*options.overrides, *rest))
        elif words[:2] == ["pip", "install"]:
            continue
        else:
            assert words[0] == ".venv/bin/accelerate"
            arguments = words[words.index("bench/run.py") + 1 :]
            options = lifecycle.parser().parse_intermixed_args(arguments)
            resolve.load(ROOT / options.recipe, tuple(options.overrides), options.seed)
            assert (ROOT / words[words.index("--config_file") + 1]).is_file()
        seen.append(words[0])
    assert len(seen) >= 5


def test_the_recipe_in_the_readme_is_the_shipped_one():
    blocks = re.findall(r"```yaml\n# (\S+)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    for path, block in blocks:
        assert yaml.safe_load(block) == yaml.safe_load((ROOT / path).read_text(encoding="utf-8")), path


def test_no_recipe_key_is_an_accelerate_key():
    keys = set(Recipe.model_fields) | {
        key for part in Recipe.model_fields.values() for key in fields_of(part.annotation)
    }
    configs = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
    assert configs
    for config in configs:
        text = config.read_text(encoding="utf-8")
        assert text.startswith("#"), f"{config.name} does not say for whom it is"
        assert keys & set(yaml.safe_load(text)) == set(), config.name


def fields_of(annotation):
    return getattr(annotation, "model_fields", {})


def test_documents_speak_of_the_project_only():
    for path in [*DOCUMENTS, *sorted((ROOT / "recipes").rglob("*.yaml"))]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/work/|/root/|/tmp/|\bissue #?\d|\bsession\b", text), path
