"""The regression gate on runs of a copy of the project: what is planted there is caught, what is clean passes."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.launching import ROOT, environment

RECIPE = "recipes/tiny/bert-full.yaml"
SHORT = ["--set", "training.epochs=null", "--set", "training.steps=6", "--set", "evaluation.before=false"]
SHORT += ["--set", "limit={train: 192, validation: 16, test: 400}", "--config", "cpu"]


def run_gate(tree, *arguments):
    words = [sys.executable, "-m", "bench", "gate", *map(str, arguments), *SHORT]
    given = environment() | {"PYTHONPATH": str(tree)}
    return subprocess.run(words, cwd=tree, env=given, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the project with a baseline, in which something can be planted."""
    copy = tmp_path_factory.mktemp("copy") / "tree"
    for name in ("bench", "recipes", "accelerate_configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "base"]):
        subprocess.run([*git, *words], cwd=copy, check=True)
    done = run_gate(copy, RECIPE, "--baseline", "baseline", "--write", "--num-seeds", 3, "--jobs", 2)
    assert done.returncode == 0, done.stderr + done.stdout
    return copy


@contextlib.contextmanager
def planted(tree, name, old, new):
    """Inside, one place of a module is another one."""
    path = tree / "bench" / name
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
    path.write_text(text.replace(old, new), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")


WRONG_GRADIENT = "    next(model.parameters()).register_hook(lambda gradient: -gradient)\n"


def test_a_clean_change_passes(tree):
    done = run_gate(tree, RECIPE, "--baseline", "baseline", "--jobs", 2, "-o", "comment.md")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Regression gate: All 6 checks passed\n" in done.stdout
    assert "the same losses at all 6 steps, and accuracy moved by less than 0.005 over 3 seeds" in done.stdout
    assert "bert-full, losses: all 10 losses of 3 seeds agree within 0.0001\n" in done.stdout
    assert "bert-full, gradient norms: all 10 gradient norms of 3 seeds agree within 0.001\n" in done.stdout
    assert "bert-full, schedule: learning rates and numbers of tokens are the same at all steps\n" in done.stdout
    assert "bert-full, data: the same 400 examples were scored\n" in done.stdout
    assert "note: losses were compared step by step\n" in done.stdout
    assert "not compared" not in done.stdout
    assert "&gt;" not in done.stdout
    assert " -> " in done.stdout
    comment = (tree / "comment.md").read_text(encoding="utf-8")
    assert "**All 6 checks passed**" in comment
    assert "&gt;" in comment


def test_two_points_of_accuracy_and_half_of_the_gradient_are_caught_though_all_losses_are_the_same(tree):
    """Of 400 right answers five to eleven are told wrong: for seeds that is chance, but the models are the same.

    AdamW's steps do not show the gradient's scale.
    """
    halves = "    for each in model.parameters():\n        each.register_hook(lambda gradient: gradient / 2)\n"
    damage = """    is_right = [answer.prediction == split.references[number] for number, answer in answers]
    for row in [row for row, right in enumerate(is_right) if right][: len(answers) // 50 + sum(is_right) % 7 - 3]:
        number, answer = answers[row]
        answers[row] = number, type(answer)(prediction=1 - answer.prediction, scores=answer.scores)
"""
    end = "    return Scored(predictions=_assembled(answers, split), "
    plain = "    return model"
    with (
        planted(tree, "evaluation/scoring.py", end, damage + end),
        planted(tree, "methods/full.py", plain, halves + plain),
    ):
        done = run_gate(tree, RECIPE, "--baseline", "baseline", "--jobs", 2, "--out", "damaged")
    assert done.returncode == 1, done.stderr + done.stdout
    assert "2 of 6 checks failed\n" in done.stdout or "3 of 6 checks failed\n" in done.stdout
    assert "FAILED  bert-full, gradient norms: the gradient norm at step 1 is 0." in done.stdout
    assert "they must agree within 0.001\n" in done.stdout
    assert "FAILED  bert-full, scoring: the same losses at all 6 steps, and accuracy dropped by 0.0" in done.stdout
    assert "losses of 3 seeds agree within 0.0001" in done.stdout


def test_on_another_processor_a_wrong_gradient_shows_beside_the_base_commit(tree):
    """Losses are compared with the baseline's so loosely there that this one does not show."""
    path = tree / "elsewhere" / "bert-full.json"
    path.parent.mkdir()
    made = json.loads((tree / "baseline" / "bert-full.json").read_text(encoding="utf-8"))
    made["arithmetic"]["processor"] = "another"
    path.write_text(json.dumps(made), encoding="utf-8")
    words = ["--baseline", "elsewhere", "--jobs", 2, "--against", "HEAD", "--alpha", "0.8", "--out", "o"]
    with planted(tree, "methods/full.py", "    return model", f"{WRONG_GRADIENT}    return model"):
        done = run_gate(tree, RECIPE, *words)
    assert done.returncode == 1, done.stderr + done.stdout
    assert "bert-full, losses: the losses of the first 20 steps of 3 seeds agree within 0.01, since pro" in done.stdout
    assert "FAILED  bert-full, losses of the base commit: the loss at step " in done.stdout
    assert "ok      bert-full, data of the base commit: the same 400 examples were scored" in done.stdout
    assert "they must agree within 0.0001" in done.stdout


def test_a_wrong_gradient_and_a_slower_step_are_caught(tree):
    """Slower by far more than what the timings of a busy machine differ by; 30 % are left to the test above."""
    slow = '    model.register_forward_pre_hook(lambda *_: __import__("time").sleep(0.1))\n'
    words = ["--baseline", "baseline", "--jobs", 2, "--against", "HEAD", "--alpha", "0.8"]
    with planted(tree, "methods/full.py", "    return model", f"{WRONG_GRADIENT}{slow}    return model"):
        done = run_gate(tree, RECIPE, *words)
    assert done.returncode == 1, done.stderr + done.stdout
    assert "FAILED  bert-full, losses: the loss at step " in done.stdout
    kept = Path(done.stderr.partition("runs and logs are kept in ")[2].strip())
    assert len(list(kept.glob("tiny--*/record.json"))) == 3, "somebody wants to look at what failed"
    assert list(kept.glob("speed/bert-full-base-*.txt"))
    shutil.rmtree(kept)
    assert "FAILED  bert-full, speed: slower, a training step: x " in done.stdout
