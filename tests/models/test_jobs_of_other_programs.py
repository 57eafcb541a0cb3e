"""Plans of jobs of other programs: their settings, their steps without numbers, and the allocator that they fill."""

import csv
import json

import pytest
import torch

from bench.cli import main
from bench.errors import BenchError, RecipeError, SetupError
from bench.memory import job as jobs
from bench.memory import job_model
from bench.memory.allocator import BLOCK, MIB, CachingAllocator
from bench.memory.job import Job
from bench.memory.replay import replay
from scripts.benchmarks import published_memory
from tests.helpers.launching import ROOT

LLAMA = {
    "model_type": "llama", "vocab_size": 3000, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
LORA = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"]}
ROWS, TOKENS, LOGITS = 4, 64, 4 * 64 * 3000 * 2


def job(**settings):
    return Job(**{"architecture": LLAMA, "micro_batch": ROWS, "lengths": (TOKENS,), **settings})


def allocated(**settings):
    return replay(job(**settings)).allocated


def test_sizes_are_rounded_and_come_from_segments_of_their_pool():
    pool = CachingAllocator()
    for size, reserved in ((1, 2 * MIB), (MIB, 2 * MIB), (MIB + 1, 22 * MIB), (47 * MIB // 2, 46 * MIB)):
        pool.allocate(size)
        assert pool.reserved == reserved, size
    assert pool.allocated == BLOCK + MIB + (MIB + BLOCK) + 24 * MIB, (
        "what is left of the last, half a MiB, is not split off"
    )


def test_a_freed_block_is_taken_again_and_its_rest_joined():
    pool = CachingAllocator()
    first, second, third = (pool.allocate(6 * MIB) for _ in range(3))
    assert pool.reserved == 20 * MIB
    pool.free(first)
    pool.free(third)
    pool.free(second)
    assert pool.allocate(20 * MIB).address == first.address, "three blocks and the rest of the segment are one again"
    assert pool.reserved == pool.most_reserved == 20 * MIB


def test_the_smallest_free_block_that_is_large_enough_is_taken():
    pool = CachingAllocator()
    large, small = pool.allocate(40 * MIB), pool.allocate(30 * MIB)
    pool.free(large)
    pool.free(small)
    assert pool.allocate(29 * MIB).address == small.address
    assert pool.allocate(40 * MIB).address == large.address
    assert pool.reserved == 70 * MIB


def test_what_is_left_of_a_large_block_is_split_off_only_above_1_mib():
    pool = CachingAllocator()
    pool.free(pool.allocate(30 * MIB))
    whole = pool.allocate(29 * MIB)
    assert whole.size == 30 * MIB
    pool.free(whole)
    assert pool.allocate(28 * MIB).size == 28 * MIB


def test_emptying_the_cache_gives_back_whole_segments_alone():
    pool = CachingAllocator()
    kept, gone = pool.allocate(6 * MIB), pool.allocate(40 * MIB)
    pool.free(gone)
    pool.empty_cache()
    assert (pool.reserved, pool.most_reserved) == (20 * MIB, 60 * MIB)
    pool.free(kept)
    pool.empty_cache()
    assert pool.reserved == pool.allocated == 0


@pytest.fixture(scope="module")
def plain():
    return replay(job(adapter=LORA))


def test_weights_adapters_and_their_state_are_counted(plain):
    matrices = 3 * (128 * 128 * 2 + 2 * 128 * 64 + 3 * 128 * 256) + 2 * 3000 * 128 + 7 * 128
    adapters = 3 * 8 * (128 + 128 + 128 + 64)
    assert plain.num_trainable == adapters
    assert plain.trained == 4 * adapters
    assert 2 * matrices + 4 * adapters <= plain.weights <= (2 * matrices + 4 * adapters) * 1.05
    assert 8 * adapters <= plain.optimizer <= 8 * adapters + 4 * 12
    assert plain.weights < plain.allocated < plain.reserved < plain.needed


def test_kept_outputs_are_there_in_the_next_forward_pass(plain):
    kept = allocated(adapter=LORA, keeps_outputs=True, use_cache=False)
    assert kept - allocated(adapter=LORA, use_cache=False) == pytest.approx(LOGITS, rel=0.05)


def test_settings_change_what_they_should(plain):
    assert allocated(adapter=LORA, checkpointing=True) < plain.allocated
    assert allocated(adapter=LORA, loss_tokens=4) < plain.allocated - LOGITS
    assert allocated(adapter=LORA, attention="eager") > plain.allocated
    assert allocated(adapter=LORA, padded=False) < plain.allocated
    assert allocated(adapter=LORA, adapter_dtype="bfloat16") < plain.allocated
    full, eight = replay(job()), replay(job(optimizer="adamw_bnb_8bit"))
    assert full.optimizer > 3 * eight.optimizer / 2
    assert replay(job(optimizer="paged_adamw_32bit")).paged > 0
    assert replay(job(optimizer="sgd")).optimizer == 0
    assert allocated(dtype="float32", autocast="bf16") > full.allocated
    assert allocated(accumulation=2) >= full.allocated


def test_4_bits_take_a_quarter_and_constants():
    four, sixteen = replay(job(adapter=LORA, quantization="nf4")), replay(job(adapter=LORA))
    layers = 3 * (128 * 128 * 2 + 2 * 128 * 64 + 3 * 128 * 256)
    assert sixteen.weights - four.weights == pytest.approx(layers * (2 - 0.5 - 4 / 64), rel=0.02)


def test_steps_of_several_lengths_and_an_emptied_cache(plain):
    varied = replay(job(adapter=LORA, lengths=(TOKENS, TOKENS // 2), empty_cache=True))
    assert len(varied.steps) == 2
    assert varied.steps[1] < varied.steps[0] <= plain.reserved


@pytest.mark.parametrize(
    ("name", "count"), [("llama-2-7b", 6_738_415_616), ("tiny-llama", 1_100_048_384), ("gemma-2b", 3_030_460_416)]
)
def test_models_of_litgpt_have_as_many_parameters_as_there(name, count):
    model = job_model.build_model(Job(architecture=published_memory.LITGPT[name], code="litgpt", lengths=(8,)))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_every_kind_of_litgpts_models_runs_with_lora_on_all_and_in_4_bits():
    small = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 1000,
    }  # fmt: skip
    parts = ("query", "key", "value", "projection", "mlp", "head")
    for kind, more in {
        "llama": {"num_key_value_heads": 2}, "gemma2": {"num_key_value_heads": 2, "head_dim": 16}, "phi": {},
        "gpt_neox": {}, "falcon": {"multi_query": True},
    }.items():  # fmt: skip
        architecture = {"model_type": kind, **small, **more}
        if kind == "falcon":
            del architecture["intermediate_size"]
        options = {"architecture": architecture, "code": "litgpt", "micro_batch": 2, "lengths": (300,)}
        lora = {"r": 4, "dropout": 0.1, "on": parts}
        sixteen = replay(Job(**options, lora=lora))
        if kind in ("llama", "falcon"):
            four = replay(Job(**options, lora=lora, quantization="nf4", optimizer="paged_adamw_32bit"))
            assert four.num_trainable == sixteen.num_trainable, kind
        few = replay(Job(**options, lora={"r": 4, "on": ("query", "value")}, checkpointing=True))
        assert few.num_trainable < sixteen.num_trainable, kind
        assert few.allocated < sixteen.allocated, kind


def test_fsdp_divides_what_is_held_and_gathers_block_by_block():
    options = {"checkpointing": True, "code": "litgpt", "optimizer": "adamw_torch_fused"}
    alone, four = replay(job(**options)), replay(job(**options, gpus=4))
    assert four.weights == pytest.approx(alone.weights / 4, rel=0.02)
    assert four.optimizer == alone.optimizer // 4
    root, held = 2 * 2 * 3000 * 128, 4 * alone.weights
    assert held / 4 + root < four.allocated < alone.allocated - held * 3 / 4 + 3 * root


def test_a_stable_embedding_keeps_the_old_one_and_gets_gradients():
    options = {"architecture": LLAMA, "code": "litgpt", "lora": {"r": 4}, "micro_batch": ROWS, "lengths": (TOKENS,)}
    options |= {"quantization": "nf4"}
    with_it, without = replay(Job(**options)), replay(Job(**options, stable_embedding=False))
    embedding = 2 * 3000 * 128
    assert with_it.weights - without.weights == pytest.approx(embedding, rel=0.01)
    assert with_it.allocated - without.allocated > 1.9 * embedding
    assert with_it.num_trainable == without.num_trainable


def test_bitsandbytes_that_keeps_inputs_needs_more_and_longer():
    options = {"architecture": LLAMA, "code": "litgpt", "lora": {"r": 4}, "micro_batch": ROWS, "lengths": (TOKENS,)}
    options |= {"quantization": "nf4", "keeps_outputs": True}
    kept = replay(Job(**options, old_bitsandbytes=True)).allocated - replay(Job(**options)).allocated
    # Inputs of two steps: three of 128 numbers and one of 256 in each layer, in 16 bits. Some are there anyhow.
    assert 0 < kept <= (2 * 3 * ROWS * TOKENS * (3 * 128 + 256) * 2 + 2 * 3000 * 128) * 1.05


GOOD = "model: llama32_1b\nlengths: [16]\n"
SMALL = (
    "architecture: {{model_type: llama, vocab_size: 99, intermediate_size: 64, num_attention_heads: 4, {}}}\n"
    "lengths: [16]\n"
)


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("model: llama32_1b\nlenghts: [16]\n", (), r"job\.yaml:2: lenghts.*lengths"),
        ("model: llama32_1b\n", (), "lengths"),
        ("lengths: [16]\n", (), "name a `model`, or give its `architecture`"),
        ("architecture: {hidden_size: 8}\nlengths: [16]\n", (), "model_type"),
        (GOOD, ("micro_batch=0",), "command line: micro_batch"),
        (GOOD, ("micro_batch",), "not of the form"),
        (GOOD, ("micro_batch=2", "micro_batch=4"), "command line: micro_batch: this key is given twice"),
        (GOOD + "quantization: nf4\n", (), "weights in 4 bits are not trained"),
        (GOOD + "code: litgpt\nadapter: {peft_type: LORA}\n", (), "litgpt's LoRA is `lora`"),
        (GOOD + "lora: {r: 8}\n", (), "this is litgpt's"),
        (GOOD + "adapter: {r: 8}\n", (), "peft_type"),
        ("model: llama31_1b\nlengths: [16]\n", (), "neither a model card"),
        (GOOD + "adapter: {peft_type: LOAR}\n", (), "not known to the installed PEFT .*LO"),
        (GOOD + "adapter: {peft_type: LORA, rank: 8}\n", (), "adapter.rank: LoraConfig has no such field"),
        (GOOD + "adapter: {peft_type: ADAMSS}\n", (), "can't be planned without the model's weights"),
        (GOOD + "adapter: {peft_type: LORA, target_modules: [query]}\n", (), "can't be applied to this model"),
        (GOOD + "adapter: no_such_file.json\n", (), "no_such_file.json"),
        (GOOD.replace("llama32_1b", "gpt2") + "code: litgpt\n", (), "is not known to be built there"),
        (GOOD + "gpus: 2\noptimizer: paged_adamw_8bit\n", (), "planned on one GPU alone"),
        ("dataset: reviews\nmethod: full\n", (), "this is a recipe, and no job of another program"),
        ("model: llama32_1b\nlengths: [0]\n", (), r"^[^\n]*lengths\.0: expected a number greater than 0, got 0\.$"),
        (GOOD + "code: litgpt\nlora: {on: []}\n", (), "lora.on: expected at least one item"),
        (GOOD + "code: litgpt\nlora: {on: [key, key]}\n", (), "'key' is listed twice"),
        # Settings that nothing honours.
        (GOOD + "code: litgpt\nattention: eager\n", (), "attention: code litgpt calls torch's sdpa alone"),
        (GOOD + "code: litgpt\nuse_cache: false\n", (), "use_cache: this is for code transformers"),
        (GOOD + "attention: flash_attention_2\ndtype: float32\n", (), "flash_attention_2 computes in 16 bits alone"),
        (GOOD + "adapter_dtype: bfloat16\n", (), "adapter_dtype: there is no `adapter`"),
        (GOOD + "old_bitsandbytes: true\n", (), "old_bitsandbytes: only with litgpt in 4 bits"),
        (GOOD + "stable_embedding: false\n", (), "stable_embedding: only with litgpt in 4 bits"),
        # Sizes that no model has.
        (SMALL.format("hidden_size: -64"), (), r"job\.yaml:1: architecture\.hidden_size: expected a number above 0"),
        (
            SMALL.format("num_hidden_layers: 0"),
            (),
            r"architecture\.num_hidden_layers: expected a number above 0, got 0",
        ),
        (SMALL.format("num_key_value_heads: 3"), (), "4 heads of queries can't share 3 heads of keys evenly"),
        (SMALL.format("hidden_size: 30"), (), "heads"),
    ],
)
def test_a_job_that_is_wrong_is_named_in_a_sentence(text, overrides, said, tmp_path):
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises((RecipeError, SetupError), match=said):
        replay(jobs.load(tmp_path / "job.yaml", overrides))


def test_plan_says_first_whether_a_job_fits_and_what_would_make_it_fit(tmp_path, capsys):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({**LORA, "task_type": "CAUSAL_LM", "peft_version": "0.19"})
    )
    settings = {"architecture": LLAMA, "adapter": "adapter_config.json", "micro_batch": 64, "lengths": [512]}
    (tmp_path / "job.json").write_text(json.dumps(settings))
    assert main.main(["plan", "--job", str(tmp_path / "job.json"), "micro_batch=1", "--gpu", "12GiB"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("fits: ")
    assert "micro-batches of 1 x 512 tokens" in shown
    assert "LORA, weights in bfloat16" in shown
    assert main.main(["plan", "--job", str(tmp_path / "job.json"), "--gpu", "1100MiB"]) == 3
    shown = capsys.readouterr().out
    assert shown.startswith("does not fit: ")
    assert "to make it fit: micro_batch=1" in shown
    assert main.main(["plan", "--job", str(tmp_path / "job.json"), "--zero", "3"]) == 2
    assert "--zero is for a recipe's plan" in capsys.readouterr().err


COMMITTED = ROOT / "reports" / "published_memory.json"
SAMPLE = ("lora--llama-3.2-3B-rank32", "stablelm-base-alpha-3b/lora.yaml 1xA10G")


@pytest.fixture(scope="module")
def rows():
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_the_report_is_made_of_its_rows(rows):
    assert "\n".join(published_memory.lines_of(rows)) + "\n" == COMMITTED.with_suffix(".md").read_text(encoding="utf-8")
    assert published_memory.as_json(rows) == COMMITTED.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SAMPLE)
def test_the_reports_forecasts_are_todays(rows, name):
    row = next(row for row in rows if row["name"] == name)
    found = published_memory.forecast({column: row[column] for column in published_memory.COLUMNS})
    assert found["predicted_gib"] == pytest.approx(row["predicted_gib"], rel=0.005)
    assert (found["fits"], found["note"]) == (row["fits"], row["note"])


def test_forecasts_are_near_what_others_measured(rows):
    for source, median, worst in (("peft", 0.10, 0.15), ("litgpt", 0.15, None)):
        errors = [abs(error) for row in rows if row["source"] == source and (error := published_memory.error_of(row))]
        assert len(errors) > 25
        assert torch.tensor(errors).median() <= median
        assert worst is None or max(errors) <= worst


def test_the_report_has_every_row_of_the_table(rows):
    table = ROOT.parent / "shared" / "data" / "published_memory.csv"
    if not table.is_file():
        pytest.skip("the table of others' measurements lies beside the project only where it is developed")
    read = published_memory.read(table)
    assert [{name: row[name] for name in published_memory.COLUMNS} for row in read] == [
        {name: row[name] for name in published_memory.COLUMNS} for row in rows
    ]


# ---------------------------------------------------------------- tables that are not what they should be

ROW = {
    "source": "litgpt", "name": "phi-2/lora.yaml 1xA10G", "model": "phi-2", "gpu": "1xA10G", "method": "full",
    "dtype": "bf16-true", "quantised": "no", "micro_batch": "1", "max_tokens": "512", "checkpointing": "False",
    "autocast": "False", "optimizer": "AdamW", "peak_gib": "13.02", "p99_gib": "", "kind": "allocated", "trainable": "",
}  # fmt: skip


def table(folder, *rows, columns=published_memory.COLUMNS, begin="# a comment\n"):
    path = folder / "published.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(begin)
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"source": "litgtp"}, "source: 'litgtp' is not known. Did you mean 'litgpt'?"),
        ({"micro_batch": "two"}, "micro_batch: expected a whole number above 0, got 'two'"),
        ({"micro_batch": ""}, "micro_batch: expected a whole number above 0, got ''"),
        ({"max_tokens": "0"}, "max_tokens: expected a whole number above 0, got '0'"),
        ({"trainable": "1.5e6"}, "trainable: expected a whole number above 0, got '1.5e6'"),
        ({"kind": "used"}, "kind: expected reserved or allocated, got 'used'"),
        ({"checkpointing": "yes"}, "checkpointing: expected True or False, got 'yes'"),
        ({"method": "lora"}, "method: expected full, or an adapter's config in JSON, got 'lora'"),
        ({"method": "[1]"}, "method: expected full, or an adapter's config in JSON, got '[1]'"),
        ({"peak_gib": ""}, "a peak is a number of GiB above 0, or oom; got ''"),
        ({"peak_gib": "nan"}, "a peak is a number of GiB above 0, or oom; got 'nan'"),
        ({"peak_gib": "-3"}, "a peak is a number of GiB above 0, or oom; got '-3'"),
        ({"p99_gib": "inf"}, "a peak is a number of GiB above 0, or oom; got 'inf'"),
        ({"peak_gib": "13332"}, "a peak of 13332 GiB does not fit into the 22"),
        ({"gpu": "1xA10H"}, "gpu: "),
    ],
)
def test_a_row_that_can_t_be_is_named_with_its_line(changed, said, tmp_path):
    path = table(tmp_path, ROW, {**ROW, "name": "other", **changed})
    with pytest.raises(BenchError) as error:
        published_memory.read(path)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}:4: {said}")


def test_tables_that_are_no_such_tables(tmp_path):
    with pytest.raises(BenchError, match=r"published\.csv:4: litgpt has 'phi-2/lora.yaml 1xA10G' twice"):
        published_memory.read(table(tmp_path, ROW, ROW))
    with pytest.raises(BenchError, match="the table has no rows"):
        published_memory.read(table(tmp_path))
    with pytest.raises(BenchError, match="kind, trainable missing"):
        published_memory.read(table(tmp_path, ROW, columns=published_memory.COLUMNS[:-2]))
    with pytest.raises(BenchError, match=r"nowhere\.csv can't be read"):
        published_memory.read(tmp_path / "nowhere.csv")
    for more in ("litgpt,cut off\n", ",".join([*ROW.values(), "one more"]) + "\n"):
        path = table(tmp_path, ROW)
        path.write_text(path.read_text(encoding="utf-8") + more, encoding="utf-8")
        with pytest.raises(BenchError, match=r"published\.csv:4: other than the header's number of cells"):
            published_memory.read(path)


def test_a_table_from_a_spreadsheet_is_read_and_rows_without_a_forecast_say_why(tmp_path):
    columns = ("note", *published_memory.COLUMNS)
    path = table(tmp_path, {**ROW, "note": "x"}, {**ROW, "name": "phi-9/lora.yaml"}, columns=columns, begin="\ufeff#\n")
    read = published_memory.read(path)
    assert [row["name"] for row in read] == [ROW["name"], "phi-9/lora.yaml"]
    found = published_memory.forecast(read[1])
    assert (found["predicted_gib"], found["note"]) == (
        None,
        "phi-9/lora.yaml: there is no architecture of 'phi-9' here",
    )
    wrong = {**ROW, "source": "peft", "dtype": "bf16"}
    assert published_memory.forecast(wrong)["note"].startswith("its settings are no job: dtype: Input should be")
    text = "\n".join(published_memory.lines_of([{**found, "name": "a|b"}]))
    assert "| a\\|b | 13.020 |  |  |  |" in text
    assert "Out of memory" not in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "{}/out.json"], "expected a name ending in .md"),
        (["-o", "{}"], "expected a name ending in .md"),
        (["--jobs", "0"], "--jobs: expected a number above 0, got 0"),
        (["--only", "nothing"], "no row of"),
    ],
)
def test_options_of_the_table_that_are_wrong_write_nothing(options, said, tmp_path, capsys, monkeypatch):
    path = table(tmp_path, ROW)
    monkeypatch.setattr("sys.argv", ["published_memory.py", str(path), *(text.format(tmp_path) for text in options)])
    assert published_memory.main() == 2
    assert said in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
