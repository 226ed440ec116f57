"""Readouts, and laying users out so that they end in the same column, one user at a time."""

import numpy as np
import pytest
import torch

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.readout import (
    READOUTS,
    Readout,
    ending_together,
    layer_numbers,
    read_out,
    read_users,
    valid_positions,
)
from peterrec.errors import SettingsError

IDS = torch.tensor([[5, 6, 7, 0, 0], [0, 8, 0, 9, 0], [0, 0, 0, 0, 0], [3, 4, 5, 6, 7], [0, 0, 0, 0, 9]])


@pytest.mark.parametrize("positions", [1, 2, 3, 5, 9])
def test_users_end_together_and_gaps_stay(positions):
    ids, valid = ending_together(IDS, valid_positions(IDS), positions=positions)
    width = min(positions, 5)
    for row, found, there in zip(IDS.tolist(), ids.tolist(), valid.tolist(), strict=True):
        last = max((place for place, item in enumerate(row) if item), default=-1)
        wanted = ([0] * width + row[: last + 1])[-width:]
        assert found == wanted
        assert there == [item != 0 for item in wanted]


def test_what_an_attention_mask_hides_is_padding():
    mask = torch.tensor([1, 1, 0, 1, 1]).expand(5, 5)
    valid = valid_positions(IDS, mask)
    assert valid.tolist() == [[item != 0 and place != 2 for place, item in enumerate(row)] for row in IDS.tolist()]
    ids, kept = ending_together(IDS, valid, positions=2)
    assert ids[0].tolist() == [5, 6]
    assert ids[3].tolist() == [6, 7]
    assert kept[0].tolist() == [True, True]


def by_hand(kind, own, ids, query=None, weights=None):
    """The user vector `(D,)` of one user's states `(n, D)` and items `(n,)`, in numpy."""
    if not len(own):
        return np.zeros(own.shape[1])
    if kind == "mean":
        return own.mean(0)
    if kind == "sqrtn":
        return own.sum(0) / np.sqrt(len(own))
    if kind in ("last", "tcl"):
        return own[-1]
    if kind in ("first_last", "tcl_ends"):
        return own[0] + own[-1]
    logits = own @ query / np.sqrt(own.shape[1]) + (0 if weights is None else weights[ids])
    shares = np.exp(logits - logits.max())
    return shares @ own / shares.sum()


def learned(kind: str, *, layers=(-1,), item_weights: bool = False, depth: int = 3) -> Readout:
    torch.manual_seed(3)
    reader = Readout(kind, channels=4, depth=depth, layers=layers, item_weights=item_weights, vocab_size=10).double()
    for parameter in reader.parameters():
        torch.nn.init.normal_(parameter, std=2.0)
    return reader


def chosen(count: int) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(4)
    return [torch.randn(5, 5, 4, generator=made, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("item_weights", [False, True])
@pytest.mark.parametrize("layers", [(-1,), (0, -1), (3, 0, 1)])
@pytest.mark.parametrize("kind", READOUTS)
def test_each_readout_is_its_definition(kind, layers, item_weights):
    if item_weights and kind != "attention":
        with pytest.raises(SettingsError, match="item_weights belong"):
            learned(kind, item_weights=True)
        return
    reader, states, valid = learned(kind, layers=layers, item_weights=item_weights), chosen(len(layers)), IDS.ne(0)
    found = reader(states, valid, IDS).detach().numpy()
    shares = np.ones(1) if reader.mix is None else np.exp(reader.mix.detach().numpy())
    mixed = sum(s / shares.sum() * state.numpy() for s, state in zip(shares, states, strict=True))
    query, weights = (None if t is None else t.detach().numpy() for t in (reader.query, reader.item_weights))
    for row in range(5):
        there = valid[row].numpy()
        wanted = by_hand(kind, mixed[row][there], IDS[row].numpy()[there], query, weights)
        np.testing.assert_allclose(found[row], wanted, atol=1e-12)


def test_there_are_parameters_only_where_something_is_learned():
    names = {
        (kind, layers): {name for name, _ in Readout(kind, channels=4, depth=2, layers=layers).named_parameters()}
        for kind in READOUTS
        for layers in ((-1,), (0, 1))
    }
    for (kind, layers), found in names.items():
        assert found == ({"query"} if kind == "attention" else set()) | ({"mix"} if len(layers) > 1 else set())


def test_attention_starts_as_the_mean_to_the_bit_and_the_layers_as_equals():
    states, valid = [state.float() for state in chosen(2)], IDS.ne(0)
    mean, fresh = (
        Readout("mean", channels=4, depth=1),
        Readout("attention", channels=4, depth=1, item_weights=True, vocab_size=10),
    )
    assert torch.equal(mean(states[:1], valid), fresh(states[:1], valid, IDS))
    both = Readout("mean", channels=4, depth=1, layers=(0, 1))(states, valid)
    torch.testing.assert_close(both, (mean(states[:1], valid) + mean(states[1:], valid)) / 2)


def test_which_layers_there_are():
    assert layer_numbers((-1,), depth=4) == (4,)
    assert layer_numbers((0, 2, -1), depth=4) == (0, 2, 4)
    for wrong in ((), (5,), (-6,), (4, -1)):
        with pytest.raises(SettingsError, match=r"from 0 \(the embeddings\) to 4"):
            layer_numbers(wrong, depth=4)
    with pytest.raises(SettingsError, match="no readout 'frist'"):
        Readout("frist", channels=4, depth=1)
    with pytest.raises(ValueError, match="Unknown readout"):
        read_out(torch.zeros(1, 1, 4), IDS[:1, :1].ne(0), "first")
    reader = Readout("attention", channels=4, depth=4, layers=(0, -1), item_weights=True, vocab_size=3)
    assert reader.is_like("attention", layers=(0, 4), item_weights=True)
    assert not reader.is_like("attention", layers=(0, 4), item_weights=False)
    assert not reader.is_like("attention", layers=(4,), item_weights=True)
    with pytest.raises(ValueError, match="needs input_ids"):
        reader([torch.zeros(1, 1, 4)] * 2, torch.ones(1, 1, dtype=torch.bool))


@pytest.mark.parametrize(("kind", "item_weights"), [*((kind, False) for kind in READOUTS), ("attention", True)])
def test_windows_are_pooled_as_if_they_were_one_row(kind, item_weights):
    """Rows of 13 positions cut from the end into windows of 4, users of 0 to 13 positions; values and gradients."""
    reader = learned(kind, layers=(0, -1), item_weights=item_weights, depth=1)
    made = torch.Generator().manual_seed(5)
    lengths = (13, 0, 4, 1, 8, 5)
    ids = torch.randint(3, 10, (len(lengths), 13), generator=made)
    ids = ids.masked_fill(torch.arange(13) >= torch.tensor(lengths).unsqueeze(1), 0)
    states = [torch.randn(len(lengths), 13, 4, generator=made, dtype=torch.float64) * 30 for _ in range(2)]
    cut, places = [], torch.full((len(lengths), 4), -1)
    for user, length in enumerate(lengths):
        stops = range(length, 0, -4) if length else (0,)
        for back, stop in enumerate(stops):
            places[user, 3 - back] = len(cut)
            cut.append((user, max(stop - 4, 0), stop))

    def windows(of):
        rows = torch.zeros(len(cut), 4, *of.shape[2:], dtype=of.dtype)
        for row, (user, start, stop) in enumerate(cut):
            rows[row, : stop - start] = of[user, start:stop]
        return rows

    ids_of_windows = windows(ids)
    pooled = reader.pool([windows(state) for state in states], ids_of_windows.ne(0), ids_of_windows)
    found, wanted = reader.mixed(reader.join(pooled, places)), reader(states, ids.ne(0), ids)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)
    parameters = list(reader.parameters())
    weigh = torch.randn(found.shape, generator=made, dtype=torch.float64)
    for one, other in zip(*(torch.autograd.grad((v * weigh).sum(), parameters) for v in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("kind", ["mean", "attention", "first_last"])
def test_narrow_states_are_summed_widely(kind):
    """A thousand ones of 8 bits sum to a thousand, and padded states that are huge or not numbers are not read."""
    reader = Readout(kind, channels=2, depth=0, layers=(0,))
    states = torch.ones(2, 1003, 2, dtype=torch.bfloat16)
    valid = torch.ones(2, 1003, dtype=torch.bool)
    states[:, 1001:] = 3e38
    valid[:, 1001:] = False
    states[:, 0] = 1.0 + 1 / 128
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = reader.pooled([states], valid)
        assert reader([states], valid).dtype == torch.bfloat16
    assert pooled.dtype == torch.float32
    wanted = 2 + 1 / 128 if kind == "first_last" else 1 + 1 / 128 / 1001
    torch.testing.assert_close(pooled, torch.full((2, 1, 2), wanted), atol=1e-6, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("readout", READOUTS)
def test_users_are_read_as_by_the_full_run(readout, causal):
    torch.manual_seed(0)
    config = NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2), causal=causal, initializer_range=0.5)
    encoder = NextItNet(config).double().eval()
    ids = torch.randint(3, 53, (6, 30), generator=torch.Generator().manual_seed(1))
    for row, (start, stop) in enumerate(((0, 30), (0, 7), (3, 11), (29, 30), (0, 0), (0, 1))):
        ids[row, :start] = 0
        ids[row, stop:] = 0
    valid = valid_positions(ids)
    found = read_users(encoder, ids, valid, readout=readout, reach=encoder.reach(readout))
    wanted = read_out(encoder(ids).last_hidden_state, valid, readout)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)
    assert not found[4].any()
