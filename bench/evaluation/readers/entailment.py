"""Reader of an NLI model: predicts the label whose hypothesis the text entails (Yin et al. 2019)."""

from collections.abc import Sequence
from typing import Any

import torch

from bench.data import batching
from bench.data.examples import Encoded
from bench.data.prompts.encode import prompt_hash
from bench.errors import SetupError
from bench.evaluation.head_forward import HeadForward
from bench.evaluation.reader import Answer, Scoring, batch_tokens
from bench.models import heads
from bench.records.record import RunWarning


class EntailmentReader:
    """Predicts the label whose hypothesis an NLI model finds entailed by the text (Yin et al. 2019).

    One label: the softmax over the labels' entailment logits. Several: for each label by itself the probability of
    entailment against contradiction. As transformers' zero-shot pipeline does it. untrained: with a head that nothing
    has trained the pipeline takes the last output for entailment, and the first for contradiction.
    """

    def __init__(self, model: Any, split: Encoded, scoring: Scoring, *, untrained: bool = False):
        self.model, self.split, self.scoring = model, split, scoring
        self.entails, self.contradicts = (-1, 0) if untrained else _nli_labels(model)
        self.budget = batch_tokens(model, scoring)
        # As if all pairs of an example were as long as its longest, so that a batch of examples is one of pairs.
        self.batches = batching.grouped([_tokens_of(feature["pairs"]) for feature in split.features], self.budget)
        self.forward = HeadForward(model, [pair for feature in split.features for pair in feature["pairs"]], scoring)
        self.notes, self.check_s = self.forward.notes, self.forward.check_s

    def read(self, numbers: list[int]) -> list[Answer]:
        """Score all (text, hypothesis) pairs of some examples; in several batches where these are too many for one."""
        pairs = [pair for number in numbers for pair in self.split.features[number]["pairs"]]
        groups = batching.grouped([len(pair["input_ids"]) for pair in pairs], self.budget)
        logits = torch.cat([self._logits([pairs[place] for place in group]) for group in groups])
        back = torch.tensor([place for group in groups for place in group]).argsort()
        rows = logits[back].double().view(len(numbers), -1, logits.shape[-1])  # [examples, labels, NLI labels]
        answers = []
        for number, row in zip(numbers, rows, strict=True):
            extra = {"prompt_hash": self.split.features[number]["prompt_hash"]}
            if self.scoring.metrics.multi_label:
                scores = row[:, [self.contradicts, self.entails]].softmax(-1)[:, 1]
                prediction: Any = (scores >= self.scoring.threshold).long().tolist()
            else:
                scores = row[:, self.entails].softmax(-1)
                prediction = int(scores.argmax())
            answers.append(Answer(prediction=prediction, scores=scores.tolist(), extra=extra))
        return answers

    def _logits(self, pairs: list[dict[str, Any]]) -> torch.Tensor:
        return self.forward(pairs)[0].cpu()


def _tokens_of(pairs: Sequence[dict[str, Any]]) -> int:
    return len(pairs) * max(len(pair["input_ids"]) for pair in pairs)


def _nli_labels(model: Any) -> tuple[int, int]:
    names = {str(name).lower(): int(number) for name, number in heads.unwrapped(model).config.label2id.items()}
    entails = [number for name, number in names.items() if name.startswith("entail")]
    contradicts = [number for name, number in names.items() if name.startswith(("contra", "not_ent"))]
    if not entails or not contradicts:
        raise SetupError(
            f"prompting.answer is entailment, but the model's labels are {', '.join(names)}; it needs one that begins "
            "with 'entail' and one with 'contra'; a language model with a new head, as transformers' zero-shot "
            "pipeline takes one, is `prompting.untrained_head: true`, and knows nothing"
        )
    return entails[0], contradicts[0]


def untrained_warning() -> RunWarning:
    """Return the warning of a run whose answers are those of an untrained head."""
    sentence = (
        "the head that answers is new and never trained (prompting.untrained_head): the seed draws its weights, and "
        "with another one the score is another; it says nothing of the model"
    )
    return RunWarning(code="untrained_head", sentence=sentence)


def encode_pairs(
    rows: Sequence[dict[str, Any]], hypotheses: Sequence[str], tokenizer: Any, max_length: int
) -> tuple[list[dict[str, Any]], int]:
    """Return features {"input_ids", "pairs", "labels"}, and how many texts were truncated; hypotheses never are."""
    from bench.data.tokenizer import encode

    features, cut = [], 0
    for row in rows:
        premises = [row["text"]] * len(hypotheses)
        whole = encode(tokenizer, premises, list(hypotheses))
        longest = max(len(pair["input_ids"]) for pair in whole)
        if longest > max_length:
            least = min(len(pair["input_ids"]) for pair in encode(tokenizer, [""] * len(hypotheses), list(hypotheses)))
            if least >= max_length:
                raise SetupError(f"max_length {max_length} leaves no room for text beside the hypotheses")
            whole = encode(tokenizer, premises, list(hypotheses), truncation="only_first", max_length=max_length)
            cut += 1
        pairs = [pair["input_ids"] for pair in whole]
        features.append(
            {"input_ids": pairs[0], "pairs": whole, "labels": row["label"], "prompt_hash": prompt_hash([], pairs)}
        )
    return features, cut
