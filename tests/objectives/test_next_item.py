"""Inputs and targets, row by row against plain Python; and that the objective learns."""

import numpy as np
import pytest
import torch

from peterrec.data.batches import pad
from peterrec.data.vocabulary import PAD, TCL
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.objectives.next_item import next_item_batch, next_item_loss, tcl_cuts


def batch_of(histories, tcl_rate, seed=0):
    lengths = np.array([len(h) for h in histories])
    events = pad(np.concatenate([np.array(h) for h in histories]), lengths)
    cuts = tcl_cuts(lengths, rate=tcl_rate, rng=np.random.default_rng(seed))
    return next_item_batch(events, lengths, cuts=cuts)


def laid_out(batch):
    """The targets as `(B, L)`, PAD where nothing is to be predicted."""
    users, width = batch.inputs.shape
    flat = torch.full((width * users,), PAD)
    flat[batch.places] = batch.targets
    return flat.view(width, users).t()


def test_without_tcl_each_event_predicts_the_next():
    batch = batch_of([[5, 6, 7, 8], [9, 4]], 0.0)
    assert batch.inputs.tolist() == [[5, 6, 7], [9, PAD, PAD]]
    assert laid_out(batch).tolist() == [[6, 7, 8], [4, PAD, PAD]]
    assert len(batch.targets) == 4


@pytest.mark.parametrize("seed", range(5))
def test_tcl_stands_at_a_cut_and_predicts_what_the_event_before_it_predicts(seed):
    rng = np.random.default_rng(seed)
    histories = [rng.integers(3, 50, size=n).tolist() for n in (2, 3, 7, 12, 5)]
    batch = batch_of(histories, 1.0, seed)
    for history, inputs, targets in zip(histories, batch.inputs.tolist(), laid_out(batch).tolist(), strict=True):
        length = len(history)
        cut = inputs.index(TCL)
        assert 1 <= cut <= length - 1
        assert inputs[:length] == [*history[:cut], TCL, *history[cut:-1]]
        assert targets[:length] == [*history[1 : cut + 1], *history[cut:]]
        assert not any(inputs[length:]), "padding stays padding"
        assert not any(targets[length:])


def test_the_share_of_rows_with_tcl_is_the_rate():
    batch = batch_of([[3, 4, 5, 6]] * 4000, 0.25)
    share = batch.inputs.eq(TCL).any(dim=1).double().mean().item()
    assert share == pytest.approx(0.25, abs=0.03)


def test_every_cut_point_is_used():
    batch = batch_of([[3, 4, 5, 6, 7]] * 500, 1.0)
    cuts = batch.inputs.eq(TCL).int().argmax(dim=1)
    assert set(cuts.tolist()) == {1, 2, 3, 4}


def test_padding_counts_for_nothing():
    torch.manual_seed(0)
    encoder = NextItNet(NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2))).eval()
    together = next_item_loss(encoder, batch_of([[5, 6, 7, 8, 9, 10], [9, 4]], 0.0))
    first = next_item_loss(encoder, batch_of([[5, 6, 7, 8, 9, 10]], 0.0))
    second = next_item_loss(encoder, batch_of([[9, 4]], 0.0))
    torch.testing.assert_close(together, (5 * first + second) / 6)


def train(histories, steps=150):
    torch.manual_seed(0)
    encoder = NextItNet(NextItNetConfig(vocab_size=13, hidden_size=16, dilations=(1, 2)))
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=1e-2)
    for step in range(steps):
        optimiser.zero_grad()
        next_item_loss(encoder, batch_of(histories, 0.1, step)).backward()
        optimiser.step()
    return encoder.eval()


def test_it_learns_a_cycle_and_only_that():
    rng = np.random.default_rng(0)

    def cycle(start):
        return [3 + (start + step) % 10 for step in range(12)]

    encoder = train([cycle(start) for start in range(10)])
    with torch.no_grad():
        assert next_item_loss(encoder, batch_of([cycle(4)], 0.0)).item() < 0.1
        noise = [rng.integers(3, 13, size=30).tolist() for _ in range(50)]
        assert next_item_loss(encoder, batch_of(noise, 0.0)).item() > np.log(10) - 0.05
