"""Inputs and targets, row by row against plain Python; and that the objective learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from peterrec.data.batches import pad
from peterrec.data.vocabulary import PAD, TCL
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.objectives.negatives import NegativeSampler, SharedNegatives, log_uniform
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


ITEMS = 200


def chains(number, rng):
    """Histories in which an item mostly has one successor, and else one drawn by a popularity like 1 / rank."""
    popularity = 1 / np.arange(1, ITEMS + 1)
    drawn = rng.choice(ITEMS, size=(number, 16), p=popularity / popularity.sum())
    follows = np.random.default_rng(0).permutation(ITEMS)
    for position in range(1, 16):
        chosen = rng.random(number) < 0.7
        drawn[chosen, position] = follows[drawn[chosen, position - 1]]
    return drawn + 3


def uncorrected(share):
    alike = replace(share.negatives, log_counts=torch.zeros_like(share.negatives.log_counts))
    return replace(share, negatives=alike, log_counts=torch.zeros_like(share.log_counts))


def ndcg_after(*, negatives, sets=1, corrected=True):
    """NDCG@10 on new histories of an encoder trained with so many negatives; None: by the exact softmax."""
    torch.manual_seed(0)
    encoder = NextItNet(NextItNetConfig(vocab_size=ITEMS + 3, hidden_size=16, dilations=(1, 1), dropout=0.0))
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=1e-2, fused=True)
    sampler = None if negatives is None else NegativeSampler(log_uniform(ITEMS), number=negatives)
    lengths, cuts = np.full(64, 16), np.zeros(64, dtype=np.int64)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0.05, total_iters=350)
    for step in range(350):
        rng = np.random.default_rng((1, step))
        batch = next_item_batch(chains(64, rng), lengths, cuts=cuts)
        if sampler is not None:
            drawn = tuple(sampler.draw(rng) for _ in range(sets))
            batch = batch.among(SharedNegatives(drawn, np.arange(64) % sets))
        if not corrected:
            batch = replace(batch, shares=tuple(uncorrected(share) for share in batch.shares))
        optimiser.zero_grad()
        next_item_loss(encoder, batch).backward()
        optimiser.step()
        schedule.step()
    events = torch.from_numpy(chains(500, np.random.default_rng(2)))
    with torch.no_grad():
        scores = encoder.eval()(events[:, :-1]).last_hidden_state @ encoder.score_table()[3:].T
    own = scores.gather(2, events[:, 1:, None] - 3)
    ranks = (scores > own).sum(dim=2)
    return torch.where(ranks < 10, 1 / torch.log2(ranks + 2.0), 0.0).mean().item()


def test_the_sampled_softmax_learns_as_well_as_the_exact_one():
    exact = ndcg_after(negatives=None)
    assert exact > 0.7
    assert ndcg_after(negatives=60, sets=4) > 0.96 * exact
    assert ndcg_after(negatives=60, sets=4, corrected=False) < 0.95 * exact


def test_each_target_gets_the_negatives_of_its_window_and_counts_alike():
    torch.manual_seed(0)
    encoder = NextItNet(NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2), dropout=0.0))
    histories = [[5, 6, 7, 8, 9, 10], [9, 4], [11, 12, 13]]
    sampler = NegativeSampler(log_uniform(50), number=12)
    sets = tuple(sampler.draw(np.random.default_rng(n)) for n in range(3))
    dealt = SharedNegatives(sets, np.array([2, 0, 2]))
    plain = batch_of(histories, 0.0)
    together = next_item_loss(encoder, plain.among(dealt))
    alone = [
        next_item_loss(encoder, batch_of([history], 0.0).among(SharedNegatives((sets[own],), np.array([0]))))
        for history, own in zip(histories, (2, 0, 2), strict=True)
    ]
    torch.testing.assert_close(together, (5 * alone[0] + alone[1] + 2 * alone[2]) / 8)
    assert len({round(loss.item(), 4) for loss in alone}) == 3
    filled = plain.everywhere().among(dealt)
    assert len(filled.places) == plain.inputs.numel()
    torch.testing.assert_close(next_item_loss(encoder, filled), together)
    swapped = next_item_loss(encoder, plain.among(SharedNegatives(sets, np.array([0, 2, 0]))))
    assert swapped.item() != pytest.approx(together.item(), rel=1e-4)


def test_windows_that_only_fill_up_get_any_negatives():
    sampler = NegativeSampler(log_uniform(50), number=12)
    dealt = SharedNegatives((sampler.draw(np.random.default_rng(0)),) * 3, np.array([0, 1, 2, 0, 1]))
    assert dealt.of(np.array([4, 2]), size=4).of_window.tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_several_steps_ahead_are_the_items_that_follow(rate):
    rng = np.random.default_rng(0)
    histories = [rng.integers(3, 50, size=n).tolist() for n in (2, 3, 7, 12)]
    lengths = np.array([len(history) for history in histories])
    events = pad(np.concatenate(histories).astype(np.int64), lengths)
    cuts = tcl_cuts(lengths, rate=rate, rng=rng)
    batch = next_item_batch(events, lengths, cuts=cuts, steps=3)
    single = next_item_batch(events, lengths, cuts=cuts)
    assert torch.equal(batch.inputs, single.inputs)
    assert torch.equal(batch.places, single.places)
    assert torch.equal(batch.targets[:, 0], single.targets)
    for place, targets in zip(batch.places.tolist(), batch.targets.tolist(), strict=True):
        position, window = divmod(place, len(histories))
        seen = position + 1 - int(0 < cuts[window] <= position)  # events that the state has seen
        wanted = histories[window][seen : seen + 3]
        assert targets == wanted + [PAD] * (3 - len(wanted))


def test_several_steps_weigh_alike_and_so_do_states():
    torch.manual_seed(0)
    encoder = NextItNet(NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2), dropout=0.0)).double()
    events, lengths = np.array([[5, 6, 7, 8], [9, 4, 0, 0]]), np.array([4, 2])
    batch = next_item_batch(events, lengths, cuts=np.zeros(2, dtype=np.int64), steps=2)
    logs = torch.log_softmax(encoder(batch.inputs).last_hidden_state @ encoder.score_table()[3:].T, dim=2)
    wanted = -torch.stack(
        [logs[0, 0, [3, 4]].mean(), logs[0, 1, [4, 5]].mean(), logs[0, 2, [5]].mean(), logs[1, 0, [1]].mean()]
    ).mean()
    torch.testing.assert_close(next_item_loss(encoder, batch), wanted)
    torch.testing.assert_close(next_item_loss(encoder, batch.everywhere()), wanted)


def test_several_steps_with_shared_negatives_are_the_weighted_mean_of_single_ones():
    torch.manual_seed(0)
    encoder = NextItNet(NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2), dropout=0.0)).double()
    events, lengths = np.array([[5, 6, 7, 8], [9, 4, 0, 0]]), np.array([4, 2])
    sampler = NegativeSampler(log_uniform(50), number=12)
    dealt = SharedNegatives(tuple(sampler.draw(np.random.default_rng(n)) for n in range(2)), np.array([1, 0]))
    batch = next_item_batch(events, lengths, cuts=np.zeros(2, dtype=np.int64), steps=2)
    losses = []
    for place, targets in zip(batch.places, batch.targets, strict=True):
        own = [
            next_item_loss(encoder, replace(batch, places=place[None], targets=target[None]).among(dealt))
            for target in targets
            if target != PAD
        ]
        losses.append(torch.stack(own).mean())
    for whole in (batch, batch.everywhere()):
        torch.testing.assert_close(
            next_item_loss(encoder, whole.among(dealt)), torch.stack(losses).mean(), rtol=1e-5, atol=0
        )
