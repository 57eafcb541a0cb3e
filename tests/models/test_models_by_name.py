"""Models by their names on the Hub, from a server that speaks its protocol, and a run with a model and data by name."""

import json
import shutil

import pytest
import transformers

from bench.config import card_text, named_cards, resolve
from bench.errors import RecipeError
from bench.records import store
from bench.runner import lifecycle
from bench.sweeps import jobs, study, try_study
from tests.helpers import tiny_cards
from tests.helpers.hub_server import Hub

SHA, OLD = "a" * 40, "b" * 40
RECIPE = "dataset: reviews\nmodel: {model}\nmethod: full\n"
README = "---\nlicense: {licence}\n---\n\n# A model\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a whole tiny model with its tokenizer."""
    folder = tmp_path_factory.mktemp("saved") / "tiny-bert"
    card = tiny_cards.card("bert")
    tokenizer = tiny_cards.tokenizer(card)
    fields = {**{k: v for k, v in card.architecture.items() if k != "model_type"}, "pad_token_id": 0}
    transformers.BertModel(transformers.BertConfig(**fields)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(README.format(licence="mit"))
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path, saved):
    named_cards.forget()
    with Hub() as server:
        server.redirect(monkeypatch, tmp_path / "home")
        older = {"v1": {"config.json": (saved / "config.json").read_bytes(), "README.md": README.format(licence="gpl")}}
        server.add_folder("models/me/tiny-bert", saved, sha=SHA, older={OLD: {}, **older})
        server.add("models/me/gated", files={"config.json": "{}"}, sha=SHA, gated="manual")
        server.add("models/me/gguf", files={"model.gguf": "x"}, sha=SHA)
        server.add("models/me/adapter", files={"adapter_config.json": "{}"}, sha=SHA)
        other = README.format(licence="other\nlicense_name: my own terms")
        server.add(
            "models/me/own", files={"config.json": (saved / "config.json").read_bytes(), "README.md": other}, sha=SHA
        )
        server.add("datasets/me/tickets", files={"train.csv": "a,b\n"}, sha=SHA)
        yield server


@pytest.fixture
def load(write):
    return lambda model, *overrides: resolve.load(write("study/own.yaml", RECIPE.format(model=model)), overrides)


@pytest.fixture
def refused(load):
    def message(model):
        with pytest.raises(RecipeError) as caught:
            load(model)
        return str(caught.value)

    return message


def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    named_cards.forget()


def test_a_name_on_the_hub_is_pinned_to_its_commit(hub, load):
    resolved = load("me/tiny-bert")
    card = resolved.recipe.model
    assert (card.id, card.revision, card.licence, card.family) == ("me/tiny-bert", SHA, "mit", "encoder")
    assert resolved.name == "study--tiny-bert--full"
    assert resolved.made["model"].sources["revision"] == "the Hub"
    assert f"of me/tiny-bert at {SHA} (bert, BertModel)" in resolved.made_notes[0]
    assert load("me/own").recipe.model.licence == "my own terms"


def test_a_name_is_asked_for_once_in_a_process(hub, load):
    load("me/tiny-bert")
    asked = len(hub.seen)
    assert asked
    load("me/tiny-bert", "training.steps=3")
    assert len(hub.seen) == asked


def test_a_revision(hub, load, refused):
    old = load("me/tiny-bert@v1").recipe.model
    assert (len(old.revision), old.revision != SHA, old.licence) == (40, True, "gpl")
    assert load("{id: me/tiny-bert, revision: v1}").recipe.model == old
    assert load("me/tiny-bert", "model.revision=v1").recipe.model == old
    assert load("me/tiny-bert", "model=me/tiny-bert@v1").recipe.model == old
    assert "me/tiny-bert on the Hub has no revision 'v9'" in refused("me/tiny-bert@v9")


def test_what_the_hub_does_not_have(hub, refused, monkeypatch):
    assert "there is no model 'me/tiny-brt' on the Hub" in refused("me/tiny-brt")
    assert "a private one needs a token" in refused("me/nothing")
    assert "me/tickets is a data set on the Hub, not a model; name it as `dataset:`" in refused("me/tickets")
    assert "me/gguf on the Hub holds GGUF weights" in refused("me/gguf")
    assert "me/adapter on the Hub holds an adapter, not a whole model" in refused("me/adapter")
    gated = f"me/gated is gated: its terms must be accepted on {hub.address}/me/gated, and "
    assert gated + "no token was given" in refused("me/gated")
    named_cards.forget()
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert gated + "your token has not been given access yet" in refused("me/gated")
    assert "a private one" not in refused("me/nothing")


def test_a_near_name_is_one_that_was_downloaded(hub, load, refused):
    load("me/tiny-bert")
    assert "Did you mean 'me/tiny-bert'?" in refused("me/tiny-bart")


def test_offline_the_cache_answers(hub, load, refused, monkeypatch, tmp_path):
    online = load("me/tiny-bert")
    offline(monkeypatch)
    cached = load("me/tiny-bert")
    assert cached.hash == online.hash  # the same commit, and the licence of the cached README is no part of it
    assert cached.recipe.model.licence is None
    assert "at the commit of its snapshot, " + SHA in "\n".join(cached.made_notes)
    assert "the model's licence is not known: HF_HUB_OFFLINE is set" in "\n".join(cached.made_notes)
    shutil.rmtree(tmp_path / "home" / "hub" / "models--me--tiny-bert" / "refs")
    named_cards.forget()
    assert load("me/tiny-bert").hash == online.hash  # the only snapshot that there is
    missing = refused("me/own")
    assert "me/own is not in the local cache, " in missing
    assert "models--me--own, and HF_HUB_OFFLINE is set" in missing
    assert "`hf download me/own`" in missing


def test_without_a_network_the_cache_answers(hub, load, refused):
    load("me/tiny-bert")
    named_cards.forget()
    hub.fails = ("/api/models", 503, "busy")
    assert load("me/tiny-bert").recipe.model.revision == SHA
    assert "the Hub could not be asked (" in refused("me/own")


def test_a_card_is_printed_for_a_name(hub, load, tmp_path):
    text = card_text.text_of("model", "me/tiny-bert", [], "2026-11-29")
    assert f"revision: {SHA}  # the Hub" in text
    path = tmp_path / "models" / "kept.yaml"
    path.parent.mkdir()
    path.write_text(text)
    assert load("kept").hash == load("me/tiny-bert").hash


def test_a_sweep_starts_its_runs_at_one_commit(hub, load, write, tmp_path):
    plan = study.plan([write("study/own.yaml", RECIPE.format(model="me/tiny-bert"))], study.SweepRequest())
    (job,) = jobs.jobs_of(plan.systems[0].runs(), tmp_path / "out")
    assert jobs.arguments(job)[-1] == f"model.revision={json.dumps(SHA)}"
    pinned = load("me/tiny-bert", jobs.arguments(job)[-1])
    assert (pinned.hash, pinned.pins, pinned.card_overrides) == (job.planned.resolved.hash, (), {})
    assert load("tiny_bert").pins == ()


def test_try_writes_the_commit_into_its_recipes(hub, tmp_path):
    request = try_study.TryRequest(model="me/tiny-bert", data="reviews", out=tmp_path / "out", methods=("full", "head"))
    for path in try_study.write_recipes(request).recipes:
        assert f"model: {{id: me/tiny-bert, revision: {SHA}}}" in path.read_text().splitlines()
        assert resolve.load(path).recipe.model.revision == SHA


def test_a_run_with_model_and_data_by_name_is_that_from_folders(hub, saved, tmp_path, bare_runs):
    """Weights, tokenizer and rows come over the Hub's protocol; the records differ in names alone."""
    rows = [f"the {number} room was {word},{word}" for number in range(24) for word in ("good", "bad")]
    files = {"train.csv": rows[:32], "test.csv": rows[32:]}
    texts = {name: "\n".join(["text,label", *lines, ""]) for name, lines in files.items()}
    hub.add("datasets/me/rooms", files=texts, sha=SHA)
    for name, text in texts.items():
        (tmp_path / "rooms").mkdir(exist_ok=True)
        (tmp_path / "rooms" / name).write_text(text)
    cut = ["training.steps=2", "max_length=32", "save=false"]
    found = {}
    for name, keys in {
        "hub": ("me/rooms", "me/tiny-bert"),
        "folder": (f"{tmp_path / 'rooms'}", f"{saved}"),
        "card": ("me/rooms", "{id: me/tiny-bert, dtype: float32}"),
    }.items():
        path = tmp_path / "study" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("dataset: {}\nmodel: {}\nmethod: full\n".format(*keys))
        assert lifecycle.main([str(path), "--out", str(tmp_path / name), *cut]) == 0
        found[name] = store.read(tmp_path / name)
    first = found["hub"]
    assert first.model.revision == SHA
    assert first.recipe.made_cards["model"]["card"]["revision"] == SHA
    assert any("the model card was made from the config of me/tiny-bert" in note for note in first.notes)
    assert found["folder"].recipe.resolved["model"]["id"] == str(saved)
    assert found["card"].recipe.hash == first.recipe.hash
    assert first.data.revision == SHA
    assert first.recipe.made_cards["dataset"]["card"]["source"]["id"] == "me/rooms"
    for record in found.values():
        assert record.status == "ok"
        assert record.data.labels == ["bad", "good"]
        assert record.data.splits == first.data.splits
        assert record.scores["after"]["test"]["loss"].value == first.scores["after"]["test"]["loss"].value
        assert (record.training.first_loss, record.training.final_loss) == (
            first.training.first_loss,
            first.training.final_loss,
        )
