"""The head that Newton's method finds, against scikit-learn and the conditions of the optimum."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from peterrec.heads.classification import ClassificationHead
from peterrec.heads.logistic import Logistic
from peterrec.heads.newton import fit_head

USERS, D = 120, 6


def world(classes: int, *, shift: float = 3.0, scale: float = 50.0):
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, USERS)
    vectors = random.normal(size=(USERS, D)) + 1.5 * random.normal(size=(classes, D))[labels]
    return torch.from_numpy(vectors * scale + shift).float(), labels


@pytest.mark.parametrize("classes", [2, 3])
def test_the_penalised_loss_has_no_slope(classes):
    """At the optimum of C Σ loss + ½ |W|² (a pair of classes: of their difference) its gradient is zero."""
    vectors, labels = world(classes)
    head = ClassificationHead(D, classes, dropout=0.5, common_scale=True).eval()
    C = fit_head(head, vectors, labels, seed=0)
    assert C is not None
    assert head.norm(vectors).mean(dim=0).abs().max() < 1e-5
    assert float(head.norm(vectors).square().sum(dim=1).mean()) == pytest.approx(1.0, abs=1e-5)
    for parameter in head.parameters():
        parameter.grad = None
    F.cross_entropy(head(vectors), torch.from_numpy(labels), reduction="sum").backward()
    weight = head.output.weight
    # in two classes ±w/2 stand for w: |w|² / 2 is |W|²
    slope = C * weight.grad + weight.detach() * (2 if classes == 2 else 1)
    start = C * (torch.eye(classes)[labels] - torch.eye(classes)[labels].mean(0)).T @ head.norm(vectors)
    assert slope.abs().max() < 5e-3 * start.abs().max()
    assert C * head.output.bias.grad.abs().max() < 5e-3 * start.abs().max()


def test_predictions_are_those_of_the_regression_whatever_the_scale():
    found = []
    for scale, shift in ((50.0, 3.0), (1e-3, 0.0)):
        vectors, labels = world(3, scale=scale, shift=shift)
        head = ClassificationHead(D, 3, common_scale=True).eval()
        assert (
            fit_head(head, vectors, labels, seed=0)
            == Logistic(seed=0).fit(head.norm(vectors).double().numpy(), labels, num_classes=3).chosen_C
        )
        found.append(torch.softmax(head(vectors), dim=1).detach())
    torch.testing.assert_close(found[0], found[1], atol=2e-3, rtol=0)


def test_a_class_without_users_is_unlikely_and_not_impossible():
    vectors, labels = world(2)
    head = ClassificationHead(D, 4, common_scale=True).eval()
    fit_head(head, vectors, 2 * labels, seed=0)  # of four classes 0 and 2 have users
    shares = torch.softmax(head(vectors.mean(dim=0, keepdim=True)), dim=1)[0]
    assert shares[[1, 3]].tolist() == pytest.approx([1 / (2 * USERS)] * 2, rel=0.05)


def test_users_of_one_class_leave_nothing_to_fit():
    vectors, labels = world(2)
    head = ClassificationHead(D, 2, common_scale=True).eval()
    assert fit_head(head, vectors, np.ones_like(labels), seed=0) is None
    shares = torch.softmax(head(vectors), dim=1)
    torch.testing.assert_close(
        shares, shares.new_tensor([1 / (2 * USERS + 1), 1 - 1 / (2 * USERS + 1)]).expand(USERS, 2)
    )


def test_vectors_that_are_all_the_same_give_the_shares():
    labels = np.arange(40) % 4 == 0
    head = ClassificationHead(D, 2, common_scale=True).eval()
    fit_head(head, torch.full((40, D), 7.0), labels.astype(np.int64), seed=0)
    shares = torch.softmax(head(torch.full((1, D), 7.0)), dim=1)[0]
    torch.testing.assert_close(shares, torch.tensor([0.75, 0.25]), atol=1e-3, rtol=0)


def test_weights_of_classes_count_users_several_times():
    vectors, labels = world(2)
    weights = np.array([1.0, 3.0])
    twice = np.concatenate([np.arange(USERS), *[np.flatnonzero(labels == 1)] * 2])
    features = vectors.double().numpy() / 100
    # the weights are scaled to one a user, which C makes good
    scaled = USERS / weights[labels].sum()
    one = Logistic(C=1.0).fit(features, labels, num_classes=2, class_weights=weights)
    other = Logistic(C=scaled).fit(features[twice], labels[twice], num_classes=2)
    np.testing.assert_allclose(one.predict(features), other.predict(features), atol=2e-3)
    plain = Logistic(C=1.0).fit(features, labels, num_classes=2)
    assert (one.predict(features)[:, 1] > plain.predict(features)[:, 1]).mean() > 0.9


@pytest.mark.parametrize("classes", [2, 3])
def test_the_map_gives_the_predictions(classes):
    vectors, labels = world(classes)
    features = vectors.double().numpy() / 100
    fitted = Logistic().fit(features, labels, num_classes=classes + 1)
    weights, intercepts = fitted.map()
    assert intercepts[classes] == -np.inf
    logits = features @ weights.T + intercepts
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(shares / shares.sum(axis=1, keepdims=True), fitted.predict(features), atol=1e-12)
