"""Text classification: one label of several, or any number of labels per text."""

import re
from collections.abc import Sequence
from typing import Any

from bench.config.cards import Prompt
from bench.data.prompts.encode import Wording
from bench.data.tokenizer import encode as encode_texts
from bench.errors import SetupError

OBJECTIVES = ("head", "text")
READS = "labels"
METRICS = {
    "single_label": ("accuracy", "f1", "mcc", "loss", "confusion_matrix", "per_label_accuracy"),
    "multi_label": ("jaccard", "f1", "hamming_accuracy", "subset_accuracy", "loss", "per_label_accuracy"),
}
AUTO_CLASS = "AutoModelForSequenceClassification"


def encode(
    rows: Sequence[dict[str, Any]], tokenizer: Any, max_length: int
) -> tuple[list[dict[str, Any]], tuple[int, ...]]:
    """Rows ({"text", "text_pair"?, "label"}) -> features ({"input_ids", "labels"}), and the numbers of the rows cut.

    Of two texts the longer one is shortened first; which token is of which text ("token_type_ids") is kept for models
    that know it, like BERT. Raises SetupError when `max_length` leaves no room for a token of each text.
    """
    if not rows:
        return [], ()
    first = [row["text"] for row in rows]
    second = [row["text_pair"] for row in rows] if rows[0].get("text_pair") is not None else None
    # Encoded once without a limit: the true lengths are needed to know what is cut.
    features: list[dict[str, Any]] = [*encode_texts(tokenizer, first, second)]
    too_long = [index for index, feature in enumerate(features) if len(feature["input_ids"]) > max_length]
    if too_long:
        _check_room(tokenizer, max_length, num_texts=2 if second else 1)
        short = encode_texts(
            tokenizer,
            [first[index] for index in too_long],
            [second[index] for index in too_long] if second else None,
            truncation="longest_first" if second else True,
            max_length=max_length,
        )
        for index, feature in zip(too_long, short, strict=True):
            features[index] = feature
    for feature, row in zip(features, rows, strict=True):
        feature["labels"] = row["label"]
    return features, tuple(too_long)


def _check_room(tokenizer: Any, max_length: int, *, num_texts: int) -> None:
    # With less room than this, tokenizers cut nothing, or leave nothing of a text, and say neither.
    own = tokenizer.num_special_tokens_to_add(pair=num_texts == 2)
    if max_length < own + num_texts:
        raise SetupError(f"max_length {max_length} leaves no room for text: the tokenizer adds {own} tokens of its own")


def loss_sum(logits: Any, labels: Any, smoothing: float) -> Any:
    """Summed loss over label items, to be divided once by their number in the whole optimiser step.

    logits: [batch, labels]. labels: [batch] of ids for one label (cross-entropy), [batch, labels] of 0 and 1 for
    several (binary cross-entropy; every label of every text is an item). Smoothing moves that share of the target
    to the uniform distribution (Szegedy et al. 2016), for several labels towards one half.
    """
    from torch.nn import functional

    logits = logits.float()
    if labels.dim() == 1:
        return functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    target = labels.float() * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")


def predict(logits: Any, multi_label: bool, threshold: float) -> tuple[Any, Any]:
    """logits [batch, labels] -> predictions ([batch] ids, or [batch, labels] of 0 and 1), probabilities.

    Equal probabilities: the first label wins.
    """
    logits = logits.double()
    if multi_label:
        scores = logits.sigmoid()
        return (scores >= threshold).long(), scores
    scores = logits.softmax(-1)
    return scores.argmax(-1), scores


def wording(prompt: Prompt, labels: Sequence[str], multi_label: bool) -> Wording:
    """How a row is put to a language model, and its label in words; several labels are joined by commas."""
    words = tuple(prompt.answers.get(name, name) for name in labels)

    def fields_of(row: Any) -> dict[str, str]:
        """What fills the template."""
        return {"text": row["text"], "text_pair": row["text_pair"] or "", "labels": ", ".join(words)}

    def answer_of(row: Any) -> str:
        """The label or labels in words."""
        if not multi_label:
            return words[row["label"]]
        return ", ".join(word for word, on in zip(words, row["label"], strict=True) if on) or prompt.none

    return Wording(fields=fields_of, answer=answer_of, choices=() if multi_label else words)


def parse(text: str, words: Sequence[str], none: str, multi_label: bool) -> int | list[int]:
    """A written answer -> a label id, or 0 and 1 per label; -1 (for each label) when it can't be read.

    Case, quotes and punctuation around words do not matter. One label: the answer that the text begins with (the
    longest of them), else the only one that it mentions. Several: a list, split at commas, semicolons and "and"; every
    part must be an answer, or the whole text must say that there is none.
    """
    known = {_plain(word): number for number, word in enumerate(words)}
    if multi_label:
        return _parse_list(text, known, _plain(none))
    said = _plain(text)
    leading = [word for word in known if re.match(rf"{re.escape(word)}(?!\w)", said)]
    if leading:
        return known[max(leading, key=len)]
    mentioned = [word for word in known if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", said)]
    return known[mentioned[0]] if len(mentioned) == 1 else -1


def _parse_list(text: str, known: dict[str, int], none: str) -> list[int]:
    if _plain(text) == none:
        return [0] * len(known)
    parts = [_plain(part) for part in re.split(r"[,;]|\band\b", text)]
    found = {known.get(part) for part in parts if part}
    if not found or None in found:
        return [-1] * len(known)
    return [int(number in found) for number in range(len(known))]


def _plain(text: str) -> str:
    return re.sub(r"^\W+|\W+$", "", " ".join(text.split())).casefold()
