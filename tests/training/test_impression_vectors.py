"""User vectors of impressions: what each may see, and that sharing, caching and batching change nothing."""

import numpy as np
import pytest
import torch
from impression_world import ITEMS, Histories, draw, encoder
from peft import get_peft_model

from peterrec.encoders import SASRec, SASRecConfig
from peterrec.encoders.readout import Readout
from peterrec.impression_model import ImpressionModel
from peterrec.training.impression_vectors import ImpressionVectors, shares_windows
from peterrec.tuners.star import StarConfig

CPU = torch.device("cpu")


def model_of(readout="last", *, frozen=True, base=None, window=None):
    """A model on a readout of that kind, of the top layer, or `mean_of_layers`: of two."""
    # its states reach back further than a window, so that where a window begins is seen
    base = encoder(dilations=(1, 2, 4, 8)) if base is None else base
    if readout == "mean_of_layers":
        readout = Readout("mean", channels=16, depth=len(encoder().blocks), layers=(0, -1))
        torch.nn.init.normal_(readout.mix)
    model = ImpressionModel(base, torch.nn.Linear(1, 1), readout=readout, window=window)  # type: ignore[arg-type]
    if frozen:
        model.freeze_encoder()
    return model.eval()


def vectors_of(model, impressions, *, max_length=12, cache_mb=64, domains=False, rows=None, **more):
    rows = np.arange(len(impressions)) if rows is None else rows
    return ImpressionVectors(
        model, impressions, kept=rows, max_length=max_length, domains=domains, cache_mb=cache_mb, **more
    )


@pytest.fixture(scope="module")
def impressions():
    return draw(rows=300, users=12, history=True)


def alone(model, history, *, hop_from):
    """The vector of one history, encoded by itself from event `hop_from` on."""
    if not len(history):
        return torch.zeros(model.config.hidden_size)
    ids = torch.tensor(np.asarray(history[hop_from:], dtype=np.int64)).unsqueeze(0)
    with torch.no_grad():
        return model.user_vectors(ids)[0]


@pytest.mark.parametrize("cache_mb", [0, 64])
@pytest.mark.parametrize("readout", ["last", "mean", "sqrtn", "first_last", "mean_of_layers"])
def test_a_row_reads_the_first_window_that_holds_all_that_lay_before_it(impressions, cache_mb, readout):
    model = model_of(readout)
    vectors = vectors_of(model, impressions, max_length=12, cache_mb=cache_mb)
    assert vectors.windows
    assert vectors.keeps == (cache_mb > 0)
    rows = np.arange(len(impressions))
    found, known = vectors.of(rows, CPU)
    assert (impressions.before > 12).any()
    for row in rows:
        before = int(impressions.before[row])
        start = next(k for k in range(0, 31, 6) if before <= k + 12)  # windows of 12 events begin every 6
        history = impressions.history.rows[impressions.user[row]][:before]
        torch.testing.assert_close(found[row], alone(model, history, hop_from=start), atol=1e-5, rtol=1e-5)
        assert bool(known[row]) == (before > 0)


@pytest.mark.parametrize("cache_mb", [0, 64])
@pytest.mark.parametrize("kind", ["attention", "sasrec", "two-sided"])
def test_others_read_their_own_last_events(impressions, kind, cache_mb):
    if kind == "sasrec":
        torch.manual_seed(1)
        config = SASRecConfig(vocab_size=3 + ITEMS, hidden_size=16, max_length=12, readout="last", dropout=0.0)
        model = model_of("last", base=SASRec(config))
    elif kind == "two-sided":
        model = model_of("mean", base=encoder(causal=False))
    else:
        model = model_of("attention")
        torch.nn.init.normal_(model.reader.query)
    assert not shares_windows(model)
    vectors = vectors_of(model, impressions, max_length=12, cache_mb=cache_mb)
    rows = np.arange(len(impressions))[::7]
    found, _ = vectors.of(rows, CPU)
    for row, vector in zip(rows, found, strict=True):
        before = int(impressions.before[row])
        history = impressions.history.rows[impressions.user[row]][:before]
        expected = alone(model, history, hop_from=max(before - 12, 0))
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("readout", ["last", "mean", "first_last"])
def test_nothing_after_an_impression_is_seen(impressions, readout):
    changed = draw(rows=300, users=12, history=True)
    later = [row.copy() for row in impressions.history.rows]
    user, before = impressions.user[5], int(impressions.before[5])
    later[user][before:] = 3 + (later[user][before:] - 3 + 7) % ITEMS
    object.__setattr__(changed, "history", Histories(later))
    assert before < len(later[user])
    one, other = (
        vectors_of(model_of(readout), data, cache_mb=0).of(np.array([5]), CPU)[0] for data in (impressions, changed)
    )
    torch.testing.assert_close(one, other, atol=0, rtol=0)


@pytest.mark.parametrize("readout", ["last", "mean", "attention"])
def test_a_batch_changes_no_row_and_pieces_cover_it(impressions, readout):
    vectors = vectors_of(model_of(readout, frozen=False), impressions, cache_mb=0)
    rows = np.sort(np.random.default_rng(1).permutation(len(impressions))[:60])
    together, _ = vectors.of(rows, CPU)
    apart = torch.cat([vectors.of(rows[place : place + 1], CPU)[0] for place in range(len(rows))])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    bounded, _ = vectors.of(rows, CPU, positions=40)
    torch.testing.assert_close(together, bounded, atol=1e-5, rtol=1e-5)
    pieces = vectors.split(rows, positions=40)
    assert len(pieces) > 1
    assert np.array_equal(np.sort(np.concatenate(pieces)), rows)


def test_batches_hold_every_row_once_and_keep_windows_together(impressions):
    vectors = vectors_of(model_of(frozen=False), impressions, cache_mb=0)
    rows = np.arange(len(impressions))
    orders = [vectors.orders(rows, batch=50, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    for batches in orders:
        assert np.array_equal(np.sort(np.concatenate(batches)), rows)
        assert 3 <= len(batches) <= 7
        windows = [set(vectors._window_keys(batch)) for batch in batches]
        assert sum(map(len, windows)) == len(set().union(*windows))
    assert all(np.array_equal(a, b) for a, b in zip(orders[0], orders[1], strict=True))
    assert not np.array_equal(orders[0][0], orders[2][0])


def test_a_model_that_is_told_to_read_in_windows_does(impressions):
    """Each row reads its last 12 events, 5 at a time, so that no state knows of an earlier window."""
    model = model_of("mean", window=5)
    assert not shares_windows(model)
    row = int(np.flatnonzero(impressions.before > 12)[0])
    found = vectors_of(model, impressions).of(np.array([row]), CPU)[0][0]
    before = int(impressions.before[row])
    read = impressions.history.rows[impressions.user[row]][before - 12 : before]
    with torch.no_grad():
        states = [
            model.encoder(input_ids=torch.tensor(part.astype(np.int64)).unsqueeze(0)).last_hidden_state[0]
            for part in np.split(read, range(12 % 5, 12, 5))
        ]
    torch.testing.assert_close(found, torch.cat(states).mean(dim=0), atol=1e-5, rtol=1e-5)


def test_the_domain_of_a_row_reaches_the_encoder(impressions):
    """Rows of one user, equally many events and different domains have vectors of their own, by windows or alone."""
    for readout in ("last", "attention"):
        adapted = get_peft_model(encoder(), StarConfig(num_domains=3))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        model = model_of(readout, base=adapted)
        vectors = vectors_of(model.eval(), impressions, domains=True)
        rows = np.arange(len(impressions))[::5]
        found, _ = vectors.of(rows, CPU)
        for row, vector in zip(rows, found, strict=True):
            before, domain = int(impressions.before[row]), int(impressions.domain[row])
            history = impressions.history.rows[impressions.user[row]][:before]
            begin = next(k for k in range(0, 31, 6) if before <= k + 12) if readout == "last" else max(before - 12, 0)
            if before:
                ids = torch.tensor(history[begin:].astype(np.int64)).unsqueeze(0)
                with torch.no_grad():
                    expected = model.user_vectors(ids, domain_ids=torch.tensor([domain]))[0]
                torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)


def test_vectors_of_a_frozen_encoder_are_computed_once_for_all(impressions):
    earlier: dict[str, torch.Tensor] = {}
    rows = np.arange(len(impressions))
    first = vectors_of(model_of(), impressions, earlier=earlier, key="one").of(rows, CPU)[0]
    again = model_of(base=encoder(seed=9))  # another encoder under the same key shows whether it was run
    torch.testing.assert_close(vectors_of(again, impressions, earlier=earlier, key="one").of(rows, CPU)[0], first)
    other = vectors_of(again, impressions, earlier=earlier, key="two").of(rows, CPU)[0]
    assert not torch.allclose(other, first)


def test_gradients_reach_an_encoder_that_trains(impressions):
    model = model_of(frozen=False).train()
    vectors = vectors_of(model, impressions)
    assert not vectors.stand
    vectors.of(np.arange(40), CPU)[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.base_encoder.blocks.parameters())


def test_of_a_frozen_encoder_no_gradient_is_kept(impressions):
    assert not vectors_of(model_of(), impressions, cache_mb=0).of(np.arange(4), CPU)[0].requires_grad
