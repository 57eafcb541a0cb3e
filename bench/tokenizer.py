"""The tokenizer of a model card: a pretrained one, or one trained on the training texts where nothing is to be had."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.errors import SetupError
from bench.settings import ModelCard, TokenizerCard

SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
# What each family puts around a text: encoders read the first token, encoder-decoders the end, decoders the last one.
TEMPLATES = {
    "encoder": ("<s> $A </s>", "<s> $A </s> $B </s>"),
    "decoder": ("<s> $A", "<s> $A $B"),
    "encoder_decoder": ("$A </s>", "$A </s> $B </s>"),
}


def build(card: ModelCard, place: str | None, texts: Iterable[str]) -> tuple[Any, list[str]]:
    """The tokenizer, padding on the right, and sentences about what had to be decided for it.

    place: where the model's own tokenizer lies, used when the card names no other. texts: training texts, read only
    when the card asks for a tokenizer trained on them.
    """
    if card.tokenizer.train is not None:
        tokenizer = train(card.tokenizer, card.family, texts)
    else:
        tokenizer = load(card.tokenizer.id or place, card.tokenizer.revision or card.revision, card)
    tokenizer.padding_side = "right"
    notes = []
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        notes.append(f"the tokenizer has no pad token; {tokenizer.pad_token!r} is used and masked by length")
    if tokenizer.pad_token is None:
        raise SetupError(f"the tokenizer of {card.id} has no pad, end or unknown token to pad with")
    return tokenizer, notes


def load(place: str | None, revision: str | None, card: ModelCard) -> Any:
    """A pretrained tokenizer from the Hub or a folder. Raises SetupError with what is missing."""
    from transformers import AutoTokenizer

    if place is None:
        raise SetupError("the model card has neither an id, a package, nor a tokenizer to train")
    try:
        return AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=card.trust_remote_code)
    except (OSError, ValueError) as error:
        raise SetupError(f"the tokenizer {shown(place)!r} can't be loaded: {first_line(error)}") from error


def train(card: TokenizerCard, family: str, texts: Iterable[str]) -> Any:
    """Makes a tokenizer from texts. The same texts give the same tokenizer; the pad token's id is 0.

    The tokenizers library trains word pieces in the order of a hash map, which differs from process to process.
    So the vocabularies of word pieces and unigrams are counted here: the most frequent words, and every character.
    """
    from tokenizers import Tokenizer, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter, decoder = _pieces(str(card.train))
    kept = sorted(set(texts))
    if card.train == "bpe":
        tokenizer = _train_bpe(kept, normalizer, splitter, card.vocab_size)
    else:
        words = Counter(word for text in kept for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
        tokenizer = Tokenizer((_wordpiece if card.train == "wordpiece" else _unigram)(words, card.vocab_size))
        tokenizer.add_special_tokens(list(SPECIAL.values()))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, decoder
    single, pair = TEMPLATES[family]
    tokens = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)
    names = {**SPECIAL, "cls_token": "<s>", "sep_token": "</s>"} if family == "encoder" else SPECIAL
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


def _pieces(kind: str) -> tuple[Any, Any]:
    """How a kind of tokenizer splits text into words, and joins them again."""
    from tokenizers import decoders, pre_tokenizers

    return {
        "wordpiece": (pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()),
        "bpe": (pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()),
        "unigram": (pre_tokenizers.Metaspace(), decoders.Metaspace()),
    }[kind]


def _train_bpe(texts: list[str], normalizer: Any, splitter: Any, vocab_size: int) -> Any:
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(splitter.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _most_frequent(words: Counter[str], room: int) -> list[str]:
    return sorted(words, key=lambda word: (-words[word], word))[: max(room, 0)]


def _wordpiece(words: Counter[str], vocab_size: int) -> Any:
    from tokenizers import models

    characters = sorted({character for word in words for character in word})
    pieces = [*SPECIAL.values(), *characters, *(f"##{character}" for character in characters)]
    pieces = list(dict.fromkeys([*pieces, *_most_frequent(words, vocab_size - len(pieces))]))
    return models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>")


def _unigram(words: Counter[str], vocab_size: int) -> Any:
    from tokenizers import models

    characters = sorted({character for word in words for character in word})
    chosen = _most_frequent(words, vocab_size - len(SPECIAL) - len(characters))
    total = sum(words.values())
    # A character is dearer than any word, so that a known word is never spelt out.
    spelt = math.log(1 / total) - 1.0
    scores = dict.fromkeys(SPECIAL.values(), 0.0) | dict.fromkeys(characters, spelt)
    scores |= {word: math.log(words[word] / total) for word in chosen}
    return models.Unigram(list(scores.items()), unk_id=list(SPECIAL).index("unk_token"))


def shown(place: str) -> str:
    """A model's place without the machine's folders: the last two parts of an absolute path."""
    path = Path(place)
    return "/".join(path.parts[-2:]) if path.is_absolute() else place


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
