"""Class weights and focal loss: torch's own means, the paper's formula, any cutting into parts, and bad input."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from bench.config import resolve
from bench.config.training import Training
from bench.data.batching import IGNORED
from bench.data.examples import Encoded
from bench.errors import RecipeError, SetupError
from bench.training import class_loss
from tests.helpers.cases import together
from tests.helpers.launching import ROOT

LABELS = ("a", "b", "c")
RECIPE = ROOT / "recipes" / "tiny" / "bert-full.yaml"


def logits_and_labels(*, multi_label):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(10, 3, generator=generator)
    shape = (10, 3) if multi_label else (10,)
    return logits, torch.randint(2 if multi_label else 3, shape, generator=generator)


def loss_of(weights=None, gamma=None, smoothing=0.0, *, multi_label=False):
    named = None if weights is None else dict(zip(LABELS, weights, strict=True))
    return class_loss.ClassLoss(weights=named, gamma=gamma, label_smoothing=smoothing, multi_label=multi_label)


@together("multi_label", [False, True])
@together("smoothing", [0.0, 0.1])
def test_the_mean_equals_torchs_and_so_does_any_cutting_of_it(multi_label, smoothing):
    logits, labels = logits_and_labels(multi_label=multi_label)
    weights = torch.tensor([0.2, 1.0, 5.0])
    if multi_label:
        target = labels * (1 - smoothing) + smoothing / 2
        expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weights)
    else:
        expected = torch.nn.functional.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)
    own = loss_of(weights.tolist(), smoothing=smoothing, multi_label=multi_label)
    assert float(own.summed(logits, labels) / own.divisor(labels)) == pytest.approx(float(expected), abs=1e-6)
    parts = [(logits[part], labels[part]) for part in (slice(1), slice(1, 7), slice(7, None))]
    whole = sum(own.summed(*part) for part in parts) / sum(own.divisor(part[1]) for part in parts)
    assert float(whole) == pytest.approx(float(expected), abs=1e-6)


@together("multi_label", [False, True])
def test_focal_loss_is_the_papers_and_cross_entropy_for_gamma_0(multi_label):
    logits, labels = logits_and_labels(multi_label=multi_label)
    weights = np.array([0.2, 1.0, 5.0])
    probabilities = (logits.sigmoid() if multi_label else logits.softmax(-1)).detach().double().numpy()
    known = labels.numpy()
    if multi_label:
        right = np.where(known == 1, probabilities, 1 - probabilities)
        factors = np.where(known == 1, weights, 1.0)
    else:
        right, factors = probabilities[np.arange(10), known], weights[known]
    expected = (-factors * (1 - right) ** 1.5 * np.log(right)).sum()
    got = loss_of(weights, 1.5, multi_label=multi_label).summed(logits, labels)
    assert float(got) == pytest.approx(expected, rel=1e-5)
    plain = [loss_of(weights, gamma, multi_label=multi_label).summed(logits, labels) for gamma in (0.0, None)]
    assert float(plain[0]) == pytest.approx(float(plain[1]), rel=1e-6)


@together("multi_label", [False, True])
def test_a_certain_prediction_has_finite_gradients(multi_label):
    logits = (1000 * torch.eye(3)).requires_grad_()
    labels = torch.eye(3).long() if multi_label else torch.arange(3)
    loss_of(gamma=0.5, multi_label=multi_label).summed(logits, labels).backward()
    assert bool(logits.grad.isfinite().all())


def test_ignored_tokens_are_no_items():
    logits, _ = logits_and_labels(multi_label=False)
    labels = torch.tensor([[0, IGNORED], [2, 1], [IGNORED, IGNORED], [1, 0], [2, 2]])
    own = loss_of([0.5, 1.0, 2.0])
    expected = torch.nn.functional.cross_entropy(
        logits, labels.flatten(), weight=torch.tensor([0.5, 1.0, 2.0]), ignore_index=IGNORED
    )
    got = own.summed(logits.view(5, 2, 3), labels) / own.divisor(labels)
    assert float(got) == pytest.approx(float(expected), abs=1e-6)
    assert int(loss_of(gamma=1.0).divisor(labels)) == 7


def encoded(features):
    return Encoded(name="train", ids=tuple(map(str, range(len(features)))), features=features, truncated=0)


def test_balanced_weights_are_scikit_learns_and_absent_labels_weigh_1():
    balanced, labels = Training(class_weights="balanced"), [0, 0, 0, 1, 1, 2]
    train = encoded([{"labels": label} for label in labels])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    found = class_loss.weights_of(balanced, train, LABELS, multi_label=False)
    assert [*found.values.values()] == pytest.approx(expected.tolist())
    assert found.absent == ()
    tags = encoded([{"word_labels": [IGNORED, 0, 0]}, {"word_labels": [0, 2, IGNORED]}])
    found = class_loss.weights_of(balanced, tags, LABELS, multi_label=False)
    assert found.values == pytest.approx({"a": 4 / (2 * 3), "b": 1.0, "c": 4 / 2})
    assert found.absent == ("b",)
    several = encoded([{"labels": row} for row in ([1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1])])
    found = class_loss.weights_of(balanced, several, LABELS, multi_label=True)
    assert found.values == {"a": 3.0, "b": 1.0, "c": 1.0}
    named = class_loss.weights_of(Training(class_weights={"c": 2.5}), train, LABELS, multi_label=False)
    assert named.values == {"a": 1.0, "b": 1.0, "c": 2.5}
    assert class_loss.made(Training(), None, multi_label=False) is None
    with pytest.raises(SetupError, match="there is no label 'cc' in the training data"):
        class_loss.weights_of(Training(class_weights={"cc": 2.5}), train, LABELS, multi_label=False)


REFUSED = [
    (["training.class_weights={positiv: 2.0}"], "class_weights.positiv: there is no label 'positiv'. Did you mean"),
    (["training.class_weights=balance"], "class_weights"),
    (["training.class_weights={positive: 0}"], "class_weights: expected"),
    (["training.loss={name: fokal}"], "loss.name"),
    (["training.loss={gamma: 3}"], "gamma: only for `name: focal`"),
    (["training.loss={name: focal}", "training.label_smoothing=0.1"], "label_smoothing: not with the focal loss"),
    (["training.loss={name: focal}", "model=tiny_gpt2", "objective=text"], "the loss is of a task head"),
    (["training.class_weights=balanced", "dataset=endings"], "task 'multiple_choice' has none"),
]


@together("overrides, sentence", REFUSED)
def test_what_has_no_such_loss_is_refused(overrides, sentence):
    with pytest.raises(RecipeError) as refused:
        resolve.load(RECIPE, tuple(overrides))
    assert sentence in str(refused.value)


def test_the_defaults_are_no_part_of_a_recipes_hash_and_others_are():
    plain = resolve.load(RECIPE).hash
    assert resolve.load(RECIPE, ("training.loss={name: cross_entropy}", "training.class_weights=null")).hash == plain
    others = [
        resolve.load(RECIPE, (text,)).hash for text in ("training.class_weights=balanced", "training.loss.name=focal")
    ]
    assert len({plain, *others}) == 3
