"""Chat templates of two usual shapes, and a small tokenizer that has one."""

from bench.config.cards import TokenizerCard
from bench.data import tokenizer as tokenizers

# Written after the two best-known shapes: one with an end token only, one with named turns.
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|turn|>model\n{% endif %}"
)


def tokenizer_with(template=None):
    made = tokenizers.train(TokenizerCard(train="bpe", vocab_size=400), "decoder", ["a good film", "a bad film"])
    if template == TURNS:
        made.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"]})
    made.chat_template = template
    return made
