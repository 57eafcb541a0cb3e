"""A run says what its scores hide: one in-process run of each kind, its record, its page."""

from bench import console
from bench.records import causes, store
from bench.runner import lifecycle
from tests.helpers.launching import ROOT

TINY = ROOT / "recipes" / "tiny"


def run(recipe, folder, *overrides):
    assert lifecycle.main([str(TINY / f"{recipe}.yaml"), *overrides, "save=false", "--out", str(folder)]) == 0
    return store.read(folder)


def test_a_collapsed_classifier_is_named_at_the_top_of_its_page_and_above_its_scores(tmp_path, capsys, monkeypatch):
    validated = ("training.evaluate_every=1", "limit={train: 32, test: 20, validation: 16}", "max_length=12")
    monkeypatch.setattr(console, "complain", console.say)  # one stream, for the order of its lines
    found = run("bert-full", tmp_path / "run", *validated, "training.epochs=1", "training.warmup=0")
    codes = [warning.code for warning in found.warnings]
    assert codes == ["texts_cut", "weights_not_loaded", "one_label_predicted", "not_better_than_baseline"]
    cut, body, *others = (warning.sentence for warning in found.warnings)
    assert cut.startswith("texts cut to max_length 12 tokens: train 32 of 32 (100%); validation 16 of 16 (100%); test ")
    assert "all 210,624 parameters of the body began at random, and method full is meant for a pretrained" in body
    assert all(sentence.startswith("after test: ") for sentence in others)
    assert all(causes.explained(warning.code, "x") != "x" for warning in found.warnings)
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert page.index("all 20 predictions are the label") < page.index("## ")
    lines = capsys.readouterr().out.splitlines()
    (validation,) = (line for line in lines if line.startswith("validate validation at step 1: accuracy 0."))
    assert ", loss 0." in validation
    end = lines[lines.index(f"warning: {cut}") :]
    assert end[1:4] == [f"warning: {sentence}" for sentence in (body, *others)]
    assert end[4].split() == ["metric", "majority", "baseline", "before", "after", "95", "%", "interval"]
    score = found.scores["after"]["test"]["accuracy"]
    assert end[5].split() == ["accuracy", "0.500", "0.500", "0.500", f"{score.low:.3f}", "to", f"{score.high:.3f}"]
    assert "f1_micro" not in [line.split(" ")[0] for line in end]
    assert end[-3:] == [
        f"report: {tmp_path}/run/report.md",
        f"record: {tmp_path}/run/record.json",
        f"next: python -m bench report {tmp_path} -o {tmp_path}/report",
    ]
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
