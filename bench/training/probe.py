"""Fits a linear probe: logistic regression on frozen features."""

from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn

from bench.console import Phase
from bench.data.batching import collate, grouped
from bench.evaluation.reader import Scoring, batch_tokens
from bench.models.autocast import autocast, evaluating


def fit_probe(model: nn.Module, features: list[dict[str, Any]], scoring: Scoring, options: dict[str, Any]) -> int:
    """Fit scikit-learn's logistic regression on the frozen features and write it into the probe's linear layer.

    Every process computes its share of the features and all fit the same classifier. Returns the solver's iterations.
    """
    from accelerate.utils import gather_object

    state = PartialState()
    lengths = [len(feature["input_ids"]) for feature in features]
    numbered: list[tuple[int, list[float]]] = []
    with evaluating(model), autocast(scoring.device, scoring.precision):
        mine = grouped(lengths, batch_tokens(model, scoring))[state.process_index :: state.num_processes]
        with Phase.of_examples("features of train", mine, lengths, state.num_processes) as display:
            for numbers in mine:
                batch = collate([features[number] for number in numbers], scoring.tokenizer)
                inputs = {name: tensor.to(scoring.device) for name, tensor in batch.items() if name != "labels"}
                numbered += zip(numbers, model.features(**inputs).float().cpu().tolist(), strict=True)
                display.advance(len(numbers), tokens=sum(lengths[number] for number in numbers))
    everything = sorted(gather_object(numbered) if state.num_processes > 1 else numbered)
    matrix = np.array([row for _, row in everything])
    labels = np.array([feature["labels"] for feature in features])
    weight, bias, iterations = _regress(matrix, labels, scoring.metrics.num_labels, options)
    model.linear.weight.copy_(torch.tensor(weight))
    model.linear.bias.copy_(torch.tensor(bias))
    return iterations


def _regress(
    matrix: np.ndarray, labels: np.ndarray, num_labels: int, options: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Fit logistic regression on standardised features, folded back into weights [labels, hidden] on the raw ones.

    matrix: [examples, hidden]. labels: ids, or rows of 0 and 1, of which each column is fitted by itself.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = matrix.mean(0), matrix.std(0)
    scale[scale == 0] = 1.0
    standard = (matrix - mean) / scale
    weight, bias, iterations = np.zeros((num_labels, matrix.shape[1])), np.full(num_labels, -30.0), 0
    settings = {"C": options["C"], "max_iter": options["max_iter"]}
    if labels.ndim == 2:
        for column in range(num_labels):
            if len(set(labels[:, column])) == 2:
                model = LogisticRegression(**settings).fit(standard, labels[:, column])
                weight[column], bias[column] = model.coef_[0], model.intercept_[0]
                iterations = max(iterations, int(model.n_iter_.max()))
            elif labels[0, column] == 1:
                bias[column] = 30.0  # a label that every training text has
    else:
        model = LogisticRegression(**settings).fit(standard, labels)
        iterations = int(model.n_iter_.max())
        if len(model.classes_) == 2:
            # One row of weights for the second class; the first one's logit is 0.
            first, second = model.classes_
            weight[second], bias[second], bias[first] = model.coef_[0], model.intercept_[0], 0.0
        else:
            weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    weight = weight / scale
    return weight, bias - weight @ mean, iterations
