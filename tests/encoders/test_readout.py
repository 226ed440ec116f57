"""Readouts, and laying users out so that they end in the same column, one user at a time."""

import numpy as np
import pytest
import torch

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.readout import READOUTS, ending_together, read_out, read_users, valid_positions

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


def test_each_readout_is_its_definition():
    hidden, valid = torch.randn(5, 5, 4), valid_positions(IDS)
    for kind in READOUTS:
        found = read_out(hidden, valid, kind).numpy()
        for row in range(5):
            places = np.flatnonzero(valid[row].numpy())
            own = hidden[row].numpy()
            wanted = np.zeros(4) if not len(places) else own[places].mean(0) if kind == "mean" else own[places[-1]]
            np.testing.assert_allclose(found[row], wanted, atol=1e-6)
    with pytest.raises(ValueError, match="Unknown readout"):
        read_out(hidden, valid, "first")


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
