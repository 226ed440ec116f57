"""Gaps and what fills them: by hand, by what each state may know, and on a planted pattern."""

import numpy as np
import pytest
import torch

from peterrec.data.batches import pad
from peterrec.data.vocabulary import FIRST_ITEM, MASK, PAD, TCL
from peterrec.encoders.grec import GRec
from peterrec.encoders.grec_config import GRecConfig
from peterrec.objectives.gap_filling import draw_gaps, gap_filling_batch, gap_filling_loss
from peterrec.objectives.negatives import NegativeSampler, SharedNegatives, log_uniform

VOCAB = 203


def histories(lengths, seed=0):
    """Each item occurs once, so that knowing of it is knowing of that event."""
    lengths = np.asarray(lengths)
    drawn = np.random.default_rng(seed).permutation(np.arange(FIRST_ITEM, VOCAB))[: lengths.sum()]
    return pad(drawn, lengths), lengths


def make(seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCAB, "hidden_size": 8, "encoder_dilations": (1, 2), "decoder_dilations": (1, 2)}
    return GRec(GRecConfig(**{"initializer_range": 0.4, **shape, **changes})).double().eval()


def laid_out(batch):
    users, width = batch.inputs.shape
    flat = torch.full((width * users,), PAD)
    flat[batch.places] = batch.targets
    return flat.view(width, users).t().numpy()


def states(encoder, batch):
    """The states `(N, D)` that score the targets."""
    hidden = encoder(batch.inputs, decoder_input_ids=batch.decoder_inputs).last_hidden_state
    return hidden.transpose(0, 1).reshape(-1, hidden.shape[2])[batch.places]


def test_inputs_and_targets_row_by_row():
    events = np.array([[5, 6, 7, 8, 9], [11, 12, PAD, PAD, PAD], [13, PAD, PAD, PAD, PAD]])
    gaps = np.array([[0, 1, 0, 1, 1], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=bool)
    lengths = np.array([5, 2, 1])
    batch = gap_filling_batch(events, lengths, gaps=gaps)
    assert batch.inputs.tolist() == [[5, MASK, 7, MASK], [11, PAD, PAD, PAD], [PAD] * 4]
    assert batch.decoder_inputs.tolist() == [[5, 6, 7, 8], [11, PAD, PAD, PAD], [PAD] * 4]
    assert laid_out(batch).tolist() == [[6, 0, 8, 9], [12, 0, 0, 0], [0] * 4]
    batch = gap_filling_batch(events, lengths, gaps=gaps, tcl=np.array([True, True, True]))
    assert batch.inputs.tolist() == [[5, MASK, 7, MASK, TCL], [11, TCL, PAD, PAD, PAD], [PAD] * 5]
    assert batch.decoder_inputs.tolist() == [[5, 6, 7, 8, TCL], [11, TCL, PAD, PAD, PAD], [PAD] * 5]
    assert laid_out(batch).tolist() == [[6, 0, 8, 9, 9], [12, 12, 0, 0, 0], [0] * 5]
    batch = gap_filling_batch(events, lengths, gaps=gaps, tcl=np.array([False, True, False]))
    assert laid_out(batch).tolist() == [[6, 0, 8, 9, 0], [12, 12, 0, 0, 0], [0] * 5]
    assert batch.inputs[0].tolist() == [5, MASK, 7, MASK, PAD]


@pytest.mark.parametrize("rate", [0.3, 0.5, 1.0])
def test_gaps_are_a_share_of_the_events_never_the_first_and_always_the_last(rate):
    lengths = np.concatenate([np.full(4000, 21), [0, 1, 2, 3]])
    gaps = draw_gaps(lengths, rate=rate, rng=np.random.default_rng(0))
    assert not gaps[:, 0].any()
    assert gaps[:4000, 1:].mean() == pytest.approx(rate, abs=0.005)
    assert gaps[:4000, 20].all()
    between = (rate * 20 - 1) / 19
    np.testing.assert_allclose(gaps[:4000, 1:20].mean(axis=0), between, atol=0.035)
    assert gaps[-4:].sum(axis=1).tolist()[:3] == [0, 0, 1]
    assert gaps[-1, 2]


def test_padding_and_special_rows_are_no_gaps():
    events, lengths = histories([2, 9, 12])
    events[1, 4], events[2, 6] = TCL, MASK
    for seed in range(20):
        gaps = draw_gaps(lengths, rate=0.9, rng=np.random.default_rng(seed))
        batch = gap_filling_batch(events, lengths, gaps=gaps, tcl=np.array([False, True, False]))
        assert batch.inputs[1, 4].item() == TCL
        assert batch.targets.ge(FIRST_ITEM).all()
        masks = batch.inputs.eq(MASK)
        masks[2, 6] = False
        assert events[:, : masks.shape[1]][masks.numpy()].min() >= FIRST_ITEM
        assert torch.equal(batch.inputs.eq(PAD), batch.decoder_inputs.eq(PAD))


@pytest.mark.parametrize("ends_in_tcl", [False, True])
@pytest.mark.parametrize("block", ["plain", "bottleneck"])
def test_a_state_does_not_know_the_event_that_it_scores(block, ends_in_tcl):
    encoder = make(block=block)
    events, lengths = histories([14, 9, 3, 2])
    gaps = draw_gaps(lengths, rate=0.5, rng=np.random.default_rng(1))
    tcl = np.full(4, ends_in_tcl)
    batch = gap_filling_batch(events, lengths, gaps=gaps, tcl=tcl)
    before = states(encoder, batch)
    assert len(batch.targets) == gaps.sum() + tcl.sum() > 10
    for number, (place, target) in enumerate(zip(batch.places.tolist(), batch.targets.tolist(), strict=True)):
        row, event = place % 4, int(np.flatnonzero(events[place % 4] == target)[0])
        changed = events.copy()
        changed[row, event] = VOCAB - 1 if target != VOCAB - 1 else VOCAB - 2
        other = gap_filling_batch(changed, lengths, gaps=gaps, tcl=tcl)
        assert other.targets[number] == changed[row, event]
        assert torch.equal(states(encoder, other)[number], before[number])
        for table in (encoder.embed_tokens, encoder.decoder["embed_tokens"]):
            gradient = torch.autograd.grad(before[number].square().sum(), table.weight, retain_graph=True)[0]
            assert not gradient[target].any(), "and no gradient goes to it"
            assert gradient.any()


def test_a_state_knows_what_is_no_gap_on_both_sides_and_the_gaps_that_are_past():
    encoder = make()
    events, lengths = histories([10])
    gaps = np.zeros((1, 10), dtype=bool)
    gaps[0, [3, 5, 9]] = True
    batch = gap_filling_batch(events, lengths, gaps=gaps)
    state = states(encoder, batch)[batch.places.tolist().index(4)]
    known = {}
    for name, table in (("encoder", encoder.embed_tokens), ("decoder", encoder.decoder["embed_tokens"])):
        gradient = torch.autograd.grad(state.square().sum(), table.weight, retain_graph=True)[0]
        known[name] = {event for event in range(10) if gradient[events[0, event]].any()}
    assert known == {"encoder": {0, 1, 2, 4, 6, 7}, "decoder": {0, 1, 2, 3, 4}}


def test_a_history_gets_the_same_gaps_in_every_piece_of_a_step():
    events, lengths = histories([12, 9, 9, 3, 2])
    gaps = draw_gaps(lengths, rng=np.random.default_rng(4))
    tcl = np.array([True, False, True, False, True])
    whole = gap_filling_batch(events, lengths, gaps=gaps, tcl=tcl)
    for rows, users, width in (([1, 3], 2, 9), ([2], 1, 9), ([0, 4], 5, 16)):
        own = lengths[rows]
        piece = pad(np.concatenate([events[row, : lengths[row]] for row in rows]), own, users=users, width=width)
        batch = gap_filling_batch(piece, np.pad(own, (0, users - len(rows))), gaps=gaps[rows], tcl=tcl[rows])
        assert batch.inputs.shape == (users, width - 1 + int(tcl[rows].any()))
        for number, row in enumerate(rows):
            length = lengths[row] - 1 + int(tcl[row])
            for name in ("inputs", "decoder_inputs"):
                assert getattr(batch, name)[number, :length].equal(getattr(whole, name)[row, :length])
                assert not getattr(batch, name)[number, length:].any()
            assert (laid_out(batch)[number, :length] == laid_out(whole)[row, :length]).all()
        assert len(batch.targets) == gaps[rows].sum() + tcl[rows].sum()


def test_it_stays_such_a_batch_where_it_goes():
    events, lengths = histories([8, 5])
    batch = gap_filling_batch(events, lengths, gaps=draw_gaps(lengths, rng=np.random.default_rng(0)))
    sampler = NegativeSampler(log_uniform(VOCAB - 3), number=20)
    drawn = SharedNegatives((sampler.draw(np.random.default_rng(1)),), np.zeros(2, dtype=np.int64))
    for other in (batch.to(torch.device("cpu")), batch.everywhere(), batch.among(drawn)):
        assert torch.equal(other.decoder_inputs, batch.decoder_inputs)
    meta = batch.to(torch.device("meta"))
    assert {t.device.type for t in (meta.inputs, meta.decoder_inputs, meta.places, meta.targets)} == {"meta"}


def test_the_loss_is_the_mean_over_the_targets_however_the_batch_is_laid_out():
    encoder = make()
    events, lengths = histories([8, 5, 2])
    gaps = draw_gaps(lengths, rng=np.random.default_rng(0))
    batch = gap_filling_batch(events, lengths, gaps=gaps)
    scores = states(encoder, batch) @ encoder.score_table().t()
    scores[:, :FIRST_ITEM] = -torch.inf
    wanted = torch.nn.functional.cross_entropy(scores, batch.targets)
    torch.testing.assert_close(gap_filling_loss(encoder, batch), wanted)
    torch.testing.assert_close(gap_filling_loss(encoder, batch.everywhere()), wanted)
    alone = [
        gap_filling_loss(encoder, gap_filling_batch(events[[row]], lengths[[row]], gaps=gaps[[row]])) * gaps[row].sum()
        for row in range(3)
    ]
    torch.testing.assert_close(sum(alone) / gaps.sum(), wanted)


PATTERN = 40


def chains(rng):
    """Histories in which an item mostly has one successor, and else one drawn by a popularity like 1 / rank."""
    popularity = 1 / np.arange(1, PATTERN + 1)
    popularity /= popularity.sum()
    drawn = rng.choice(PATTERN, size=(64, 12), p=popularity)
    follows = np.random.default_rng(0).permutation(PATTERN)
    for position in range(1, 12):
        chosen = rng.random(64) < 0.8
        drawn[chosen, position] = follows[drawn[chosen, position - 1]]
    return drawn + FIRST_ITEM, np.full(64, 12)


def test_what_it_learns_ranks_next_items_better_than_popularity():
    torch.manual_seed(0)
    shape = {"vocab_size": PATTERN + 3, "hidden_size": 16, "encoder_dilations": (1, 1), "decoder_dilations": (1, 1)}
    encoder = GRec(GRecConfig(**shape))
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=1e-2)
    for step in range(150):
        events, lengths = chains(np.random.default_rng(step))
        gaps = draw_gaps(lengths, rng=np.random.default_rng((1, step)))
        optimiser.zero_grad()
        gap_filling_loss(encoder, gap_filling_batch(events, lengths, gaps=gaps)).backward()
        optimiser.step()
    encoder.eval()
    events, _ = chains(np.random.default_rng(999))
    with torch.no_grad():
        # as at inference: nothing is masked, and the last position is read
        scores = encoder(torch.from_numpy(events[:, :-1])).last_hidden_state[:, -1] @ encoder.score_table().t()
    first = scores[:, FIRST_ITEM:].argmax(dim=1).numpy() + FIRST_ITEM
    seen = np.bincount(np.concatenate([chains(np.random.default_rng(s))[0].ravel() for s in range(20)]))
    hits, popular = (first == events[:, -1]).mean(), (seen.argmax() == events[:, -1]).mean()
    assert hits > 0.6 > popular + 0.3
