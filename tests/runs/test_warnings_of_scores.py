"""A run says what its scores hide: one in-process run of each kind, its record, its page."""

from bench.records import store
from bench.runner import lifecycle
from tests.helpers.launching import ROOT

TINY = ROOT / "recipes" / "tiny"


def run(recipe, folder, *overrides):
    assert lifecycle.main([str(TINY / f"{recipe}.yaml"), *overrides, "save=false", "--out", str(folder)]) == 0
    return store.read(folder)


def test_a_collapsed_classifier_is_named_at_the_top_of_its_page(tmp_path):
    found = run("bert-full", tmp_path / "run", "limit={train: 32, test: 20}", "training.epochs=1", "training.warmup=0")
    codes = [warning.code for warning in found.warnings]
    assert codes == ["one_label_predicted", "not_better_than_baseline"]
    assert all(warning.sentence.startswith("after test: ") for warning in found.warnings)
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert page.index("all 20 predictions are the label") < page.index("## ")
    assert set(found.memory_predicted["scoring"]) == {"test"}
    assert found.scores["after"]["test"]["f1_micro"].low == found.scores["after"]["test"]["accuracy"].low


def test_answers_in_words_stand_beside_no_answer_and_what_right_ones_score(tmp_path):
    overrides = ("dataset=passages_v2", "prompting={answer: generate, max_new_tokens: 4}", "limit={test: 16}")
    found = run("llama-zero_shot", tmp_path / "run", *overrides, "evaluation.metrics=[squad_v2, bleu]")
    scores = found.scores["after"]["test"]
    assert set(found.baselines["test"]) >= {"no_answer"}
    assert scores["bleu"].unrewardable is not None
    assert scores["squad_v2_f1"].ceiling == 1
    codes = {warning.code for warning in found.warnings}
    assert codes >= {"not_better_than_baseline", "right_answers_not_rewarded"}
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "for the no_answer baseline" in page
    assert "bleu can't give full marks to" in page
