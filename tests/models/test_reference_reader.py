"""Texts that are written for references: greedy as transformers', the loss as in training, the same in any batch."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from bench.config.cards import Prompt
from bench.config.extraction import Extract
from bench.config.recipe import Prompting
from bench.data import batching
from bench.data.prompts.conversation import without_thoughts
from bench.errors import DataError
from bench.evaluation import baselines, reference_examples
from bench.evaluation import scoring as score
from bench.evaluation.metric_set import MetricSet
from bench.evaluation.reader import Scoring
from bench.evaluation.readers import check
from bench.evaluation.text_examples import summary
from bench.models.losses import answer_loss_sum
from bench.tasks import generation as task
from tests.helpers import models as tiny
from tests.helpers import text_training as texts
from tests.helpers.cases import together

PROMPT = Prompt(template="Review: {text}\nAnswer:")
ANSWERS = ["a good film", "bad\nand slow", "it was the station", "loud", "no"]
ROWS = [
    {"id": f"e{number}", "text": text, "text_pair": None, "label": 0, "answers": [ANSWERS[number % 5], "other"]}
    for number, text in enumerate(tiny.TEXTS)
]
CLASSES = {"decoder": AutoModelForCausalLM, "encoder_decoder": AutoModelForSeq2SeqLM}
NEW_TOKENS = 12


def model_of(family):
    known = tiny.card(family)
    settings = dict(known.architecture)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    if known.family == "encoder_decoder":
        config.decoder_start_token_id = 0
    torch.manual_seed(0)
    return tiny.liven(CLASSES[known.family].from_config(config)).eval(), tiny.tokenizer(known), known.family


def encoder_of(tokenizer, family, **options):
    prompting = Prompting(answer="generate", max_new_tokens=NEW_TOKENS)
    return reference_examples.encoder_of(
        tokenizer, task, PROMPT, prompting, family=family, max_length=120, trained=True, **options
    ), prompting


def scored(model, tokenizer, family, batch_tokens, rows=ROWS):
    encoder, prompting = encoder_of(tokenizer, family)
    split = reference_examples.encode_split(encoder, "test", rows)
    metrics = MetricSet(("exact_match", "chrf", "reference_loss"), multi_label=False, num_labels=0)
    settings = Scoring(
        tokenizer=tokenizer,
        metrics=metrics,
        threshold=0.5,
        device=torch.device("cpu"),
        precision="no",
        batch_tokens=batch_tokens,
        reader=reference_examples.reader_of(prompting, encoder),
    )
    return split, settings, score.run(model, split, settings, "test").predictions


@together("family", ["llama", "t5"])
def test_texts_and_losses_are_transformers(family):
    model, tokenizer, kind = model_of(family)
    split, settings, found = scored(model, tokenizer, kind, 4096)
    _, _, small = scored(model, tokenizer, kind, 64)
    assert list(small.predictions) == list(found.predictions)
    assert np.allclose(small.likelihoods, found.likelihoods, atol=1e-4)
    order = {identity: number for number, identity in enumerate(split.ids)}
    trained, _ = encoder_of(tokenizer, kind)[0].encode_train_examples(ROWS)
    for place, identity in enumerate(found.ids):
        feature, example = split.features[order[identity]], trained[order[identity]]
        # The loss of training on the same row, by the model's own forward.
        start = model.config.decoder_start_token_id if kind == "encoder_decoder" else None
        batch = batching.collate_answers([example], tokenizer.pad_token_id, start)
        labels = batch.pop("labels")
        with torch.no_grad():
            loss = answer_loss_sum(model(**batch).logits, labels, shifted=start is None).item()
        sum_, tokens = found.likelihoods[place]
        assert (-sum_, tokens) == (pytest.approx(loss, abs=1e-4), int((labels != -100).sum()))
        options = GenerationConfig(
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=start,
        )
        prompt = torch.tensor([feature["input_ids"]])
        ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=options)[0]
        new = ids[1:] if kind == "encoder_decoder" else ids[prompt.shape[1] :]
        assert found.predictions[place] == tokenizer.decode(new, skip_special_tokens=True).strip()
    values = settings.metrics.values(found)
    sums = found.likelihoods.sum(0)
    assert values["reference_loss"] == pytest.approx(-sums[0] / sums[1])
    assert check.check(model, split, settings).changed == 0
    counts = summary(found)
    assert counts["hit_limit"] == round((1 - counts["stopped_share"]) * len(ROWS))


def test_end_tokens_of_the_models_own_config_end_a_text():
    model, tokenizer, kind = model_of("llama")
    _, _, free = scored(model, tokenizer, kind, 64)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in free.predictions]
    # The special token <mask>, had the model written it, would be an end only where its config says so.
    mask = tokenizer.mask_token_id
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[mask] = head[ids[0][0]] * 1.5
    _, _, unending = scored(model, tokenizer, kind, 64)
    model.generation_config.eos_token_id = [mask, ids[0][0]]
    _, _, ended = scored(model, tokenizer, kind, 64)
    assert sum(extra["stopped"] for extra in ended.extra) > sum(extra["stopped"] for extra in unending.extra)
    # Of the two ids only the special token is one: random weights come with a config that names any.
    assert any(extra["new_tokens"] > 1 for extra in free.extra)


def test_thoughts_are_no_part_of_an_answer():
    cases = {"<think>\nso\n</think>\n\nseven": "seven", "so</think>seven": "seven", "<think> never ends": ""}
    assert {text: without_thoughts(text) for text in cases} == cases
    assert without_thoughts("seven") == "seven"


def test_baselines_are_made_of_the_prompts_texts():
    metrics = MetricSet(("exact_match", "reference_loss"), multi_label=False, num_labels=0)
    model, tokenizer, kind = model_of("llama")
    _, _, found = scored(model, tokenizer, kind, 4096)
    asked = ["other", "One. Two! Three? Four.", *["x"] * (len(found.ids) - 2)]
    values = baselines.copies(metrics, asked, found)
    assert set(values) == {"empty", "copy", "lead_3"}
    assert values["copy"] == {"exact_match": 1 / len(asked)}
    assert set(baselines.copies(metrics, ["x"] * len(asked), found)) == {"empty", "copy"}


@together("loss_on", ["answer", "all"])
def test_both_engines_learn_the_same_tokens(loss_on, tmp_path):
    found = {}
    for engine in ("trainer", "loop"):
        known, model = texts.model_of("llama-full", tmp_path)
        encoder, _ = encoder_of(tiny.tokenizer(known), "decoder", loss_on=loss_on)
        lessons, _ = encoder.encode_train_examples([*ROWS, *ROWS])
        lessons = [{**lesson, "labels": 0} for lesson in lessons[:8]]
        folder = tmp_path / f"{engine}-{loss_on}"
        _, found[engine] = texts.train(texts.inputs_of(model, known, folder, lessons=lessons, engine=engine))
    assert found["trainer"]["losses"] == pytest.approx(found["loop"]["losses"], abs=1e-5)
    assert found["trainer"]["norms"] == pytest.approx(found["loop"]["norms"], rel=1e-4)


def test_references_without_a_part_are_counted():
    extract = Extract(name="gsm8k_number")
    rows = [
        {"id": f"r{place}", "answers": golds} for place, golds in enumerate([["#### 1"], ["2"], ["3", "#### 4"], []])
    ]
    (note,) = reference_examples.notes_on_extraction(extract, "test", rows)
    assert note == (
        "evaluation.extract (gsm8k_number) finds nothing in the references of 1 of 4 rows of 'test', such as 'r1': "
        "'2'; each of them counts 0 in extracted_match, whatever is written"
    )
    assert reference_examples.notes_on_extraction(extract, "test", rows[2:]) == []
    with pytest.raises(DataError, match="of 1 of 2 rows"):
        reference_examples.notes_on_extraction(extract, "test", rows[1::2])
