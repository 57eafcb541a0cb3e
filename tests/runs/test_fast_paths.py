"""The recipes of recipes/tiny with each fast path switched off: the same losses, answers and scores."""

import pytest

from bench.records import store
from bench.runner import lifecycle
from bench.utils import process
from tests.helpers.launching import NO_DROPOUT, ROOT, losses, read_lines

# Without a model there is no path to leave out.
PATHS = sorted((ROOT / "recipes" / "tiny").glob("*.yaml"))
RECIPES = {path.stem: path for path in PATHS if not path.stem.startswith("none-")}
TEXT = {name for name in RECIPES if "text" in name}
OFF = "speed={padding_free: false, answer_logits: false, token_cache: false, keep_memory: false}"
# Paths that move no number but by rounding, each switched off by itself where all are in use.
SINGLY = {
    "padding_free": "mistral-text_lora",
    "answer_logits": "mistral-text_lora",
    "token_cache": "bert-full",
    "keep_memory": "bert-full",
}


def run_recipe(name, folder, *extra):
    """A few steps of it, without dropout, whose draws depend on how a batch is cut. Returns its record."""
    family = name.split("-")[0]
    settings = [f"model.architecture.{part}=0.0" for part in NO_DROPOUT.get(family, [])]
    trained = record_of(name).recipe.method.name
    if trained not in ("zero_shot", "few_shot", "probe"):
        settings += ["training.epochs=null", "training.steps=6", "training.log_every=1"]
    if name == "gpt2-scratch":
        settings.append("head.dropout=0.0")
    limit = "limit={test: 60}" if trained == "probe" else "limit={train: 120, test: 60}"
    arguments = [str(RECIPES[name]), *settings, limit, "save=false", *extra, "--out", str(folder), "--overwrite"]
    assert lifecycle.main(arguments) == 0
    return store.read(folder)


def record_of(name):
    from bench.config.resolve import load

    return load(RECIPES[name])


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """Name -> (record, folder), run when first asked for."""
    folder, known = tmp_path_factory.mktemp("fast"), {}

    def found(name):
        if name not in known:
            known[name] = run_recipe(name, folder / name), folder / name
        return known[name]

    return found


def assert_same(one, other):
    (first, folder), (second, another) = one, other
    if first.training is not None and first.training.engine != "scikit-learn":
        assert losses(another) == pytest.approx(losses(folder), rel=1e-4)
    rows, others = (read_lines(where / "predictions" / "after-test.jsonl") for where in (folder, another))
    assert [row["id"] for row in rows] == [row["id"] for row in others]
    far = [
        abs(score - theirs["scores"][label])
        for row, theirs in zip(rows, others, strict=True)
        for label, score in (row["scores"] or {}).items()
    ]
    # Logistic regression goes on until it has converged, from features that are rounded elsewhere.
    assert max(far, default=0.0) < (2e-2 if first.method == "probe" else 2e-4)
    predictions, theirs = ([row["prediction"] for row in each] for each in (rows, others))
    # Numbers are rounded elsewhere too.
    assert predictions == (pytest.approx(theirs, rel=1e-4) if isinstance(theirs[0], float) else theirs)
    assert first.comparability.key == second.comparability.key


@pytest.mark.parametrize("name", RECIPES)
def test_all_paths_off(name, fast, tmp_path):
    plain = run_recipe(name, tmp_path / "plain", OFF)
    assert_same(fast(name), (plain, tmp_path / "plain"))
    assert not plain.speed["padding_free"]
    assert plain.speed.get("answer_logits", False) is False
    assert plain.speed.get("token_cache", False) is False
    assert "keep_memory" not in plain.speed
    found = fast(name)[0]
    padded = name.startswith("t5")
    assert found.speed["padding_free"] is not padded
    assert any("pads are computed: the model is an encoder-decoder" in note for note in found.notes) is padded
    if name in TEXT:
        assert found.speed["answer_logits"] is True
    if padded and found.training is not None:
        assert found.launch.per_device_batch == 8 < plain.launch.per_device_batch
    if found.training is not None and "padding_share" in found.throughput.get("train", {}) and not padded:
        assert found.throughput["train"]["padding_share"] == 0
        assert plain.throughput["train"]["padding_share"] > 0


@pytest.mark.parametrize("path", SINGLY)
def test_one_path_off(path, fast, tmp_path):
    name = SINGLY[path]
    plain = run_recipe(name, tmp_path, f"speed.{path}=false")
    assert_same(fast(name), (plain, tmp_path))
    on = {"padding_free", "keep_memory"} - {path}
    assert all(plain.speed[other] for other in on)


def test_the_precision_of_the_launcher_is_written_down(fast):
    assert fast("bert-full")[0].speed["precision"] == {"chosen": "no", "by": "launcher"}


def test_no_key_chooses_another_precision(tmp_path, capfd):
    arguments = [str(RECIPES["bert-full"]), "speed.precision=measured", "limit={train: 40, test: 20}"]
    assert lifecycle.main([*arguments, "--out", str(tmp_path)]) == 2
    assert "unknown key" in capfd.readouterr().err


def test_freed_memory_is_kept_here():
    assert process.keep_freed_memory() is True
