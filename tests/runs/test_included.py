"""Drop-ins and cards in a folder of one's own, found by `--include` in a real launch."""

import hashlib
import json
import re

from tests.helpers.launching import ROOT, launch

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.DOTALL)
RECIPE = """
dataset: own_reviews
model: tiny_bert
method: top_block
evaluation: {metrics: [accuracy, within_one, balanced]}
training: {steps: 4, global_batch: 16, learning_rate: 1e-3}
"""
METHOD = '''"""The last transformer block and the task head are trained."""

from bench.config.contracts import LoadPlan
from bench.config.recipe import Strict

OBJECTIVES = ("head",)


class Options(Strict):
    """None."""


def load_plan(options):
    return LoadPlan()


def adapt(model, options):
    from bench.models.heads import freeze_body, transformer_blocks

    freeze_body(model)
    transformer_blocks(model)[-1].requires_grad_(True)
    return model
'''


def test_a_run_with_an_included_method_metrics_and_card(write, tmp_path):
    """The metrics are the examples of docs/extending.md, as they stand there."""
    card = (ROOT / "recipes" / "datasets" / "reviews.yaml").read_bytes()
    files = [
        write("own/datasets/own_reviews.yaml", card),
        write("own/methods/top_block.py", METHOD),
        write("own/metrics/within_one.py", next(text for text in EXAMPLES if "within_one" in text)),
        write("own/metrics/balanced.py", next(text for text in EXAMPLES if "balanced_accuracy" in text)),
    ]
    recipe, out = write("elsewhere/study/own.yaml", RECIPE), tmp_path / "out"
    done = launch(recipe, "--include", tmp_path / "own", "--out", out, "limit.train=64", "limit.test=40")
    assert done.returncode == 0, done.stderr
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    assert [note for note in record["notes"] if "included" in note] == [
        f"{path.parent.name}/{path.name} is from the included folder {tmp_path / 'own'}, "
        f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in files
    ]
    scores = record["scores"]["after"]["test"]
    assert set(scores) == {"accuracy", "within_one", "balanced_accuracy"}
    assert scores["within_one"]["value"] == 1  # two labels are never more than one step apart
    assert scores["within_one"]["interval"] == "wilson 95 %"
    code = hashlib.sha256(files[2].read_bytes()).hexdigest()[:12]
    assert scores["within_one"]["signature"] == f"within_one|no_answer:wrong|v1|code:{code}"
    assert scores["balanced_accuracy"]["signature"].startswith("balanced_accuracy|sklearn:balanced_accuracy_score|")
    assert 0 < record["model"]["parameters"]["trainable"] < record["model"]["parameters"]["total"]
