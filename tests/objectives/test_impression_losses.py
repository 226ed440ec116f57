"""Losses of rows, and which rows count."""

import numpy as np
import pytest
import torch

from peterrec.errors import DataError
from peterrec.objectives.impression_losses import check_labels, in_label_units, masked_sum, row_losses
from peterrec.objectives.log_probability import of_logit

NAN = float("nan")


def test_bce_of_logits_and_probabilities():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=30) * 3, (rng.random(30) < 0.4).astype(float)
    y[:3] = 0.25, 0.5, 0.9  # shares are labels too
    p = 1 / (1 + np.exp(-z))
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    label = torch.from_numpy(y)
    np.testing.assert_allclose(row_losses("bce", torch.from_numpy(z), label), expected)
    np.testing.assert_allclose(row_losses("bce", of_logit(torch.from_numpy(z)), label), expected)


@pytest.mark.parametrize("value", [-60.0, 60.0, -1e4, 1e4])
def test_bce_far_out(value):
    for label in (0.0, 1.0):
        logit = torch.tensor([value], requires_grad=True)
        loss = row_losses("bce", logit, torch.tensor([label]))
        loss.sum().backward()
        wrong = (value > 0) != bool(label)
        assert loss.item() == pytest.approx(abs(value) if wrong else 0, abs=1e-20)
        assert logit.grad is not None
        assert logit.grad.item() == pytest.approx(np.sign(value) if wrong else 0, abs=1e-20)


def test_losses_of_values():
    prediction = torch.tensor([0.5, -2.0, 3.0], dtype=torch.bfloat16)
    label = torch.tensor([1.0, 0.0, 20.0])
    found = row_losses("mse", prediction, label)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, [0.25, 4, 17**2])
    expected = [(0.5 - np.log(2)) ** 2, 4, (3 - np.log(21)) ** 2]
    np.testing.assert_allclose(row_losses("log_mse", prediction, label), expected, rtol=1e-5)
    np.testing.assert_allclose(in_label_units("mse", label), label)
    np.testing.assert_allclose(in_label_units("log_mse", torch.log1p(label)), label, rtol=1e-6)


@pytest.mark.parametrize("kind", ["bce", "mse", "log_mse"])
def test_unknown_labels_reach_no_gradient(kind):
    prediction = torch.tensor([0.3, -60.0, 60.0, 1.0], requires_grad=True)
    label = torch.tensor([1.0, NAN, NAN, 0.0])
    losses = row_losses(kind, prediction, label)
    total, weight = masked_sum(losses, ~label.isnan())
    assert weight.item() == 2
    alone = prediction.detach()[[0, 3]].requires_grad_()
    expected = row_losses(kind, alone, label[[0, 3]]).sum()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(losses.sum(), expected)
    total.backward()
    expected.backward()
    assert prediction.grad is not None
    assert alone.grad is not None
    torch.testing.assert_close(prediction.grad[[0, 3]], alone.grad)
    assert prediction.grad[1:3].tolist() == [0, 0]


def test_weights_and_rows_that_do_not_count():
    losses = torch.tensor([1.0, 2.0, NAN, float("inf"), 4.0], requires_grad=True)
    weights = torch.tensor([0.5, 2.0, NAN, 1.0, 0.0])
    mask = torch.tensor([True, True, False, False, True])
    total, weight = masked_sum(losses, mask, weights)
    total.backward()
    assert (total.item(), weight.item()) == (4.5, 2.5)
    assert losses.grad is not None
    assert losses.grad.tolist() == [0.5, 2.0, 0, 0, 0]
    total, weight = masked_sum(losses.detach(), mask)
    assert (total.item(), weight.item()) == (7, 3)


def test_an_empty_space_is_zero_with_zero_gradients():
    logit = torch.tensor([60.0, -60.0, 0.0], requires_grad=True)
    losses = row_losses("bce", logit, torch.tensor([0.0, 1.0, NAN]))
    for weights in (None, torch.ones(3)):
        total, weight = masked_sum(losses, torch.zeros(3, dtype=torch.bool), weights)
        (grad,) = torch.autograd.grad(total, logit, retain_graph=True)
        assert (total.item(), weight.item(), grad.tolist()) == (0, 0, [0, 0, 0])


def test_what_labels_a_loss_can_learn():
    for kind, labels in (("bce", [0, 1, 0.5, NAN]), ("mse", [-9, NAN]), ("log_mse", [0, -0.5, NAN])):
        check_labels(kind, np.array(labels), name="it")
    for kind, labels, message in (
        ("bce", [0, NAN, 2, -1], r"label 'it' is 2 in row 3 \(2 such rows\); loss = 'bce' needs a number from 0 to 1"),
        ("mse", [0, np.inf], "is inf in row 2"),
        ("log_mse", [0, -1], r"is -1 in row 2 .* above -1"),
        ("log_mse", [np.inf], "is inf in row 1"),
    ):
        with pytest.raises(DataError, match=message):
            check_labels(kind, np.array(labels), name="it")
