"""Builds a model card's tokenizer: a pretrained one, or one trained offline on the training texts."""

import math
import string
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bench.config import foreign_code
from bench.config.cards import ModelCard, TokenizerCard
from bench.errors import SetupError
from bench.utils.loading_errors import is_missing_folder, reason, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
# Special tokens of each family around a text: encoders pool the first token, decoders the last one, encoder-decoders
# read an end token.
TEMPLATES = {
    "encoder": ("<s> $A </s>", "<s> $A </s> $B </s>"),
    "decoder": ("<s> $A", "<s> $A $B"),
    "encoder_decoder": ("$A </s>", "$A </s> $B </s>"),
}


def build(card: ModelCard, place: str | None, texts: Iterable[str]) -> tuple["PreTrainedTokenizerBase", list[str]]:
    """Return the tokenizer, padding on the right, and notes on what had to be decided for it.

    place: Hub id or folder of the model's own tokenizer, used when the card names no other. texts: training texts, read
    only when the card asks for a tokenizer trained on them. Raises SetupError without any token to pad with.
    """
    if card.tokenizer.train is not None:
        tokenizer = train(card.tokenizer, card.family, texts)
    else:
        tokenizer = load(card.tokenizer.id or place, card.tokenizer.revision or card.revision, card)
    tokenizer.padding_side = "right"
    notes = []
    if card.tokenizer.chat_template is not None:
        tokenizer.chat_template = card.tokenizer.chat_template
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        notes.append(f"the tokenizer has no pad token; {tokenizer.pad_token!r} is used and masked by length")
    if tokenizer.pad_token is None:
        raise SetupError(f"the tokenizer of {card.id} has no pad, end-of-text or unknown token to pad with")
    return tokenizer, notes


def load(place: str | None, revision: str | None, card: ModelCard) -> "PreTrainedTokenizerBase":
    """Load a pretrained tokenizer from the Hub or a folder. Raises SetupError with what is missing."""
    from transformers import AutoTokenizer

    if place is None:
        raise SetupError("the model card has no id, no package and no tokenizer.train, so there is no tokenizer")
    if is_missing_folder(place):
        raise SetupError(f"the tokenizer {shown(place)!r} can't be loaded: there is no such folder")
    try:
        return AutoTokenizer.from_pretrained(
            place, revision=revision, trust_remote_code=foreign_code.trusts(card), split_special_tokens=True
        )
    except Exception as error:  # the tokenizers library raises a bare Exception for a file that it can't read
        raise SetupError(f"the tokenizer {shown(place)!r} can't be loaded: {reason(error, place)}") from error


def encode(
    tokenizer: "PreTrainedTokenizerBase", texts: list[str], pairs: list[str] | None = None, **options: Any
) -> list[dict[str, list[int]]]:
    """Return {"input_ids"} of each text, or pair of texts, and {"token_type_ids"} where the model reads them.

    A special token that is spelt out in a text is text. Unigram models (T5, ALBERT, XLM-R) have `</s>` among their
    pieces and find it all the same, so that T5 would read one end too many; such a piece becomes the unknown token.
    options: truncation, max_length, as the tokenizer takes them.
    """
    encoded = tokenizer(texts, pairs, return_special_tokens_mask=True, verbose=False, **options)
    unknown = tokenizer.unk_token_id
    special = set(tokenizer.all_special_ids) - {unknown} if unknown is not None else set()
    ids = [
        [unknown if token in special and not added else token for token, added in zip(row, mask, strict=True)]
        for row, mask in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    ]
    features = [{"input_ids": row} for row in ids]
    if pairs is not None and "token_type_ids" in encoded:
        for feature, types in zip(features, encoded["token_type_ids"], strict=True):
            feature["token_type_ids"] = types
    return features


def train(card: TokenizerCard, family: str, texts: Iterable[str]) -> "PreTrainedTokenizerBase":
    """Train a tokenizer on texts. The same texts give the same tokenizer; the pad token's id is 0.

    The tokenizers library trains word pieces in the order of a hash map, which differs from process to process.
    So the vocabularies of word pieces and unigrams are counted here: the most frequent words, and every character,
    with all of ASCII, since a prompt may have a colon where no text has one.
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
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=inputs, split_special_tokens=True, **names
    )


def _pieces(kind: str) -> tuple[Any, Any]:
    """Return the pre-tokenizer and the decoder of a kind of tokenizer."""
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


def _most_frequent(words: Counter[str], limit: int) -> list[str]:
    return sorted(words, key=lambda word: (-words[word], word))[: max(limit, 0)]


def _alphabet(words: Counter[str]) -> list[str]:
    printable = string.digits + string.ascii_lowercase + string.punctuation + "\n"
    return sorted({*printable, *(character for word in words for character in word)})


def _wordpiece(words: Counter[str], vocab_size: int) -> Any:
    from tokenizers import models

    characters = _alphabet(words)
    pieces = [*SPECIAL.values(), *characters, *(f"##{character}" for character in characters)]
    pieces = list(dict.fromkeys([*pieces, *_most_frequent(words, vocab_size - len(pieces))]))
    return models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>")


def _unigram(words: Counter[str], vocab_size: int) -> Any:
    from tokenizers import models

    characters = _alphabet(words)
    chosen = _most_frequent(words, vocab_size - len(SPECIAL) - len(characters))
    total = sum(words.values())
    # A character costs more than any word, so that a known word is never spelt out.
    spelt = math.log(1 / total) - 1.0
    scores = dict.fromkeys(SPECIAL.values(), 0.0) | dict.fromkeys(characters, spelt)
    scores |= {word: math.log(words[word] / total) for word in chosen}
    return models.Unigram(list(scores.items()), unk_id=list(SPECIAL).index("unk_token"))
