"""Greedy generation of many prompts together gives the tokens that transformers' `generate` gives for each alone."""

import contextlib
import random

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, T5Config
from transformers.models.auto import CONFIG_MAPPING

from bench.errors import SetupError
from bench.evaluation import generation
from bench.evaluation.generation import Generated, Generator, plain
from tests.helpers.cases import cover

# More threads than free cores make a tiny model a hundred times slower.
torch.set_num_threads(1)

VOCABULARY = 96
TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    # Larger than usual: else a random model writes one token over and over.
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
WINDOW = 9
FAMILIES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {},
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "gemma": {},
    "gemma2": {"sliding_window": WINDOW, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen2": {},
    "qwen3": {},
    "phi3": {"sliding_window": WINDOW},
    "mixtral": {"num_local_experts": 4, "sliding_window": None},
}
SETTINGS = {"end_token_ids": {3, 5, 7, 11, 13}, "max_new_tokens": 10, "pad_token_id": 0}


def build(family, **changes):
    """A tiny random decoder."""
    torch.manual_seed(13)
    config = CONFIG_MAPPING[family](**{**TINY, **FAMILIES.get(family, {}), **changes})
    return AutoModelForCausalLM.from_config(config).eval()


def draw(seed, *, count=7, common=0, shortest=1, longest=20):
    """Prompts of random tokens and lengths, with so many first tokens in common."""
    source = random.Random(seed)
    tokens = range(VOCABULARY)
    shared = source.choices(tokens, k=common)
    return [shared + source.choices(tokens, k=source.randint(shortest, longest)) for _ in range(count)]


def expect_same(model, prompts, notes=0, budget=None, **changes):
    """Compares all answers with the reference, and returns them."""
    settings = {**SETTINGS, **changes}
    generator = Generator(model, prompts, budget=budget, **{"checked": len(prompts), **settings})
    settings.pop("checked", None)
    found = generator.run(list(range(len(prompts))))
    assert found == [plain(model, prompt, **settings) for prompt in prompts]
    assert len(generator.notes) == notes, generator.notes
    return found


# Prefixes: none, one that the window reaches beyond, one in which it ends.
@pytest.mark.parametrize(
    ("family", "common"), cover(FAMILIES, [0, 4, 25], ["gpt2", "mistral", "gemma2", "gemma3_text", "phi3"])
)
def test_each_family_writes_what_generate_writes(family, common):
    model = build(family)
    # A window of 9 is shorter than most suffixes; places for all prompts at once, for two, and for one.
    for budget in (None, 70, 1):
        answers = expect_same(model, draw(common, common=common), budget=budget)
    assert len({answer.tokens for answer in answers}) > 1


@pytest.mark.parametrize("seed", range(12))
def test_random_work(seed):
    source = random.Random(seed)
    family = source.choice(list(FAMILIES))
    prompts = draw(
        seed,
        count=source.randint(1, 12),
        common=source.choice([0, 0, 1, 8, 30]),
        longest=source.choice([1, 5, 40]),
    )
    settings = {
        "end_token_ids": set(source.sample(range(VOCABULARY), k=source.choice([0, 5, 20]))),
        "max_new_tokens": source.choice([1, 2, 16]),
        "budget": source.choice([None, 1, 60, 150]),
    }
    expect_same(build(family), prompts, **settings)


def test_answers_end_at_different_times_and_places_are_refilled(monkeypatch):
    model, prompts = build("llama"), draw(1, count=24, common=6)
    widths = []
    forward = Generator._forward
    monkeypatch.setattr(Generator, "_forward", lambda self, step: widths.append(len(step.last)) or forward(self, step))
    answers = expect_same(model, prompts, budget=90, checked=0, end_token_ids=set(range(0, VOCABULARY, 5)))
    assert len({len(answer.tokens) for answer in answers}) > 3
    assert {answer.stopped for answer in answers} == {True, False}
    # Three places; were they not refilled, each round of three would take as long as its longest answer.
    assert max(widths) == 3
    assert sum(widths) == sum(len(answer.tokens) + (answer.stopped) for answer in answers)
    assert widths.count(3) > 0.8 * len(widths)


def test_batches_depend_on_prompts_and_budget_only():
    model, prompts = build("llama"), draw(2, count=60, longest=60)
    generator = Generator(model, prompts, budget=300, **SETTINGS)
    assert sorted(number for batch in generator.batches for number in batch) == list(range(60))
    assert len(generator.batches) > 2
    assert generator.batches == Generator(model, prompts, budget=300, **SETTINGS).batches
    together = generator.run(list(range(60)))
    for numbers in generator.batches:
        assert generator.run(numbers) == [together[number] for number in numbers]


def test_run_keeps_order_and_repetitions():
    model, prompts = build("llama"), draw(3)
    generator = Generator(model, prompts, **SETTINGS)
    one = generator.run([4])[0]
    assert generator.run([4, 0, 4])[::2] == [one, one]
    assert generator.run([]) == []


def test_no_prompts():
    assert Generator(build("llama"), [], **SETTINGS).batches == []


def test_stop_is_asked_after_each_token():
    model, prompts = build("qwen2"), draw(4, count=10, common=5)
    asked = []

    def stop(tokens):
        asked.append(tuple(tokens))
        return sum(tokens) % 4 == 0

    answers = expect_same(model, prompts, stop=stop)
    stopped = [answer for answer in answers if answer.stopped and answer.tokens and sum(answer.tokens) % 4 == 0]
    assert stopped, "some end by the callable, and the token that made it true is kept"
    assert all(any(answer.tokens[:length] in asked for length in (1, len(answer.tokens))) for answer in stopped)
    assert len({len(answer.tokens) for answer in answers}) > 2


def test_an_end_in_the_last_place_counts_as_stopped():
    model, prompts = build("llama"), draw(5, count=1)
    first = plain(model, prompts[0], **{**SETTINGS, "end_token_ids": set(), "max_new_tokens": 1})
    assert not first.stopped
    ends = {"end_token_ids": set(first.tokens), "max_new_tokens": 1}
    assert expect_same(model, prompts, **ends) == [Generated(tokens=(), stopped=True)]
    answers = expect_same(model, prompts, end_token_ids=set(), max_new_tokens=1, stop=lambda tokens: True)
    assert answers == [Generated(tokens=first.tokens, stopped=True)]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_small_and_odd_prompts(family):
    model = build(family)
    expect_same(model, [[5], [6], [5]])  # one token each
    expect_same(model, [[4, 8, 15]] * 5)  # identical
    expect_same(model, [[4, 8, 15], [4, 8], [4, 8, 15, 16]])  # one is the beginning of the others
    expect_same(model, [[0, 0, 9], [0, 9, 0], [9, 0, 0]])  # the pad id is a token like any other
    expect_same(model, [[9] * 30], max_new_tokens=1)


def test_a_long_prefix_and_prompts_longer_than_a_prefill(monkeypatch):
    monkeypatch.setattr(generation, "PREFILL_TOKENS", 8)
    expect_same(build("gemma2"), draw(6, common=60, longest=30))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_lora(family):
    targets = ["c_attn"] if family == "gpt2" else ["q_proj", "v_proj"]
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    bare = build(family)
    prompts = draw(7, common=9)
    before = Generator(bare, prompts, **SETTINGS).run(list(range(7)))
    assert expect_same(get_peft_model(bare, config), prompts) != before


def test_ties_go_to_the_lowest_token():
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight[20:40] = model.lm_head.weight[40:60]
    answers = expect_same(model, draw(8, count=12))
    assert not {token for answer in answers for token in answer.tokens} & set(range(40, 60))


def test_the_models_own_generation_settings_do_not_matter():
    model, prompts = build("llama"), draw(9, common=4)
    expected = Generator(model, prompts, **SETTINGS).run(list(range(7)))
    own = GenerationConfig(do_sample=True, temperature=3.0, repetition_penalty=5.0, min_new_tokens=9, num_beams=2)
    model.generation_config = own
    assert expect_same(model, prompts) == expected
    assert model.generation_config is own


def test_16_bits():
    # Rounding may decide between near tokens; most answers are the same ones.
    model, prompts = build("llama", initializer_range=0.5), draw(10, common=10, count=10)
    model = model.to(torch.bfloat16)
    generator = Generator(model, prompts, **SETTINGS)
    answers = generator.run(list(range(10)))
    assert generator.notes == []
    same = [answer == plain(model, prompt, **SETTINGS) for answer, prompt in zip(answers, prompts, strict=True)]
    assert sum(same) >= 7


def test_autocast():
    model, prompts = build("qwen3", initializer_range=0.5), draw(11, common=10, count=10)
    settings = {**SETTINGS, "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16)}
    generator = Generator(model, prompts, **settings)
    answers = generator.run(list(range(10)))
    assert generator.notes == []
    same = [answer == plain(model, prompt, **settings) for answer, prompt in zip(answers, prompts, strict=True)]
    assert sum(same) >= 7


def t5():
    torch.manual_seed(13)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "initializer_factor": 3.0}
    config = T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **sizes)
    return AutoModelForSeq2SeqLM.from_config(config).eval()


@pytest.mark.parametrize("budget", [None, 1])
def test_an_encoder_decoder_falls_back(budget):
    model, prompts = t5(), draw(12, common=5)
    expect_same(model, prompts, notes=1, budget=budget)
    assert "encoder-decoder" in Generator(model, prompts, **SETTINGS).notes[0]


def test_a_model_with_an_attention_of_its_own_falls_back():
    model = build("bloom", n_head=4, n_layer=2)
    expect_same(model, draw(13, common=5), notes=1, stop=lambda tokens: tokens[-1] % 7 == 0)


def test_an_adapter_with_virtual_tokens_falls_back():
    model = get_peft_model(build("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    expect_same(model, draw(14), notes=1)


def test_long_texts_with_a_rotation_of_their_own_are_written_alone():
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 2.0, 1.5]}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 32, **factors}
    model = build("phi3", rope_parameters=rope, original_max_position_embeddings=32, sliding_window=None)
    expect_same(model, draw(15, longest=20))
    expect_same(model, draw(16, common=5, longest=40), notes=1)


def test_too_long_a_prompt_is_refused_before_anything_runs(monkeypatch):
    model = build("llama")
    monkeypatch.setattr(type(model), "forward", None)
    with pytest.raises(SetupError, match=r"prompt 1 has 120 tokens; with max_new_tokens 10 it needs 130 .* has 128"):
        Generator(model, [[1], [1] * 120], **SETTINGS)
    with pytest.raises(SetupError, match="prompt 0 is empty"):
        Generator(model, [[]], **SETTINGS)


def test_the_last_position_is_used():
    expect_same(build("gpt2"), [[7] * 118, [8] * 118], end_token_ids=set())


def test_out_of_memory_halves_the_places(monkeypatch):
    model, prompts = build("llama"), draw(17, count=12, common=5)
    forward = Generator._forward

    def small(self, step):
        if len(step.last) > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return forward(self, step)

    expected = Generator(model, prompts, **SETTINGS).run(list(range(12)))
    monkeypatch.setattr(Generator, "_forward", small)
    generator = Generator(model, prompts, checked=0, **SETTINGS)
    assert generator.run(list(range(12))) == expected
    assert generator.notes == [
        "out of memory with 12 answers at once; went on with 6",
        "out of memory with 6 answers at once; went on with 3",
    ]


def test_out_of_memory_with_one_answer_is_raised(monkeypatch):
    model = build("llama")

    def none(self, step):
        raise MemoryError

    monkeypatch.setattr(Generator, "_forward", none)
    with pytest.raises(MemoryError):
        Generator(model, draw(18), **SETTINGS).run([0, 1])


def test_everything_is_put_back_after_an_error():
    model, prompts = build("gemma2").train(), draw(19, common=6)
    before = model.config._attn_implementation, model.generation_config

    def stop(tokens):
        raise ArithmeticError

    for plainly in (False, True):
        with contextlib.suppress(ArithmeticError):
            Generator(model, prompts, stop=stop, plainly=plainly, **SETTINGS).run([0, 1])
        assert (model.config._attn_implementation, model.generation_config) == before
        assert model.training
        assert torch.is_grad_enabled()
