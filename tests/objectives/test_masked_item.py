"""Which events are masked and what stands for them, by counting and by hand; and that the objective learns."""

from itertools import combinations

import numpy as np
import pytest
import torch

from peterrec.data.batches import pad
from peterrec.data.vocabulary import FIRST_ITEM, MASK, PAD, TCL
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.objectives.masked_item import KEPT, draw_masks, draw_stand_ins, masked_item_batch
from peterrec.objectives.next_item import next_item_loss

VOCAB = 53


def histories(lengths, seed=0):
    rng = np.random.default_rng(seed)
    lengths = np.asarray(lengths)
    return pad(rng.integers(FIRST_ITEM, VOCAB, size=int(lengths.sum())), lengths), lengths


def laid_out(batch):
    """The targets as `(B, L)`, PAD where nothing is to be predicted."""
    users, width = batch.inputs.shape
    flat = torch.full((width * users,), PAD)
    flat[batch.places] = batch.targets
    return flat.view(width, users).t().numpy()


@pytest.mark.parametrize("spared", [0, 1])
@pytest.mark.parametrize("rate", [0.01, 0.3, 0.5, 1.0])
def test_masks_stand_on_events_alone_one_at_least_and_no_more_than_the_rate(rate, spared):
    lengths = np.array([0, 1, 2, 3, 10, 40])
    for seed in range(30):
        masks = draw_masks(lengths, rate=rate, rng=np.random.default_rng(seed), spared=spared)
        assert masks.shape == (6, 40)
        for row, length in zip(masks, lengths, strict=True):
            free = max(length - spared, 0)
            assert not row[length:].any()
            assert not row[:spared].any()
            assert min(free, 1) <= row.sum() <= max(np.ceil(rate * free), 1)
            assert row.sum() >= np.floor(rate * free)
    assert draw_masks(lengths[:0], rate=rate, rng=np.random.default_rng(0)).shape == (0, 0)


def test_the_share_of_masks_is_right_on_average_also_where_it_cannot_be_in_each_history():
    for length in (5, 6, 7, 33):
        masks = draw_masks(np.full(6000, length), rate=0.3, rng=np.random.default_rng(0))
        assert masks.mean() == pytest.approx(0.3, abs=0.005)
        assert set(masks.sum(axis=1)) <= {int(0.3 * length), int(0.3 * length) + 1}
        np.testing.assert_allclose(masks.mean(axis=0), 0.3, atol=0.025)


def test_every_choice_of_so_many_events_is_as_likely():
    masks = draw_masks(np.full(20_000, 5), rate=0.4, rng=np.random.default_rng(1))
    found, counts = np.unique(masks, axis=0, return_counts=True)
    assert {tuple(np.flatnonzero(row)) for row in found} == set(combinations(range(5), 2))
    np.testing.assert_allclose(counts / 20_000, 0.1, atol=0.01)


@pytest.mark.parametrize("last_rate", [0.0, 0.4, 1.0])
def test_the_last_event_is_masked_as_often_as_is_asked_for_beside_chance(last_rate):
    masks = draw_masks(np.full(8000, 10), rate=0.2, rng=np.random.default_rng(2), last_rate=last_rate)
    assert masks[:, -1].mean() == pytest.approx(last_rate + (1 - last_rate) * 0.2, abs=0.02)
    assert (masks.sum(axis=1) == 2).all(), "it is one of the chosen, not one more"
    np.testing.assert_allclose(masks[:, :-1].mean(axis=0), masks[:, :-1].mean(), atol=0.025)
    rarely = draw_masks(np.tile([0, 10], 8000), rate=0.2, rng=np.random.default_rng(2), last_rate=last_rate)
    assert rarely[1::2, -1].mean() == pytest.approx(last_rate + (1 - last_rate) * 0.2, abs=0.02), "beside empty ones"


def test_what_stands_in_is_a_mask_the_event_itself_or_any_item():
    lengths = np.full(4000, 20)
    drawn = draw_stand_ins(lengths, vocab_size=VOCAB, rng=np.random.default_rng(3), rate=0.3)
    chosen = drawn[drawn != PAD]
    assert len(chosen) / drawn.size == pytest.approx(0.3, abs=0.005)
    assert (chosen == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert (chosen == KEPT).mean() == pytest.approx(0.1, abs=0.01)
    items, counts = np.unique(chosen[chosen >= FIRST_ITEM], return_counts=True)
    assert items.tolist() == list(range(FIRST_ITEM, VOCAB)), "every item, and no special row"
    assert counts.sum() / len(chosen) == pytest.approx(0.1, abs=0.01)
    assert counts.min() > 0.5 * counts.mean()
    everywhere = draw_stand_ins(lengths, vocab_size=5, rng=np.random.default_rng(3), rate=1.0)
    assert set(everywhere.ravel()) == {KEPT, MASK, 3, 4}


def test_inputs_and_targets_row_by_row():
    events = np.array([[5, 6, 7, 8], [9, 4, PAD, PAD], [11, PAD, PAD, PAD]])
    stand_ins = np.array([[MASK, PAD, KEPT, 30], [PAD, MASK, PAD, PAD], [MASK, PAD, PAD, PAD]])
    batch = masked_item_batch(events, np.array([4, 2, 1]), stand_ins=stand_ins)
    assert batch.inputs.tolist() == [[MASK, 6, 7, 30], [9, MASK, PAD, PAD], [MASK, PAD, PAD, PAD]]
    assert laid_out(batch).tolist() == [[5, 0, 7, 8], [0, 4, 0, 0], [11, 0, 0, 0]]
    assert batch.places.tolist() == sorted(batch.places.tolist()), "in the order of memory"


def test_padding_and_special_rows_are_neither_masked_nor_predicted():
    events, lengths = histories([1, 2, 7, 12, 12])
    events[3, 4], events[4, 11] = TCL, MASK
    special = events < FIRST_ITEM
    for seed in range(40):
        drawn = draw_stand_ins(lengths, vocab_size=VOCAB, rng=np.random.default_rng(seed), rate=0.6)
        batch = masked_item_batch(events, lengths, stand_ins=drawn)
        inputs, targets = batch.inputs.numpy(), laid_out(batch)
        assert (inputs[special] == events[special]).all()
        assert not targets[special].any()
        assert (targets[targets != PAD] == events[targets != PAD]).all()
        assert (inputs[targets == PAD] == events[targets == PAD]).all()
        assert (targets[:3] != PAD).any(axis=1).all(), "one at least, also of one event"


def test_tcl_stands_for_the_last_event_of_the_histories_that_are_named():
    events, lengths = histories([1, 4, 9, 6])
    tcl = np.array([True, False, True, True])
    for seed in range(20):
        drawn = draw_stand_ins(lengths, vocab_size=VOCAB, rng=np.random.default_rng(seed), tcl=tcl)
        batch = masked_item_batch(events, lengths, stand_ins=drawn)
        assert np.count_nonzero(drawn) == len(batch.targets)
        for row, length in enumerate(lengths):
            assert (batch.inputs[row, length - 1].item() == TCL) == tcl[row]
            assert batch.inputs[row].eq(TCL).sum().item() == tcl[row]
            if tcl[row]:
                assert laid_out(batch)[row, length - 1] == events[row, length - 1]


def test_a_history_gets_the_same_masks_in_every_piece_of_a_step():
    events, lengths = histories([12, 9, 9, 3, 1])
    drawn = draw_stand_ins(lengths, vocab_size=VOCAB, rng=np.random.default_rng(4), rate=0.5)
    whole = masked_item_batch(events, lengths, stand_ins=drawn)
    for rows, users, width in (([1, 3], 2, 9), ([2], 1, 9), ([0, 4], 5, 16)):
        own = lengths[rows]
        piece = pad(np.concatenate([events[row, : lengths[row]] for row in rows]), own, users=users, width=width)
        batch = masked_item_batch(piece, np.pad(own, (0, users - len(rows))), stand_ins=drawn[rows])
        for number, row in enumerate(rows):
            assert batch.inputs[number, : lengths[row]].equal(whole.inputs[row, : lengths[row]])
            assert (laid_out(batch)[number, : lengths[row]] == laid_out(whole)[row, : lengths[row]]).all()
        assert not batch.inputs[len(rows) :].any()
        assert len(batch.targets) == np.count_nonzero(drawn[rows])


def train(make, steps=120):
    torch.manual_seed(0)
    encoder = NextItNet(NextItNetConfig(vocab_size=VOCAB, hidden_size=16, dilations=(1, 1), causal=False))
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=1e-2)
    for step in range(steps):
        events, lengths = make(np.random.default_rng(step))
        drawn = draw_stand_ins(lengths, vocab_size=VOCAB, rng=np.random.default_rng((1, step)), rate=0.3)
        optimiser.zero_grad()
        next_item_loss(encoder, masked_item_batch(events, lengths, stand_ins=drawn)).backward()
        optimiser.step()
    return encoder.eval()


def pairs(rng):
    """Pairs of items of which the first is anything, and the second tells which one."""
    firsts = rng.integers(0, 10, size=(64, 6))
    return np.stack([firsts + 3, firsts + 23], axis=2).reshape(64, 12), np.full(64, 12)


def test_it_learns_what_only_the_future_tells_and_nothing_of_noise():
    encoder = train(pairs)
    events, lengths = pairs(np.random.default_rng(99))
    stand_ins = np.zeros_like(events)
    stand_ins[:, 4] = MASK
    with torch.no_grad():
        loss = next_item_loss(encoder, masked_item_batch(events, lengths, stand_ins=stand_ins)).item()
        rng = np.random.default_rng(98)
        noise = rng.integers(3, 13, size=events.shape)
        chance = next_item_loss(encoder, masked_item_batch(noise, lengths, stand_ins=stand_ins)).item()
    assert loss < 0.3 < np.log(10) - 0.3 < chance
