"""`python -m bench check|list|schema` as a person starts them: exit codes, sentences, and no heavy import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.config import registry
from bench.config.resolve import SHIPPED, find_cards, find_recipes
from bench.sweeps.study import find_studies

ROOT = SHIPPED.parent
GOOD = "dataset: reviews\nmodel: tiny_bert\nmethod: full\n"
HEAVY = ("torch", "transformers", "datasets", "evaluate", "accelerate", "peft", "numpy", "pandas", "sklearn")


def bench(*arguments, cwd=ROOT, **options):
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60, **options)


def test_check_without_arguments_checks_everything_shipped():
    done = bench("check")
    beside = set((SHIPPED / "studies").glob("*/*.yaml"))
    own_cards = {path for path in beside if path.parent.name == "datasets"}
    num_cards = len(find_cards("dataset")) + len(find_cards("model")) + len(own_cards)
    studies = find_studies()
    num_recipes = len(find_recipes()) + len(beside - own_cards - set(studies))
    assert (done.returncode, done.stderr) == (0, "")
    counted = (
        f"{num_recipes} recipes, {len(studies)} studies, 1 file of prices and {num_cards} cards checked, 0 problems\n"
    )
    assert done.stdout == counted


def test_check_names_each_problem_and_exits_with_2(write):
    write("study/good.yaml", GOOD)
    bad = write("study/bad.yaml", GOOD + "training: {learning_rat: 1}\n")
    card = write("datasets/mine.yaml", "task: text_classification\nlicens: x\n")
    done = bench("check", bad.parent.parent)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"{card}:2: licens: unknown key. Did you mean 'licence'?",
        f"{card}:1: source: this key is required",
        f"{bad}:4: training.learning_rat: unknown key. Did you mean 'learning_rate'?",
    ]
    assert done.stdout == "2 recipes and 1 cards checked, 3 problems\n"


def test_check_says_once_what_is_wrong_with_a_card_of_many_recipes(write):
    card = write("datasets/mine.yaml", "task: text_classification\nlicens: x\n")
    for name in ("one", "two"):
        recipe = write(f"study/{name}.yaml", GOOD.replace("reviews", "mine"))
    done = bench("check", recipe.parent.parent)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"{card}:2: licens: unknown key. Did you mean 'licence'?",
        f"{card}:1: source: this key is required",
    ]


def test_every_problem_of_a_recipe_is_an_error_of_its_own(write):
    path = write("study/bad.yaml", GOOD + "sed: 3\nsaves: true\n")
    done = bench("plan", path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {path}:4: sed: unknown key. Did you mean 'seed'?",
        f"error: {path}:5: saves: unknown key. Did you mean 'save'?",
    ]


def test_check_of_single_files(write):
    done = bench("check", write("study/good.yaml", GOOD), ROOT / "recipes" / "models" / "tiny_bert.yaml")
    assert (done.returncode, done.stdout) == (0, "1 recipes and 1 cards checked, 0 problems\n")
    # A card is known by its folder, also from inside of it.
    done = bench("check", "reviews.yaml", cwd=ROOT / "recipes" / "datasets", env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (0, "0 recipes and 1 cards checked, 0 problems\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "none.yaml: there is no such file"),
        (
            ["accelerate_configs/cpu.yaml"],
            "accelerate_configs/cpu.yaml:1: dataset: this key is required: the name of a dataset card, "
            "a path, or a name on the Hub\naccelerate_configs/cpu.yaml:1: model: this key is required",
        ),
        (["recipes/tiny/bert-full.yaml", "--set", "x"], "command line: 'x' is not of the form key.path=value"),
        (["recipes/tiny/bert-full.yaml", "--set", "seed=x"], "command line: seed: expected a whole number, got 'x'."),
        (["scripts/benchmarks"], "error: scripts/benchmarks: there are no recipes in this folder"),
    ],
)
def test_check_refuses_with_a_sentence_for_each_problem(arguments, message):
    done = bench("check", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == len(message.splitlines())
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_check_with_good_overrides():
    overrides = ("--set", "training.steps=5", "--set", "model=tiny_gpt2")
    assert bench("check", "recipes/tiny/bert-full.yaml", *overrides).returncode == 0


def test_a_traceback_is_shown_on_request():
    for arguments in (["--traceback", "check", "scripts/benchmarks"], ["check", "scripts/benchmarks", "--traceback"]):
        done = bench(*arguments)
        assert done.returncode != 0
        assert "Traceback" in done.stderr


def test_list_shows_every_file():
    done = bench("list", env={"COLUMNS": "200", "PATH": ""})
    assert (done.returncode, done.stderr) == (0, "")
    words = set(done.stdout.replace(",", " ").split())
    expected = {path.stem for path in (*find_recipes(), *find_cards("dataset"), *find_cards("model"))}
    expected |= {name for kind in registry.KINDS for name in registry.names(kind)}
    assert expected <= words


def test_list_of_one_kind():
    done = bench("list", "metrics")
    assert done.returncode == 0
    assert done.stdout.startswith("metrics")
    assert "accuracy" in done.stdout
    assert "tiny_bert" not in done.stdout


@pytest.mark.parametrize("arguments", [["list", "metric"], ["schema", "x"], ["nonsense"], [], ["check", "--nonsense"]])
def test_wrong_arguments(arguments):
    done = bench(*arguments)
    assert done.returncode == 2
    assert "usage: python -m bench" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["recipe", "dataset", "model"])
def test_schema_is_json(kind):
    done = bench("schema", kind)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["type"] == "object"


def test_schema_is_the_recipes_by_default():
    assert bench("schema").stdout == bench("schema", "recipe").stdout


def test_a_reader_who_leaves_early_is_no_error():
    command = f"{sys.executable} -m bench schema | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_nothing_heavy_is_imported():
    """Five commands, and a recipe of each method, in one fresh interpreter."""
    recipes = [str(path) for path in find_recipes()]
    code = (
        "import sys\nfrom bench.cli.main import main\n"
        f"codes = [main(['check']), main(['check', *{recipes!r}]), main(['list']), main(['schema']),"
        " main(['schema', 'dataset'])]\n"
        f"heavy = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "sys.exit(f'{codes} {heavy}' if any(codes) or heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_card_that_cannot_be_read_does_not_stop_the_list(tmp_path, monkeypatch, capsys):
    from bench.cli import main
    from bench.config import resolve

    (tmp_path / "datasets").mkdir()
    for name, content in (("empty", b""), ("binary", b"\xff\xfe\n"), ("good", b"# Says so.\n"), ("bare", b"task: x\n")):
        Path(tmp_path, "datasets", f"{name}.yaml").write_bytes(content)
    monkeypatch.setattr(resolve, "find_cards", lambda kind: sorted((tmp_path / "datasets").glob("*.yaml")))
    assert main.main(["list", "datasets"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("empty", "binary", "good  ", "bare", "Says so."))


@pytest.mark.parametrize("before", [[], ["--traceback"]])
def test_lm_eval_is_given_its_words_as_they_are(before, monkeypatch):
    from bench.cli import lm_eval, main

    words = ["run", "--model", "bench", "--tasks=a,b", "--help", "--traceback", "--", "x"]
    given = []
    monkeypatch.setattr(lm_eval, "lm_eval_command", lambda options: given.append(options) or 3)
    assert main.main([*before, "lm-eval", *words]) == 3
    assert (given[0].rest, given[0].traceback) == (words, bool(before))


def test_every_command_takes_the_flag_that_confirms_foreign_code():
    from bench.cli import main
    from bench.config import foreign_code
    from bench.runner import lifecycle

    (commands,) = (action for action in main.parser()._actions if isinstance(action.choices, dict))
    assert len(commands.choices) == len(main.COMMANDS)
    for name, command in commands.choices.items():
        assert {foreign_code.FLAG, "--include"} <= set(command._option_string_actions), name
    assert {foreign_code.FLAG, "--include"} <= set(lifecycle.parser()._option_string_actions)
