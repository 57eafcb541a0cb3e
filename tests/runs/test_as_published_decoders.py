"""Published settings of language models, in small and in this process: what is run, and what it warns of."""

import pytest

from bench.records import store
from bench.runner import lifecycle
from bench.sweeps import study
from tests.helpers.launching import ROOT

STUDIES = ROOT / "recipes" / "studies"
SMALL = ("training.steps=2", "limit={train: 24, validation: 16, test: 24}", "save=false")


def planned(name):
    """Small system of the variant -> its plan, by the file's name."""
    request = study.SweepRequest(mini=True, variant="as_published")
    found = study.plan([STUDIES / name], request).systems
    return {one.path.stem.removeprefix("as_published-"): one for one in found}


def run(system, folder, *, seed=13, small=SMALL):
    given = [text for text in system.overrides if not text.startswith(("limit=", "training.epochs="))]
    arguments = [str(system.path), *given, *small, "--seed", str(seed), "--out", str(folder)]
    assert lifecycle.main(arguments) == 0
    return store.read(folder)


def test_mistral_learns_whole_texts_and_writes_one_token(tmp_path):
    bands = {
        "published": "{recall_per_label.negative: {low: 0.9, high: 1, source: Some 2020, "
        "measures: recall of the negative}}",
        "published_before": "{recall_per_label.positive: {low: 0.9, high: 1, source: Some 2020}, accuracy: {low: 0, "
        "high: 1, source: Some 2020}}",
    }
    small = (*SMALL, *(f"{key}={value}" for key, value in bands.items()))
    found = run(planned("imdb")["mistral-qlora"], tmp_path / "run", small=small)
    for stage, results in (("before", found.published_before), ("after", found.published)):
        scores = found.scores[stage]["test"]
        negative, positive = scores["recall_per_label"].value
        wanted = {"recall_per_label.negative": negative, "recall_per_label.positive": positive}
        wanted["accuracy"] = scores["accuracy"].value
        for metric, item in results["test"].items():
            assert (item.value, item.inside) == (wanted[metric], item.low <= wanted[metric] <= item.high)
    assert (len(found.published_before["test"]), len(found.published["test"])) == (2, 1)
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    tables = page.partition("## Published results")[2]
    assert tables.index("test before training") < tables.index("recall of the negative")
    assert any(
        "method.compute_dtype: float32" in note and "precision: float32 for fp16" in note for note in found.notes
    )
    for stage in ("before", "after"):
        counts = found.prompts.answers[stage]["test"]
        assert counts["unparsable"] == 0
        assert 0 < counts["mean_new_tokens"] <= 8
        said = f"{stage} test: {counts['fell_back']} of 24 answers name no label, and count as 'negative'"
        assert any(note.startswith(said) for note in found.notes)
    assert found.throughput["train"]["counted"]["loss_items"] == "tokens"
    rates = found.throughput["train"]
    assert 0.9 * rates["real_tokens_per_s"] < rates["loss_tokens_per_s"] < rates["real_tokens_per_s"]
    assert any("pages nothing on a CPU" in note for note in found.notes)


def test_five_untrained_heads_are_five_scores_and_every_one_warns(tmp_path):
    system = planned("imdb")["gemma-zero_shot"]
    assert len(system.seeds) == 5
    small = tuple(text for text in SMALL if not text.startswith("training."))
    records = [run(system, tmp_path / str(seed), seed=seed, small=small) for seed in system.seeds[:2]]
    first, second = [row.scores["after"]["test"]["loss"].value for row in records]
    assert first != second
    for record in records:
        (warning,) = [one for one in record.warnings if "prompting.untrained_head" in one.sentence]
        assert warning.code == "untrained_head"
        assert "the seed draws its weights" in warning.sentence
        page = (tmp_path / str(record.seed) / "report.md").read_text(encoding="utf-8")
        assert page.index("never trained") < page.index("## ")


def test_a_head_for_spans_learns_characters_and_warns(tmp_path):
    found = run(planned("sst2_squad_llama")["squad-head"], tmp_path / "run")
    (warning,) = [warning for warning in found.warnings if warning.code == "offsets_not_tokens"]
    assert "character offsets of answers are learned as token positions" in warning.sentence


@pytest.mark.parametrize("name", ["imdb", "sst2_squad_llama"])
def test_nobody_else_has_these_faults(name):
    own = study.plan([STUDIES / name], study.SweepRequest()).systems
    for recipe in (one.resolved.recipe for one in own):
        assert recipe.spans.offsets == "tokens"
        assert not recipe.prompting.untrained_head
