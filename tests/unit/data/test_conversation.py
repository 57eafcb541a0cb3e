"""Conversations as tokens: what is in the loss is what TRL and the templates' own marks have, and nothing is lost."""

import importlib.resources

import pytest
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from bench.config.cards import Prompt, TokenizerCard
from bench.config.recipe import Prompting
from bench.data import tokenizer as tokenizers
from bench.data.prompts.few_shot import ShotSampler
from bench.errors import SetupError
from bench.evaluation import reference_examples
from bench.tasks import generation as task
from tests.helpers.cases import together
from tests.helpers.chat_templates import INST, TURNS

PLAIN = Prompt(template="Question: {text}\nAnswer:")
SYSTEM = {"role": "system", "content": "Be short."}
TURNS_WITH_TAIL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% if m.role == 'assistant' %}behind it\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKERS = ["<|turn|>", "<|end|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"]
MARKERS += [
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|endoftext|>",
]


def turns(*texts, system=False):
    roles = ("user", "assistant")
    spoken = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    return [SYSTEM, *spoken] if system else spoken


CHATS = [
    turns("how many eggs are there?", "there are 7 eggs.", "and plums?", "none. only eggs."),
    turns("which day is it?", "it is monday", system=True),
    turns("say  two   lines", "one\ntwo", "again", " one\ntwo ", "once more", "no", system=True),
]


def trl_template(name):
    return (importlib.resources.files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def tokenizer_with(template):
    texts = [turn["content"] for chat in CHATS for turn in chat]
    made = tokenizers.train(TokenizerCard(train="bpe", vocab_size=500), "decoder", texts)
    made.add_special_tokens({"additional_special_tokens": MARKERS})
    made.chat_template = template
    return made


def rows_of(chats):
    rows = []
    for number, (*before, answer) in enumerate(chats):
        said = "\n\n".join(turn["content"] for turn in before if turn["role"] != "system")
        row = {"id": f"c{number}", "text": said, "text_pair": None, "label": 0, "messages": before}
        rows.append({**row, "answers": [answer["content"]]})
    return rows


def plain_rows(*pairs):
    return [
        {"id": f"p{number}", "text": text, "text_pair": None, "label": 0, "answers": [answer]}
        for number, (text, answer) in enumerate(pairs)
    ]


def encoder(tokenizer, *, chat=True, loss_on="answer", max_length=400, max_new_tokens=30, prompt=PLAIN, **options):
    told = options.pop("told", {})
    prompting = Prompting(
        format="chat" if chat else "plain", max_new_tokens=max_new_tokens, chat_template_kwargs=told if chat else {}
    )
    options.setdefault("family", "decoder")
    return reference_examples.encoder_of(
        tokenizer, task, prompt, prompting, max_length=max_length, trained=True, loss_on=loss_on, **options
    )


def learned(feature):
    return [token for token in feature["token_labels"] if token != -100]


def trl_labels(tokenizer, data, **options):
    """Return (tokens, labels) of each row as TRL's SFTTrainer prepares them, without a step of training."""
    from trl import SFTConfig, SFTTrainer

    tokenizer.split_special_tokens = False  # as transformers has it
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size))
    config = SFTConfig(output_dir="unused", use_cpu=True, bf16=False, report_to="none", max_length=None, **options)
    trainer = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(data), processing_class=tokenizer)
    trained = [trainer.data_collator([row]) for row in trainer.train_dataset]
    return [(batch["input_ids"][0].tolist(), batch["labels"][0].tolist()) for batch in trained]


def test_the_assistants_tokens_are_trls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("llama3_training", "qwen2_5_training"):
        tokenizer = tokenizer_with(trl_template(name))
        expected = trl_labels(tokenizer, [{"messages": chat} for chat in CHATS], assistant_only_loss=True)
        features, _ = encoder(tokenizer, loss_on="assistant").encode_train_examples(rows_of(CHATS))
        for feature, (ids, labels) in zip(features, expected, strict=True):
            if ids[0] != tokenizer.bos_token_id:  # the tokenizer adds a beginning that the template does not write
                ids, labels = [tokenizer.bos_token_id, *ids], [-100, *labels]
            size = len(feature["input_ids"])
            # An end of turn is the last thing that is learned; TRL goes on to a line break that follows it.
            assert feature["input_ids"] == ids[:size], name
            assert feature["token_labels"] == labels[:size], name
            assert tokenizer.decode(ids[size:]).strip() == "", name


def test_the_answers_tokens_are_trls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = tokenizer_with(trl_template("llama3_training"))
    data = [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in CHATS]
    features, _ = encoder(tokenizer).encode_train_examples(rows_of(CHATS))
    for feature, (ids, labels) in zip(features, trl_labels(tokenizer, data, completion_only_loss=True), strict=True):
        assert feature["input_ids"] == ids
        assert feature["token_labels"] == labels
    everything = trl_labels(tokenizer, [{"messages": chat} for chat in CHATS])
    features, _ = encoder(tokenizer, loss_on="all").encode_train_examples(rows_of(CHATS))
    for feature, (ids, labels) in zip(features, everything, strict=True):
        assert feature["input_ids"] == ids == feature["token_labels"] == labels


def test_what_is_learned_does_not_change_what_is_scored():
    """Also of a template with text behind an answer's end, which only a model that learns all of it reads."""
    tokenizer = tokenizer_with(TURNS_WITH_TAIL)
    rows = [*rows_of(CHATS), *plain_rows(("eggs?", "7"))]
    for max_length in (400, 60):
        scored = {
            loss_on: encoder(tokenizer, loss_on=loss_on, max_length=max_length, max_new_tokens=12).encode_prompts(rows)
            for loss_on in ("answer", "assistant", "all")
        }
        assert scored["answer"] == scored["assistant"] == scored["all"]
        assert (scored["all"][1] > 0) == (max_length < 400)
    for feature, row in zip(scored["all"][0], rows, strict=True):
        (reference,) = feature["continuation_ids"]
        assert "behind" not in tokenizer.decode(reference)
        if len(reference) < 12:
            assert tokenizer.decode(reference) == f"{row['answers'][0]}<|im_end|>"
    learned_all, _ = encoder(tokenizer, loss_on="all").encode_train_examples(rows)
    assert all(tokenizer.decode(learned(item)).endswith("<|im_end|> \nbehind it\n") for item in learned_all)


@together("name", ["llama3", "qwen2_5", "phi3", "gemma", "qwen3"])
def test_turns_found_by_text_are_those_that_templates_mark(name):
    chats = [chat for chat in CHATS if chat[0] is not SYSTEM] if name == "gemma" else CHATS
    marked = tokenizer_with(trl_template(f"{name}_training"))
    bare = tokenizer_with(trl_template(name))
    with_marks, _ = encoder(marked, loss_on="assistant").encode_train_examples(rows_of(chats))
    by_text, _ = encoder(bare, loss_on="assistant").encode_train_examples(rows_of(chats))
    for own, other, chat in zip(by_text, with_marks, chats, strict=True):
        answers = [turn["content"].strip().casefold() for turn in chat if turn["role"] == "assistant"]
        text = bare.decode(learned(own))
        for answer in answers:
            assert answer in text
        for turn in chat:
            assert turn["role"] == "assistant" or turn["content"].casefold() not in text
        if name == "qwen3":
            continue  # its template for training keeps thoughts where the original drops them
        # Marks go on to the line break behind an end of turn, or leave that end out.
        assert own["input_ids"] == other["input_ids"]
        differ = [
            token
            for token, mine, marks in zip(own["input_ids"], own["token_labels"], other["token_labels"], strict=True)
            if mine != marks
        ]
        assert {bare.decode([token]).strip() for token in differ} <= {"", "<end_of_turn>"}


def test_a_slow_tokenizer_gives_the_same_tokens():
    tokenizer = tokenizer_with(TURNS)
    fast = encoder(tokenizer, loss_on="assistant")
    slow = encoder(tokenizer, loss_on="assistant")
    tokenize = slow.encoder.tokenize
    slow.encoder.tokenize = lambda texts: [(ids, None) for ids, _ in tokenize(texts)]
    assert slow.encode_train_examples(rows_of(CHATS)) == fast.encode_train_examples(rows_of(CHATS))


@together("template", [INST, TURNS, trl_template("llama3"), trl_template("qwen3")])
def test_what_is_asked_is_what_was_learned(template):
    rows = rows_of([chat for chat in CHATS if chat[0] is not SYSTEM])
    made = encoder(tokenizer_with(template))
    prompts, _ = made.encode_prompts(rows)
    trained, _ = made.encode_train_examples(rows)
    for prompt, example in zip(prompts, trained, strict=True):
        assert prompt["input_ids"] == prompt["prompt_ids"]
        assert prompt["prompt_ids"] + prompt["continuation_ids"][0] == example["input_ids"]
        assert learned(example) == prompt["continuation_ids"][0]
        assert example["input_ids"][-1] in made.stop_ids


def test_thinking_can_be_switched_off():
    tokenizer = tokenizer_with(trl_template("qwen3"))
    rows = rows_of([turns("how many?", "seven")])
    asked = {told: encoder(tokenizer, told={"enable_thinking": told}).encode_prompts(rows)[0] for told in (True, False)}
    texts = {told: tokenizer.decode(features[0]["input_ids"]) for told, features in asked.items()}
    assert texts[False].endswith("<think>\n\n</think>\n\n")
    assert "<think>" not in texts[True]
    with pytest.raises(SetupError, match="chat template does not use 'enable_thoughts'"):
        encoder(tokenizer, told={"enable_thoughts": True})


def test_plain_text_has_the_cards_frame_and_an_end():
    tokenizer = tokenizer_with(None)
    rows = plain_rows(("how many?", "seven eggs"), ("which day?", "monday"))
    features, _ = encoder(tokenizer, chat=False).encode_train_examples(rows)
    for feature, row in zip(features, rows, strict=True):
        whole = f"Question: {row['text']}\nAnswer: {row['answers'][0]}"
        assert feature["input_ids"] == [*tokenizer(whole)["input_ids"], tokenizer.eos_token_id]
        assert tokenizer.decode(learned(feature)).strip() == f"{row['answers'][0]}</s>"
    # One turn of a conversation is a text like any other; more of them have no frame.
    single = rows_of([turns("how many?", "seven eggs")])
    assert encoder(tokenizer, chat=False).encode_train_examples(single)[0] == features[:1]
    for chat, what in ((CHATS[0], "several turns"), (CHATS[1], "a system prompt")):
        with pytest.raises(SetupError, match=f"{what}, which plain text has no frame for; set prompting.format: chat"):
            encoder(tokenizer, chat=False).encode_prompts(rows_of([chat]))
    with pytest.raises(SetupError, match="the tokenizer has no chat template"):
        encoder(tokenizer)


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_answer():
    texts = [turn["content"] for chat in CHATS for turn in chat]
    tokenizer = tokenizers.train(TokenizerCard(train="unigram", vocab_size=300), "encoder_decoder", texts)
    rows = plain_rows(("how many eggs?", "7 eggs"))
    made = encoder(tokenizer, chat=False, family="encoder_decoder")
    (feature,), _ = made.encode_train_examples(rows)
    assert feature["input_ids"] == tokenizer("Question: how many eggs?\nAnswer:")["input_ids"]
    assert feature["token_labels"] == tokenizer("7 eggs")["input_ids"]
    (asked,), _ = made.encode_prompts(rows)
    assert asked["input_ids"] == feature["input_ids"]
    assert asked["continuation_ids"] == [feature["token_labels"]]


def test_a_text_that_is_too_long_loses_its_end_and_the_answer_nothing():
    tokenizer = tokenizer_with(TURNS)
    rows = plain_rows(("egg " * 200, "seven eggs"), ("how many?", "seven eggs"))
    made = encoder(tokenizer, max_length=100, max_new_tokens=20)
    features, cut = made.encode_train_examples(rows)
    assert cut == 1
    assert len(features[0]["input_ids"]) <= 100
    assert learned(features[0]) == learned(features[1])
    prompts, cut = made.encode_prompts(rows)
    assert (cut, [feature["cut"] for feature in prompts]) == (1, [True, False])
    assert max(len(feature["input_ids"]) for feature in prompts) <= 80
    assert made.warnings == []


def test_a_conversation_that_is_too_long_loses_its_oldest_turns():
    tokenizer = tokenizer_with(TURNS)
    long = turns("first " * 30, "one", "second question", "two", "third question", "three", system=True)
    made = encoder(tokenizer, max_length=120, max_new_tokens=10)
    features, cut = made.encode_train_examples(rows_of([long]))
    text = tokenizer.decode(features[0]["input_ids"])
    assert cut == 1
    assert "be short" in text
    assert "first" not in text
    assert "second question" in text
    assert "three<|end|>" in text
    assert "1 conversations lost their oldest turns to fit max_length 120" in made.encoder.notes


def test_an_answer_that_is_too_long_is_noted():
    tokenizer = tokenizer_with(TURNS)
    rows = plain_rows(("how many?", "seven eggs " * 60), ("how many?", "seven"))
    made = encoder(tokenizer, max_length=100, max_new_tokens=20)
    features, _ = made.encode_train_examples(rows)
    assert len(features[0]["input_ids"]) == 100
    assert len(learned(features[0])) >= 50
    assert "train: the answers of 1 of 2 examples were cut to fit max_length 100" in made.encoder.notes
    prompts, _ = made.encode_prompts(rows, "test")
    assert len(prompts[0]["input_ids"]) + len(prompts[0]["continuation_ids"][0]) == 100
    notes = " ".join(made.encoder.notes)
    assert "1 of 2 references have more tokens than prompting.max_new_tokens, 20" in notes
    assert [(warning.code, warning.sentence) for warning in made.warnings] == [
        ("answers_cut", "train: 1 of 2 answers (50%) were cut to fit max_length 100"),
        ("answers_cut", "test: 1 of 2 answers (50%) have more tokens than prompting.max_new_tokens, 20"),
    ]
    assert "1 of 2 references are longer than max_length" in notes
    with pytest.raises(SetupError, match="max_new_tokens is 100, which leaves no room for a prompt"):
        encoder(tokenizer, max_length=100, max_new_tokens=100)


def test_special_tokens_that_texts_spell_out_are_text():
    tokenizer = tokenizer_with(TURNS)
    made = encoder(tokenizer)
    features, _ = made.encode_train_examples(rows_of([turns("what is <|end|>?", "it is <|end|>, an end")]))
    ends = [token for token in features[0]["input_ids"] if token == tokenizer.convert_tokens_to_ids("<|end|>")]
    assert len(ends) == 2
    assert "1 texts spell out a special token; a space was put into it" in made.encoder.notes


def test_a_blank_at_the_end_of_a_prompt_is_left_to_the_model():
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}a: {{ m.content }}{{ eos_token }}{% else %}"
        "{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}a: {% endif %}"
    )
    texts = ["user: how many\na: the eggs", "a: the plums", "a: the the the"]
    tokenizer = tokenizers.train(TokenizerCard(train="bpe", vocab_size=400), "decoder", texts)
    tokenizer.chat_template = template
    made = encoder(tokenizer)
    rows = rows_of([turns("how many", "the eggs")])
    prompts, _ = made.encode_prompts(rows)
    trained, _ = made.encode_train_examples(rows)
    assert prompts[0]["input_ids"] + prompts[0]["continuation_ids"][0] == trained[0]["input_ids"]
    assert any("blank at the end of prompts" in note for note in made.encoder.notes)


REFUSED = {
    "does not write the text of the system": "{% for m in messages %}{% if m.role != 'system' %}{{ m.role }} "
    "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}assistant {% endif %}",
    "changes the assistant's turn 3": "{% for m in messages %}{{ m.role }} {% if m.role == 'assistant' and not "
    "loop.last %}{{ m.content | upper }}{% else %}{{ m.content }}{% endif %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}",
}


@together("message", REFUSED)
def test_templates_that_would_be_silently_wrong_are_refused(message):
    made = encoder(tokenizer_with(REFUSED[message]), loss_on="assistant")
    with pytest.raises(SetupError, match=message):
        made.encode_train_examples(rows_of([CHATS[2]]))


def test_solved_examples_come_before_the_question():
    shots = rows_of([turns("first?", "one"), turns("second?", "two")])
    sampler = ShotSampler(shots, (), 2, 13, balanced=False)
    tokenizer = tokenizer_with(TURNS)
    made = encoder(tokenizer, shots=sampler)
    text = tokenizer.decode(made.encode_prompts(rows_of([CHATS[1]]))[0][0]["input_ids"])
    assert text.index("be short") < min(text.index("first?"), text.index("second?")) < text.index("which day")
    assert made.stop_text is None
    plain = encoder(
        tokenizer, chat=False, shots=ShotSampler(plain_rows(("a?", "b"), ("c?", "d")), (), 2, 13, balanced=False)
    )
    text = tokenizer.decode(plain.encode_prompts(plain_rows(("how many?", "seven")))[0][0]["input_ids"])
    assert text.count("answer:") == 3
    assert plain.stop_text == "\n\n"


def test_references_are_compared_without_thoughts_and_learned_with_them():
    tokenizer = tokenizer_with(TURNS)
    rows = rows_of([turns("how many?", "<think>\nthree and four\n</think>\n\nseven")])
    made = encoder(tokenizer)
    (asked,), _ = made.encode_prompts(rows)
    (trained,), _ = made.encode_train_examples(rows)
    assert asked["labels"] == ["seven"]
    assert "three and four" in tokenizer.decode(learned(trained))
    assert encoder(tokenizer, chat=False).encode_prompts(plain_rows(("a", "<think>b</think>c")))[0][0]["labels"] != [
        "c"
    ]
