"""`try`: one command from two names to a paired comparison. Runs are made in this process, in place of launches."""

import json
import re
import shutil

import pytest
import transformers

from bench.cli import main
from bench.config import named_cards, resolve, yaml_loader
from bench.errors import RecipeError
from bench.records import store
from bench.runner import lifecycle
from bench.sweeps import scheduler, try_study
from tests.helpers import tiny_cards


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with two whole tiny models, a decoder and an encoder."""
    folder = tmp_path_factory.mktemp("models")
    for name, kind in {"llama": transformers.LlamaForCausalLM, "bert": transformers.BertModel}.items():
        card = tiny_cards.card(name)
        tokenizer = tiny_cards.tokenizer(card)
        ids = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("pad", "bos", "eos")}
        fields = {key: value for key, value in card.architecture.items() if key != "model_type"}
        config = transformers.AutoConfig.for_model(card.architecture["model_type"], **fields, **ids)
        kind(config).save_pretrained(folder / f"tiny-{name}")
        tokenizer.save_pretrained(folder / f"tiny-{name}")
    return folder


@pytest.fixture
def request_of(models, tmp_path):
    named_cards.forget()

    def asked(model, data="reviews", **more):
        return try_study.TryRequest(model=str(models / model), data=data, out=tmp_path / "out", **more)

    return asked


def written(tried):
    return {path.stem: yaml_loader.read(path).data for path in tried.recipes}


def test_a_recipe_for_each_method(request_of, models):
    recipes = written(try_study.write_recipes(request_of("tiny-llama", limit=60)))
    assert list(recipes) == ["full", "lora", "qlora", "zero_shot", "tfidf"]
    of_words = recipes.pop("tfidf")
    assert (of_words["dataset"], of_words["method"], of_words["objective"]) == ("reviews", "tfidf", "head")
    assert "model" not in of_words
    for name, recipe in recipes.items():
        assert (recipe["dataset"], recipe["model"]) == ("reviews", str(models / "tiny-llama"))
        assert (recipe["objective"], recipe["limit"]) == ("text", {"train": 60, "test": 60})
        assert ("training" in recipe) == (name != "zero_shot")
    assert recipes["lora"]["method"]["config"]["r"] == 16
    assert recipes["lora"]["training"]["learning_rate"] == 10 * recipes["full"]["training"]["learning_rate"]


def test_what_the_model_can_not_do_is_left_out(request_of):
    tried = try_study.write_recipes(request_of("tiny-bert", methods=("full", "zero_shot", "head")))
    assert {name: recipe["objective"] for name, recipe in written(tried).items()} == {"full": "head", "head": "head"}
    assert len(tried.sentences) == 1
    assert tried.sentences[0].startswith("zero_shot is left out: an encoder can't write or score answers; the other")
    with pytest.raises(RecipeError, match="no method is left to try"):
        try_study.write_recipes(request_of("tiny-bert", methods=("zero_shot",)))


def test_what_a_data_set_lacks(request_of, write, tmp_path):
    card = "task: text_classification\nsource: {kind: builtin, id: reviews}\nsplits: {train: train, dev: test}\n"
    write("datasets/bare.yaml", card + "labels: [negative, positive]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_INCLUDE", str(tmp_path))
        recipe = written(try_study.write_recipes(request_of("tiny-llama", "bare", limit=9)))["zero_shot"]
    assert recipe["dataset"]["card"] == "bare"
    assert "{labels}" in recipe["dataset"]["prompt"]["instruction"]
    assert (recipe["evaluation"], recipe["limit"]) == ({"splits": ("dev",)}, {"train": 9, "dev": 9})


DATA = {
    "multi.jsonl": [{"text": f"text {n}", "labels": [x for k, x in enumerate("abc") if n >> k & 1]} for n in range(40)],
    "tags.jsonl": [{"tokens": ["Anna", "saw", str(n)], "tags": ["B-PER", "O", "O"]} for n in range(40)],
    "numbers.jsonl": [{"text": f"text {n}", "score": n / 7} for n in range(40)],
}
QUESTIONS = [
    {"id": str(n), "question": f"When was mill {n} built?", "answers": [{"text": str(1900 + n), "answer_start": 8}]}
    for n in range(40)
]
SQUAD = [
    {"title": "t", "paragraphs": [{"context": f"Built in {1900 + n}.", "qas": [q]}]} for n, q in enumerate(QUESTIONS)
]


def test_data_of_every_task(request_of, tmp_path):
    """Answers that have no likelihood are written; a method that the task lacks is left out, and the others stay."""
    for question in QUESTIONS:
        question["answers"][0]["answer_start"] = len("Built in ")
    (tmp_path / "squad.json").write_text(json.dumps({"version": "1.1", "data": SQUAD}))
    for name, rows in DATA.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    numbers = f"{{path: {tmp_path}/numbers.jsonl,\n task: regression}}"  # a line break, as a shell can give one
    methods = ("full", "probe", "zero_shot")
    of_decoder = {
        f"{tmp_path}/multi.jsonl": {"full": "generate", "probe": None, "zero_shot": "generate"},
        f"{tmp_path}/squad.json": {"full": "generate", "zero_shot": "generate"},
        f"{tmp_path}/tags.jsonl": {"full": None},
        numbers: {"full": "generate", "zero_shot": "generate"},
    }
    for data, expected in of_decoder.items():
        tried = try_study.write_recipes(request_of("tiny-llama", data, methods=methods))
        found = {name: recipe.get("prompting", {}).get("answer") for name, recipe in written(tried).items()}
        assert {name: found[name] for name in expected} == expected, data
        for path in tried.recipes:
            resolve.load(path)
            assert path.read_text().splitlines()[1].startswith("dataset: ")
        left_out = {sentence.partition(" is left out: ")[0] for sentence in tried.sentences}
        assert left_out == set(methods) - set(found)
        assert {path.stem for path in (tmp_path / "out" / "try").iterdir()} == set(found)
    assert tried.sentences == [
        "probe is left out: objective: method 'probe' fits a classifier of texts; task 'regression' needs method: "
        "head, or another one"
    ]
    assert set(written(try_study.write_recipes(request_of("tiny-bert", numbers, methods=methods)))) == {"full"}


def test_conversations_are_written_by_the_template_of_a_model_that_has_one(request_of, models, tmp_path):
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
    rows = [{"messages": [*turns, {"role": "assistant", "content": f"ho {n}"}]} for n in range(40)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(models / "tiny-llama", tmp_path / "chatty")
    (tmp_path / "chatty" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    for model, asked in (("tiny-llama", {}), (str(tmp_path / "chatty"), {"format": "chat"})):
        tried = try_study.write_recipes(request_of(model, str(tmp_path / "chats.jsonl"), methods=("full", "zero_shot")))
        for recipe in written(tried).values():
            assert recipe["prompting"] == {**asked, "answer": "generate"}


def test_what_is_wrong_for_every_method_is_said_once(request_of, tmp_path, capsys):
    with pytest.raises(RecipeError) as caught:
        try_study.write_recipes(request_of("tiny-llama", methods=("full", "lora"), sets=("limits.train=3",)))
    found = str(caught.value).splitlines()
    assert len(found) == 2
    assert "limits: unknown key. Did you mean 'limit'?" in found[0]
    assert found[1] == "no method is left to try"
    (tmp_path / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DATA["tags.jsonl"]))
    order = ["try", request_of("tiny-llama").model, "--on", str(tmp_path / "tags.jsonl"), "--methods", "probe"]
    assert main.main([*order, "--out", str(tmp_path / "out")]) != 0
    assert "no method is left to try" in capsys.readouterr().err


def test_all_wrong_keys_at_once_and_a_reason_of_several_methods_once(request_of):
    asked = request_of("tiny-bert", methods=("full", "lora", "zero_shot"), sets=("training.lr=1", "batch_size=4"))
    with pytest.raises(RecipeError) as caught:
        try_study.write_recipes(asked)
    found = str(caught.value).splitlines()
    assert found[0].startswith("full, lora are left out: ")
    assert "training.lr: unknown key. Here it is `training.learning_rate`." in found[0]
    assert "batch_size: unknown key. Here it is `training.global_batch`." in found[0]
    assert found[1].startswith("zero_shot is left out: an encoder can't write")
    assert len(found) == 3


def test_all_wrong_names_at_once(tmp_path):
    request = try_study.TryRequest(model="./gone", data="reviws", out=tmp_path / "out", methods=("lor",))
    with pytest.raises(RecipeError) as caught:
        try_study.write_recipes(request)
    found = str(caught.value).splitlines()
    assert found[0] == "--methods: there is no method 'lor'. Did you mean 'lora'?"
    assert found[1].startswith("MODEL: there is no folder './gone'; looked in ")
    assert found[2] == "--on: there is no dataset card 'reviws'. Did you mean 'reviews'?"
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_left_out(request_of):
    asked = request_of("tiny-llama", limit=20, methods=("full", "lora", "zero_shot", "tfidf"), gpu="0.3GiB")
    tried = try_study.write_recipes(asked)
    with pytest.raises(RecipeError, match="no method is left to try; take a larger GPU or a smaller model"):
        try_study.fit(tried, asked)
    assert len(tried.sentences) == 3
    assert tried.sentences[2].startswith("zero_shot is left out: the weights and CUDA's context alone take 0.5")
    assert tried.sentences[0].startswith("full is left out: one text of ")
    assert tried.sentences[0].endswith(" even with gradient checkpointing, and 0.3GiB has 0.30 GiB")


def test_a_smaller_micro_batch_is_written_down(request_of):
    sets = ("training.steps=3",)  # which zero_shot does not have
    asked = request_of("tiny-llama", methods=("full", "zero_shot"), gpu="0.54GiB", sets=sets)
    tried = try_study.write_recipes(asked)
    try_study.fit(tried, asked)
    rows = written(tried)["full"]["training"]["per_device_batch"]
    assert 1 <= rows < 32
    assert f"training.per_device_batch={rows}" in tried.sentences[0]
    assert tried.sentences[1].startswith("zero_shot: weights of ")


def test_one_command_to_a_comparison(models, tmp_path, monkeypatch, bare_runs, capsys):
    def in_this_process(plans, options):
        for system in (system for plan in plans for system in plan.systems):
            for run in system.runs():
                arguments = [str(run.path), "--seed", str(run.seed), "--out", str(options.out / run.folder_name)]
                assert lifecycle.main([*arguments, *run.overrides]) == 0
        return 0

    monkeypatch.setattr(scheduler, "run_sweep", in_this_process)
    monkeypatch.chdir(models)
    out = tmp_path / "out"
    more = ["--methods", "full,zero_shot,tfidf", "--limit", "24", "training.steps=2", "save=false"]
    assert main.main(["try", "tiny-llama", "--on", "reviews", "--out", str(out), *more]) == 0
    printed = capsys.readouterr().out
    assert "there is no GPU here" in printed
    assert "training.steps is ignored for method zero_shot" in printed
    assert "before" in printed
    assert "No significant difference" in printed
    records = {record.method: record for record in map(store.read, out.glob("try--*"))}
    assert set(records) == {"full", "zero_shot", "tfidf"}
    assert {record.data.splits["test"].examples for record in records.values()} == {24}
    before = records["full"].scores["before"]["test"]["accuracy"].value
    assert before == records["zero_shot"].scores["after"]["test"]["accuracy"].value  # by the same prompt
    assert (out / "comparison.md").read_text().startswith("# Comparison by accuracy")
    assert re.search(r"Baselines: .*tfidf", (out / "report" / "report.md").read_text())
