"""What the documents name exists: files, links, recipes, configs, commands, options and keys; the pages build."""

import ast
import os
import re
import subprocess
import sys

import pytest
import yaml

from bench.cli import main
from bench.config import recipe_names, resolve
from bench.config.recipe import Recipe
from bench.runner import lifecycle
from scripts import reference_pages
from tests.helpers import blocks
from tests.helpers.launching import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md", "recipes/README.md")]
DOCUMENTS += PAGES
MOST_WORDS = 900
# What a browser loads by itself, and where it is from.
LOADED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?([^\"'\s>]+)")


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_paths_that_are_named_exist(document):
    text = document.read_text(encoding="utf-8")
    named = set(
        re.findall(r"(?<![\w/.-])((?:bench|recipes|accelerate_configs|scripts|reports|tests)/[\w./-]+\w)", text)
    )
    # Generated pages give examples of names, and `reports` is a word there.
    for path in named if document.parent.name != "reference" else ():
        assert (ROOT / path).exists() or "<" in path, path
    for path in set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)):
        assert (document.parent / path).exists(), path


def test_the_readme_is_short():
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert 300 < len(words) < MOST_WORDS


def test_commands_are_real():
    seen = []
    for document, words in blocks.commands([*PAGES, ROOT / "README.md"]):
        if words[0].startswith("scripts/"):
            assert (ROOT / words[0]).is_file()
        elif words[0] == main.PROGRAM:
            # Overrides may follow an option; a recipe is there by its name or path.
            options, rest = main.parser().parse_known_args(words[1:])
            assert words[1] == "lm-eval" or all("=" in word for word in rest), (document, words)
            seen.append(words[1])
            if getattr(options, "recipe", None):
                resolve.load(ROOT / recipe_names.find(options.recipe), (*options.overrides, *rest))
        elif words[:2] == ["pip", "install"]:
            continue
        else:
            assert words[0] == ".venv/bin/accelerate", (document, words)
            arguments = words[words.index("bench/run.py") + 1 :]
            options = lifecycle.parser().parse_intermixed_args(arguments)
            resolve.load(ROOT / options.recipe, tuple(options.overrides), options.seed)
            assert (ROOT / words[words.index("--config_file") + 1]).is_file()
    # Each command is shown on some page, but for those that say what there is.
    parsers = set(main.parser()._subparsers._group_actions[0].choices)
    assert parsers - set(seen) <= {"schema"}


def test_recipes_and_cards_that_are_quoted_are_the_shipped_ones():
    quoted = [
        (path, block)
        for document in [*PAGES, ROOT / "README.md"]
        for path, block in re.findall(
            r"```yaml\n# (recipes/\S+)\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL
        )
    ]
    assert len(quoted) >= 4
    for path, block in quoted:
        assert yaml.safe_load(block) == yaml.safe_load((ROOT / path).read_text(encoding="utf-8")), path


def test_python_is_python():
    found = list(blocks.of("python", PAGES))
    assert len(found) >= 4
    for _, block in found:
        ast.parse(block)


def test_generated_pages_are_those_of_the_code():
    """Make them anew by scripts/reference_pages.py."""
    for name, text in reference_pages.pages().items():
        assert (reference_pages.FOLDER / name).read_text(encoding="utf-8") == text, name
    assert {path.name for path in reference_pages.FOLDER.iterdir()} == set(reference_pages.pages())


def test_reference_pages_name_every_drop_in_key_and_source():
    pages = reference_pages.pages()
    for kind in ("methods", "tasks", "metrics"):
        for name in reference_pages.registry.names(kind):
            assert f"\n## {name}\n" in pages[f"{kind}.md"], name
    for name, text in pages.items():  # else a browser takes it for a tag, and shows nothing
        assert not re.search(r"<[\w/!]", re.sub(r"`[^`]*`", "", text)), name
    metrics = pages["metrics.md"]
    assert metrics.count("\n* Source: ") == len(reference_pages.registry.names("metrics"))
    assert "* Source: \n" not in metrics
    for key in ("## training", "### training.learning_rate", "### training.early_stopping.patience", "## published"):
        assert f"\n{key}\n" in pages["recipe.md"]


def test_the_site_builds_and_asks_for_nothing_from_elsewhere(tmp_path):
    """A warning fails it: a broken link, an anchor that is not there, a page that no menu names."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) == len(PAGES) + 1  # the page of what is not found
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = LOADED.findall(text)
        assert len(loaded) >= 4
        own = [address for address in loaded if not address.startswith(("http:", "https:", "//"))]
        assert own == loaded, page
        # The theme's only other request: a stand-in for workers, which the plugin `offline` writes into pages.
        assert "unpkg.com" not in text
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


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
