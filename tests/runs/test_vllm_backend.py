"""`evaluation.backend: vllm`: scores of a server and of the package equal torch's, and whatever is wrong is said."""

import json
import sys

import pytest

from bench.config import resolve
from bench.errors import RecipeError
from bench.evaluation.engines import completions_api
from bench.runner import lifecycle
from tests.helpers import vllm_package
from tests.helpers.cases import together
from tests.helpers.completions_server import Served, serving
from tests.helpers.launching import NO_DROPOUT, ROOT, launch, read_lines

pytestmark = pytest.mark.usefixtures("bare_runs")
VLLM = "evaluation.backend=vllm"
RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"
MADE = [
    "model=tiny_gpt2", "objective=text", "training.epochs=null", "training.steps=6", "training.global_batch=8",
    "training.learning_rate=0.01", "limit={train: 48, test: 12}", "max_length=256", "evaluation.before=false",
    "model.architecture.initializer_range=0.2", "model.architecture.n_positions=256", "model.max_length=256",
    *(f"model.architecture.{name}=0.0" for name in NO_DROPOUT["gpt2"]),
]  # fmt: skip
SHOTS = "method={name: few_shot, shots: 2}"


@pytest.fixture(scope="module")
def model(bare_runs, tmp_path_factory):
    """The folder of a small model that was trained and saved: what vLLM and torch load."""
    folder = tmp_path_factory.mktemp("model")
    assert lifecycle.main([str(RECIPE), *MADE, "--out", str(folder / "run")]) == 0
    return folder / "run" / "model"


@pytest.fixture(scope="module")
def served(model):
    return Served(model)


def recipe_of(folder, model):
    path = folder / "asked.yaml"
    path.write_text(
        f"dataset: reviews\nmodel: {{id: {model}, family: decoder, max_length: 256}}\nmethod: zero_shot\n"
        "objective: text\nmax_length: 256\n", encoding="utf-8"
    )  # fmt: skip
    return path


def run(folder, model, *overrides, name="run", examples=40):
    """Return exit code and record."""
    words = [
        str(recipe_of(folder, model)),
        f"limit={{test: {examples}}}",
        *overrides,
        "--out",
        str(folder / name),
        "--overwrite",
    ]
    code = lifecycle.main(words)
    return code, json.loads((folder / name / "record.json").read_text(encoding="utf-8"))


def rows(folder, name):
    return read_lines(folder / name / "predictions" / "after-test.jsonl")


WAYS = {
    "labels": [],
    "calibrated": [SHOTS, "prompting={calibration: content_free, normalization: tokens}"],
    "written": ["prompting={answer: generate, max_new_tokens: 6}", SHOTS],
    "choices": ["dataset=endings"],
}


@together("way", ["labels", "calibrated", "written", "choices"])
def test_a_server_gives_torchs_answers(tmp_path, model, served, way):
    served.faults = set()
    with serving(served) as url:
        address = [VLLM, f"evaluation.server={url}", "evaluation.backend_sample=5"]
        code, record = run(tmp_path, model, *WAYS[way], *address)
    assert code == 0, record["reason"]
    code, plain = run(tmp_path, model, *WAYS[way], name="plain")
    assert code == 0
    backend = record["backend"]
    assert (backend["name"], backend["version"], backend["server"]) == ("vllm", "0.0.test", url)
    found = backend["samples"]["test"]
    assert (found["examples"], found["changed"], found["beyond"]) == (5, 0, 0)
    assert found["compared"] >= 5
    assert (found["largest"] is None) == (way == "written")
    assert found["largest"] is None or found["largest"] < 1e-4
    assert [check["ok"] for check in record["checks"] if check["name"] == "backend_equals_torch"] == [True]
    for ours, theirs in zip(rows(tmp_path, "run"), rows(tmp_path, "plain"), strict=True):
        for key in ("id", "prediction", "reference", "prompt_hash", "text", "stopped", "new_tokens"):
            assert ours.get(key) == theirs.get(key), key
        if ours["scores"] is not None:
            assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-4)
    signature = record["scores"]["after"]["test"]["accuracy"]["signature"]
    assert signature.endswith("|backend:vllm,0.0.test")
    assert record["comparability"]["key"] == plain["comparability"]["key"]
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert ", answers by vllm" in page
    assert "also by torch" in page


def test_the_package_gives_torchs_answers(tmp_path, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", vllm_package.module())
    vllm_package.LLM.made.clear()
    for way in ("labels", "written"):
        code, record = run(tmp_path, model, *WAYS[way], VLLM, examples=12)
        assert code == 0, record["reason"]
        assert record["backend"]["samples"]["test"]["beyond"] == 0
        assert record["backend"]["version"] == "0.0.test"
        assert record["backend"]["server"] is None
    made = {"model": str(model), "seed": 0, "dtype": "float32", "trust_remote_code": False}
    assert vllm_package.LLM.made == [made, made]
    options = "evaluation.backend_options={max_model_len: 1}"
    code, record = run(tmp_path, model, VLLM, options)
    assert code != 0
    assert "vLLM can't load" in record["reason"]
    assert "max_model_len 1 is too small" in record["reason"]
    code, record = run(tmp_path, model, VLLM, "evaluation.backend_options={max_model_len: 5}")
    assert code != 0
    assert "vLLM refuses the run's prompts: The decoder prompt" in record["reason"]


FAULTS = [
    ("no logprobs", "labels", "gives no log-probabilities of the prompt, which `echo` with `logprobs` asks for"),
    ("other tokens", "labels", "with another tokenizer or template than the run's: it reads the text of a prompt as"),
    ("fewer choices", "labels", "answers 2 prompts with 1 completions"),
    ("cuts prompts", "labels", " were sent"),
    ("an error", "labels", "answers 500: "),
    ("odd form", "labels", "answers in another form than the completions API's"),
    ("no JSON", "labels", "answers with no JSON"),
    ("near", "labels", "check 'backend_equals_torch' failed: test: 16 examples by vLLM and by torch"),
    ("no token ids", "written", "gives no numbers of the tokens that it writes"),
    ("short context", "written", "cuts an answer after 2 of 6 tokens (prompting.max_new_tokens)"),
    ("own stop", "written", "ends an answer at '###', which is no end token of the run's prompts"),
    ("gives up", "written", "gives an answer up (finish_reason 'abort')"),
]


@together("fault, way, says", FAULTS)
def test_a_server_with_a_fault_ends_the_run_in_a_sentence(tmp_path, model, served, fault, way, says):
    served.faults = {fault}
    with serving(served) as url:
        code, record = run(tmp_path, model, *WAYS[way], VLLM, f"evaluation.server={url}", examples=16)
    assert says in record["reason"], record["reason"]
    assert (code, record["status"]) == (2, "invalid")


def test_servers_that_are_not_there(tmp_path, model, served, monkeypatch):
    monkeypatch.setattr(completions_api, "TIMEOUT_S", 0.5)
    code, record = run(tmp_path, model, VLLM, "evaluation.server=http://127.0.0.1:9")
    assert code != 0
    assert record["reason"].startswith("the server at http://127.0.0.1:9 can't be reached: ")
    assert record["reason"].endswith("start it, or correct evaluation.server")
    served.faults = set()
    with serving(served) as url:
        code, record = run(tmp_path, model, VLLM, f"evaluation.server={url}", "evaluation.served_model=tinny")
    assert "serves no model 'tinny'. Did you mean 'tiny'?" in record["reason"]
    served.faults = {"hangs"}
    with serving(served) as url:
        code, record = run(tmp_path, model, VLLM, f"evaluation.server={url}", examples=2)
    assert "gives no answer within 0.5 seconds: the server hangs, or is too busy" in record["reason"]
    code, record = run(tmp_path, model, VLLM)
    assert code != 0
    assert "needs the package vllm, which is not installed" in record["reason"]


def test_other_weights_fail_the_check(tmp_path, model, served):
    """A model of the same name and tokenizer, with other weights: the probe can't see it, the sample does."""
    served.faults = set()
    weight = served.model.get_output_embeddings().weight
    kept = weight.detach().clone()
    try:
        weight.data += 0.05 * weight.data.std() * kept.flip(0).sign()
        for way in ("labels", "written"):
            with serving(served) as url:
                code, record = run(tmp_path, model, *WAYS[way], VLLM, f"evaluation.server={url}")
            found = record["backend"]["samples"]["test"]
            assert (code, record["status"], found["beyond"] > 0) == (2, "invalid", True), (way, found)
            assert "vLLM has another model, revision or precision than the recipe" in record["reason"]
    finally:
        weight.data.copy_(kept)


def test_two_processes_ask_one_server(tmp_path, model, served):
    served.faults = set()
    with serving(served) as url:
        words = [
            str(recipe_of(tmp_path, model)),
            "limit={test: 40}",
            VLLM,
            f"evaluation.server={url}",
        ]
        done = launch(*words, "--out", str(tmp_path / "two"), config="ddp_cpu2")
    assert done.returncode == 0, done.stderr[-2000:]
    _, record = run(tmp_path, model, name="plain")
    two = json.loads((tmp_path / "two" / "record.json").read_text(encoding="utf-8"))
    assert two["backend"]["samples"]["test"] | {"largest": 0} == {
        "examples": 16, "compared": 32, "largest": 0, "changed": 0, "beyond": 0, "allowed": "rounding of float32",
    }  # fmt: skip
    assert two["scores"]["after"]["test"]["accuracy"]["value"] == record["scores"]["after"]["test"]["accuracy"]["value"]


@together("overrides, says", [
    (["evaluation.server=http://x"], "evaluation.server: only for `evaluation.backend: vllm`"),
    (["evaluation.backend_sample=3"], "evaluation.backend_sample: only for"),
    (["evaluation.backend=vlm"], "vllm"),
    ([VLLM, "evaluation.server=localhost:8000"], "'localhost:8000' is no address of a server; expected http://HOST:PORT"),
    ([VLLM, "evaluation.server=file:///etc/passwd"], "is no address of a server"),
    ([VLLM, "evaluation.server=http://[::1"], "is no address of a server"),
    ([VLLM, "evaluation.server=http://me:secret@x"], "without user, password and query"),
    ([VLLM, "evaluation.served_model=x"], "give `evaluation.server` too"),
    ([VLLM, "evaluation.server=http://x", "evaluation.backend_options={a: 1}"], "a server has its own options"),
    ([VLLM, "evaluation.backend_options=[1]"], "evaluation.backend_options"),
    ([VLLM, "evaluation.backend_sample=0"], "evaluation.backend_sample"),
    ([VLLM, "method=lora"], "method 'lora' trains"),
    ([VLLM, "objective=head", "method=full"], "a task head is none of them"),
    ([VLLM, "model.family=encoder_decoder"], "the model's family is encoder_decoder"),
    ([VLLM, "model=tiny_gpt2"], "`model.weights: random` draws weights that vLLM has not"),
    ([VLLM, "method={name: zero_shot, quantized: true}"], "holds torch's model in 4 bits"),
])  # fmt: skip
def test_recipes_that_vllm_can_not_score(tmp_path, model, overrides, says):
    with pytest.raises(RecipeError) as error:
        resolve.load(recipe_of(tmp_path, model), tuple(overrides))
    assert says in str(error.value)
    assert "secret" not in str(error.value)


def test_the_place_of_a_server_is_no_part_of_what_decides_a_result(tmp_path, model):
    path = recipe_of(tmp_path, model)
    hashes = {
        resolve.load(path, (VLLM, *more)).hash
        for more in ([], ["evaluation.server=http://a"], ["evaluation.server=http://b", "evaluation.served_model=x"])
    }
    assert len(hashes) == 1
    assert hashes != {resolve.load(path).hash}
