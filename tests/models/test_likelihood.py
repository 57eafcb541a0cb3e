"""The label scorer gives the log-likelihoods of plain forwards, with less work, for every family and layout."""

import contextlib
import random
from typing import Any

import pytest
import torch

from bench.data import batching
from bench.evaluation import continuation_tree, likelihood
from bench.evaluation.likelihood import Answer, Item, Scorer, plain
from bench.models import batch_budget
from bench.models.kernels import shared_prefix
from tests.helpers.decoders import FAMILIES, REFUSED, SMALL, VOCABULARY, build

# Shared first tokens, one label the beginning of another, one token and several.
BRANCHED = ((5,), (5, 6), (5, 6, 7), (5, 9, 8), (11,), (12, 13, 14), (12, 13, 15), (20, 21))
CHAINED = ((5,), (6, 7), (6,), (8,))
SINGLE = ((5,), (6,), (7,))
T5 = ("t5", {**REFUSED["t5"][1], "num_heads": 4, "initializer_factor": 1.5, "decoder_start_token_id": 0})
PROMPT = tuple(random.Random(3).choices(range(VOCABULARY), k=25))


def items(labels: Any, shared: int, num_items: int = 5, longest: int = 12) -> list[Item]:
    """Contexts of many lengths behind the first `shared` tokens of PROMPT."""
    rng = random.Random(shared)
    return [
        Item(
            context=PROMPT[:shared] + tuple(rng.choices(range(VOCABULARY), k=rng.randint(1, longest))),
            continuations=labels or tuple(rng.choices(BRANCHED, k=rng.randint(1, 4))),
        )
        for _ in range(num_items)
    ]


def run(scorer: Scorer, order: Any = None) -> list[Answer]:
    """Answers to all items, in their order."""
    found: dict[int, Answer] = {}
    for numbers in order or scorer.batches:
        found |= zip(numbers, scorer.run(numbers), strict=True)
    return [found[number] for number in sorted(found)]


def assert_same(found: list[Answer], expected: list[Answer], tolerance: float = 1e-4) -> None:
    for left, right in zip(found, expected, strict=True):
        assert left.sums == pytest.approx(right.sums, abs=tolerance, rel=0)
        assert left.greedy == right.greedy


@pytest.mark.parametrize("family", FAMILIES)
def test_same_as_plain_forwards(family):
    model = build(*FAMILIES[family])
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        before = model(input_ids=ids).logits
    for labels in (BRANCHED, CHAINED, SINGLE, None):
        for shared in (0, 25):
            asked = items(labels, shared)
            expected = [plain(model, item) for item in asked]
            for budget in (1, 90, None):
                # 5 is a token of texts and labels too.
                scorer = Scorer(model, asked, pad_token_id=5, budget=budget)
                assert_same(run(scorer), expected)
                assert scorer.notes == []
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, before)


def test_random_items_of_a_fixed_seed():
    model = build(*FAMILIES["mistral-20"])
    rng = random.Random(11)
    told_apart = set()
    for _ in range(40):
        shared, tokens = rng.choice([0, 1, 3, 22]), range(rng.choice([3, VOCABULARY]))
        asked = [
            Item(
                context=PROMPT[:shared] + tuple(rng.choices(tokens, k=rng.randint(1, 9))),
                continuations=tuple(tuple(rng.choices(tokens, k=rng.randint(1, 4))) for _ in range(rng.randint(1, 6))),
            )
            for _ in range(rng.randint(1, 6))
        ]
        scorer = Scorer(model, asked, pad_token_id=rng.randrange(VOCABULARY), budget=rng.choice([1, 20, 60, 500]))
        order = [[number] for number in range(len(asked))] if rng.random() < 0.3 else None
        found = run(scorer, order)
        assert_same(found, [plain(model, item) for item in asked])
        told_apart |= {flag for answer in found for flag in answer.greedy}
    assert told_apart == {True, False}


def test_greedy_is_what_the_model_would_write():
    model = build(*FAMILIES["llama"])
    written = list(PROMPT)
    with torch.no_grad():
        for _ in range(3):
            written.append(int(model(input_ids=torch.tensor([written])).logits[0, -1].argmax()))
    best = tuple(written[-3:])
    other = (best[0], (best[1] + 1) % VOCABULARY)
    asked = [Item(context=PROMPT, continuations=(best, best[:2], other, (other[1],)))]
    assert run(Scorer(model, asked, pad_token_id=0))[0].greedy == (True, True, False, best[0] == other[1])


@pytest.mark.parametrize(
    ("contexts", "shared"),
    [
        ([(1, 2, 3, 4)] * 3, 3),  # the last token stays in the row, for it predicts
        ([(1, 2, 3, 4), (1, 2, 3)], 2),
        ([(1, 2, 3, 4)], 0),  # nothing to share
        ([(1,), (1, 2)], 0),
        ([(1, 2), (2, 1)], 0),
        ([(1, *range(2, 60)), (1, *range(3, 60))], 0),  # one token in sixty does not pay
    ],
)
def test_prefixes(contexts, shared):
    assert likelihood.prefix_length(contexts) == shared
    model = build(*FAMILIES["gpt2"])
    asked = [Item(context=context, continuations=BRANCHED) for context in contexts]
    assert_same(run(Scorer(model, asked, pad_token_id=0)), [plain(model, item) for item in asked])


def test_batches_depend_on_lengths_and_budget_only():
    assert batching.grouped([3, 9, 3, 5, 8], 16) == [[1], [4, 3], [0, 2]]
    assert batching.grouped([3, 9], 1) == [[1], [0]]
    assert batching.grouped([], 5) == []
    model = build(*FAMILIES["llama"])
    asked = items(None, 25, num_items=9)
    scorer = Scorer(model, asked, pad_token_id=0, budget=40)
    lengths = [len(item.context) - 25 + len(continuation_tree.tree(item.continuations).tokens) for item in asked]
    assert scorer.batches == batching.grouped(lengths, 40)
    # Any other order, as other processes would have it.
    order = [list(reversed(batch)) for batch in reversed(scorer.batches)]
    assert_same(run(scorer, order), run(scorer), 1e-5)


def test_a_tree_holds_each_first_token_once_and_no_last_one():
    tree = continuation_tree.tree(BRANCHED)
    assert tree.tokens == (5, 6, 9, 12, 13, 20)
    assert tree.depths == (1, 2, 2, 1, 2, 1)
    assert tree.parents == (-1, 0, 0, -1, 3, -1)
    assert not tree.is_chain
    assert continuation_tree.tree(SINGLE).tokens == ()
    assert continuation_tree.tree(CHAINED).is_chain
    assert continuation_tree.tree(((1, 2, 3, 4), (9,))).is_chain
    assert tree.mask().int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


@contextlib.contextmanager
def counted(module: Any, axis: int) -> Any:
    """Counts the elements of a module's input without the axes from `axis` on."""
    seen: list[int] = []
    handle = module.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:axis].numel()))
    yield seen
    handle.remove()


def test_no_token_is_run_twice_and_the_head_only_where_it_is_read(monkeypatch):
    model = build(*FAMILIES["llama"])
    asked = items(BRANCHED, 25, num_items=6)
    scorer = Scorer(model, asked, pad_token_id=0, budget=50, checked=0)
    # Two positions at a time.
    monkeypatch.setattr(likelihood, "LOGITS", 2 * VOCABULARY)
    with counted(model.get_input_embeddings(), 2) as tokens, counted(model.lm_head, 2) as positions:
        found = run(scorer)
    rests = [[len(asked[number].context) - 25 for number in batch] for batch in scorer.batches]
    assert len(scorer.batches) > 1
    # The prefix once, and no pads.
    assert tokens == [25, *(sum(rest) + 6 * len(rest) for rest in rests)]
    assert sum(positions) == 6 * (1 + 6)
    assert max(positions) == 2
    assert_same(found, [plain(model, item) for item in asked])
    with counted(model.get_input_embeddings(), 2) as tokens:
        run(scorer)
    assert 25 not in tokens


def test_a_lora_adapter_is_in_force():
    import peft

    model = build(*FAMILIES["qwen2"])
    asked = items(BRANCHED, 25)
    bare = run(Scorer(model, asked, pad_token_id=0))
    config = peft.LoraConfig(target_modules=["q_proj", "down_proj", "lm_head"], init_lora_weights=False, r=4)
    wrapped = peft.get_peft_model(model, config, adapter_name="default").eval()
    scorer = Scorer(wrapped, asked, pad_token_id=0)
    assert scorer.notes == []
    found = run(scorer)
    assert_same(found, [plain(wrapped, item) for item in asked])
    assert abs(found[0].sums[0] - bare[0].sums[0]) > 0.01


def test_a_prompt_adapter_falls_back():
    import peft

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(build(*FAMILIES["llama"]), config).eval()
    asked = items(BRANCHED, 25)
    scorer = Scorer(model, asked, pad_token_id=0, budget=90)
    assert "adds tokens of its own" in scorer.notes[0]
    assert_same(run(scorer), [plain(model, item) for item in asked])


@pytest.mark.parametrize("family", REFUSED)
def test_other_models_fall_back_and_say_so(family):
    kind, settings = T5 if family == "t5" else REFUSED[family][:2]
    model = build(kind, settings)
    for labels in (BRANCHED, SINGLE, None):
        asked = items(labels, 10)
        expected = [plain(model, item) for item in asked]
        for budget in (1, 60, None):
            scorer = Scorer(model, asked, pad_token_id=5, budget=budget)
            assert_same(run(scorer), expected)
            assert REFUSED[family][2] in scorer.notes[0]


def test_an_encoder_reads_each_context_once():
    model = build(*T5)
    asked = items(SINGLE, 10)
    with counted(model.encoder.block[0], 2) as tokens, counted(model.lm_head, 2) as positions:
        run(Scorer(model, asked, pad_token_id=0, checked=0))
    assert tokens == [5 * max(len(item.context) for item in asked)]
    # Labels of one token are all read from the decoder's first position.
    assert positions == [5]


def test_a_head_that_does_not_stand_alone_falls_back(monkeypatch):
    model = build(*FAMILIES["llama"])
    forward = model.forward
    # Something that only the whole text tells.
    model.forward = lambda input_ids, **more: _scaled(forward(input_ids=input_ids, **more), 1 + input_ids.sum() % 7)
    asked = items(BRANCHED, 25)
    scorer = Scorer(model, asked[:2], pad_token_id=0)
    assert "parts are run apart" in scorer.notes[0]


def _scaled(output: Any, factor: Any) -> Any:
    output.logits = output.logits * factor
    return output


@pytest.mark.parametrize("family", ["llama", "bloom", "t5"])
def test_out_of_memory_halves_the_batch_and_changes_no_result(family, monkeypatch):
    model = build(*(T5 if family == "t5" else FAMILIES.get(family) or REFUSED[family][:2]))
    asked = items(BRANCHED, 10, num_items=8)
    expected = run(Scorer(model, asked, pad_token_id=0))
    scorer = Scorer(model, asked, pad_token_id=0)
    known = len(scorer.notes)
    body = model.get_decoder() if family != "t5" else model.decoder
    forward = body.forward

    def limited(*arguments: Any, **options: Any) -> Any:
        ids = options.get("input_ids", arguments[0] if arguments else None)
        if len(ids) > 3 or ids.numel() > 40:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")
        return forward(*arguments, **options)

    monkeypatch.setattr(body, "forward", limited)
    assert_same(run(scorer), expected, 1e-5)
    assert any("out of memory" in note for note in scorer.notes[known:])
    # One row that does not fit is an error.
    monkeypatch.setattr(body, "forward", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(torch.OutOfMemoryError):
        scorer.run([0])


def test_other_errors_pass_and_leave_the_model_as_it_was(monkeypatch):
    model = build(*FAMILIES["gemma2-5"])
    asked = items(BRANCHED, 25)
    scorer = Scorer(model, asked, pad_token_id=0)
    before = model.config._attn_implementation
    with monkeypatch.context() as patch:
        patch.setattr(shared_prefix, "merge", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scorer.run([0])
    with monkeypatch.context() as patch:
        patch.setattr(model.lm_head, "forward", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scorer.run([0])
    assert model.config._attn_implementation == before
    assert "forward" not in model.model.__dict__
    assert_same(run(scorer), [plain(model, item) for item in asked])


def test_in_16_bits_loosely():
    # bf16 has 8 bits of mantissa: sums around -20 move by tenths, with the plain path as with this one.
    for family in ("llama", "gemma2-20", "gpt2"):
        model = build(*FAMILIES[family])
        asked = items(BRANCHED, 25)
        exact = [plain(model, item) for item in asked]
        model.bfloat16()
        scorer = Scorer(model, asked, pad_token_id=0)
        assert scorer.notes == []
        for found, expected in zip(run(scorer), exact, strict=True):
            assert found.sums == pytest.approx(expected.sums, abs=0.7, rel=0)


def test_under_autocast_loosely():
    model = build(*FAMILIES["qwen3"])
    asked = items(BRANCHED, 25)
    scorer = Scorer(model, asked, pad_token_id=0, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    assert scorer.notes == []
    found = run(scorer)
    for left, item in zip(found, asked, strict=True):
        assert left.sums == pytest.approx(plain(model, item).sums, abs=0.7, rel=0)
    keys, values = scorer._strategy.prefix.layers[0]
    assert keys.dtype == values.dtype == torch.bfloat16


def test_a_model_in_4_bits(tmp_path):
    import transformers

    # Quantised in blocks of 64.
    build("llama", {**SMALL, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}).save_pretrained(tmp_path)
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=settings, device_map={"": "cpu"}
    ).eval()
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    asked = items(BRANCHED, 25)
    scorer = Scorer(model, asked, pad_token_id=0)
    assert scorer.notes == []
    assert_same(run(scorer), [plain(model, item) for item in asked], 1e-3)


@pytest.mark.parametrize(("context", "labels"), [((), SINGLE), ((1,), ()), ((1,), ((1,), ()))])
def test_items_need_tokens(context, labels):
    with pytest.raises(ValueError, match="at least one token"):
        Item(context=context, continuations=labels)


def test_the_budget_of_a_cpu():
    assert batch_budget.default_budget(build(*FAMILIES["llama"])) == batch_budget.CPU_BUDGET


def test_a_model_is_probed_once_for_each_precision(monkeypatch):
    model = build(*FAMILIES["llama"])
    asked = []
    true = shared_prefix.supports
    monkeypatch.setattr(shared_prefix, "supports", lambda *options: asked.append(options) or true(*options))
    chosen = items(BRANCHED, 25)
    first = run(Scorer(model, chosen, pad_token_id=0))
    assert run(Scorer(model, chosen, pad_token_id=0)) == first
    assert len(asked) == 1
    Scorer(model, chosen, pad_token_id=0, autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    assert len(asked) == 2
    Scorer(build(*FAMILIES["llama"]), chosen, pad_token_id=0)
    assert len(asked) == 3
