"""Recipes that quote a plan: no quote is stale, names tell the truth, what is promised of 12 and 24 GiB is there."""

import re

import pytest

from bench.cli import main
from bench.config import resolve
from bench.errors import RecipeError
from bench.memory import recipe_comments, search
from bench.memory.planner import Job, Spread
from bench.utils import hardware
from bench.utils.hardware import GIB
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

QUOTED = {f"{path.parent.name}/{path.stem}": (path, gpu) for path, gpu in recipe_comments.find().items()}
# A plan is off by some; this much must be left.
LEAST_TO_SPARE = 0.05
ALL_LINEAR = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}
STUDIES = ("imdb", "squad", "sst2")
# (model, method, GPU in GiB): one fits where a smaller one is named.
PROMISED = [
    *((model, "qlora", size) for model in ("mistral_7b_v03", "gemma_7b") for size in (12, 24)),
    ("gemma_2b", "lora", 12),
    ("llama32_1b", "full", 24),
]


@together("name", QUOTED)
def test_no_quote_is_stale(name):
    path, gpu = QUOTED[name]
    assert recipe_comments.quote(path, gpu) == recipe_comments.quoted(path)[0], (
        "python -m bench plan --quote writes it anew"
    )


@together("name", QUOTED)
def test_a_quote_leaves_some_memory_and_the_name_says_which_gpu(name):
    path, gpu = QUOTED[name]
    text = " ".join(line.removeprefix("# ") for line in recipe_comments.quoted(path)[0].splitlines())
    total = re.match(r"Plan: (\d+\.\d\d) GiB on each GPU at (\d+) x (\d+) tokens", text)
    assert float(total[1]) * GIB <= (1 - LEAST_TO_SPARE) * hardware.memory(gpu)
    most = re.search(r"largest micro-batch (\d+) x (\d+) ", text)
    assert int(most[1]) >= int(total[2])
    assert most[2] == total[3]
    size = re.search(r"_(\d+)gib$", path.stem)
    assert size is None or gpu == f"{size[1]}GiB"
    # The command at its end is real.
    command = re.search(r"\(python -m bench (.*)\)$", text)[1].split()
    options = main.parser().parse_args(command)
    assert ROOT / options.recipe == path


def test_every_recipe_with_a_size_in_its_name_quotes_a_plan():
    sized = {path for path in resolve.find_recipes() if re.search(r"_\d+gib$", path.stem)}
    assert sized
    assert sized <= {path for path, _ in QUOTED.values()}


@together("study", STUDIES)
@pytest.mark.parametrize(("model", "method", "size"), PROMISED)
def test_what_is_promised_is_there(study, model, method, size):
    found = [(resolve.load(path), gpu) for path, gpu in QUOTED.values() if path.parent.name == study]
    fitting = [
        item.options
        for item, gpu in found
        if (item.model_name, item.recipe.method.name) == (model, method) and hardware.memory(gpu) <= size * GIB
    ]
    assert fitting
    if method != "full":
        assert all(options.config == ALL_LINEAR for options in fitting)


# Figures published elsewhere for a micro-batch of one text of 512 tokens are to be beaten.
@pytest.mark.parametrize(("model", "most"), [("mistral_7b_v03", 5.5), ("gemma_7b", 7.5)])
def test_qlora_of_one_text_is_sparing(model, most):
    path = resolve.SHIPPED / "imdb" / f"{model}-text_qlora_12gib.yaml"
    job = Job.of(resolve.load(path, ("training.per_device_batch=1",)), Spread())
    assert job.predict(1, 512).total < most * GIB
    assert job.predict(1, 1024).needed < 12 * GIB


def test_a_quote_is_written_once_and_refreshed(write, capsys):
    text = "# What it is for.\n\ndataset: reviews\nmodel: tiny_llama  # small\nmethod: lora\n"
    path = write("study/own.yaml", text)
    assert main.main(["plan", str(path), "--quote"]) == 2
    assert "quotes no plan yet; say for which GPU" in capsys.readouterr().err
    assert main.main(["plan", str(path), "--quote", "--gpu", "1GiB"]) == 0
    assert capsys.readouterr().out == "own.yaml: quotes its plan anew\n"
    quoted = path.read_text(encoding="utf-8")
    assert quoted.startswith("# What it is for.\n# Plan: 0.5")
    assert quoted.endswith(text.partition("\n")[2])
    assert recipe_comments.quoted(path) == (recipe_comments.quote(path, "1GiB"), "1GiB")
    path.write_text(re.sub(r"Plan: \S+", "Plan: 9.99", quoted), encoding="utf-8")
    assert main.main(["plan", str(path), "--quote"]) == 0
    assert path.read_text(encoding="utf-8") == quoted
    capsys.readouterr()
    assert main.main(["plan", str(path), "--quote"]) == 0
    assert capsys.readouterr().out == ""


def test_what_does_not_fit_is_not_quoted(write, capsys):
    path = write("study/own.yaml", "dataset: reviews\nmodel: tiny_llama\nmethod: lora\n")
    assert main.main(["plan", str(path), "--quote", "--gpu", "100 MB"]) == 2
    assert "which does not fit 100 MB" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8").startswith("dataset")


def test_a_torn_quote_is_told(write):
    path = write("study/own.yaml", "# Plan: 1.00 GiB\ndataset: reviews\nmodel: tiny_llama\nmethod: lora\n")
    with pytest.raises(RecipeError, match="does not end in its command"):
        recipe_comments.quoted(path)


def test_a_micro_batch_below_the_whole_share_keeps_its_gradients():
    """Else one that is nearly the share would seem to need less than one of half its rows."""
    job = Job.of(resolve.load(resolve.SHIPPED / "sst2" / "llama32_1b-full.yaml"), Spread())
    needs = [job.predict(rows, 128).needed for rows in (8, 16, 17, 31)]
    assert needs == sorted(needs)
    assert [job.predict(rows, 128).accumulation for rows in (8, 31, 32)] == [4, 2, 1]


def test_a_search_tries_few_sizes():
    """It proves its border by what it knows already, where it can."""
    job = Job.of(resolve.load(resolve.SHIPPED / "tiny" / "mistral-lora.yaml"), Spread())
    room = job.predict(77, 128).needed + 10_000
    assert search.largest_batch(job, 128, room) == 77
    assert len(job._usages) <= 6
