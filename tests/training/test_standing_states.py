"""The states that are computed once, against one user at a time."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.data.vocabulary import TCL
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.heads.classification import ClassificationHead
from peterrec.model import TaskModel
from peterrec.training import standing_states
from peterrec.training.standing_states import StandingStates

CPU = torch.device("cpu")
LENGTHS = np.array([5, 0, 30, 1, 12, 0, 9])


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("part") / "histories"
    with SequenceWriter(folder) as writer:
        flat = np.random.default_rng(0).integers(3, 33, LENGTHS.sum()).astype(np.int32)
        writer.write(pa.array([f"u{i}" for i in range(len(LENGTHS))]), flat, LENGTHS)
    return Sequences(folder)


def make(readout: str) -> TaskModel:
    torch.manual_seed(0)
    config = NextItNetConfig(
        vocab_size=33, hidden_size=8, dilations=(1, 2, 1, 1), dropout=0.4, initializer_range=0.5, readout=readout
    )
    return TaskModel(NextItNet(config).double(), ClassificationHead(8, 2).double(), readout=readout)


@pytest.mark.parametrize("positions", [1, 25, 10_000])
@pytest.mark.parametrize("readout", ["mean", "last", "tcl"])
def test_a_batch_holds_the_states_that_each_user_has_alone(readout, positions, histories, monkeypatch):
    monkeypatch.setattr(standing_states, "POSITIONS", {"cpu": positions})
    model = make(readout).train()
    rows = np.array([6, 2, 1, 0, 4, 3])
    kept = StandingStates(model, histories, rows=rows, max_length=20, blocks=1, device=CPU)
    assert model.base_encoder.embed_dropout.training, "the mode is as it was"
    model.eval()
    users = np.array([4, 0, 2, 1, 5])
    states, valid, *_ = kept.batch(users)
    assert states.transpose(0, 1).is_contiguous(), "time-major, as the blocks want it"
    width = max(kept.lengths[users])
    assert states.shape == (5, width, 8)
    for place, user in enumerate(users):
        items = [*histories.items_of(rows[user])[-20:].tolist(), *([TCL] if readout == "tcl" else [])]
        wanted = torch.zeros(0, 8, dtype=torch.float64)
        if items:
            wanted = model.encoder(torch.tensor([items]), output_hidden_states=True).hidden_states[1][0]
        if readout != "mean":
            wanted = wanted[-5:]  # 1 + what the two convolutions above read
        torch.testing.assert_close(states[place][valid[place]], wanted, atol=1e-12, rtol=1e-10)
        assert valid[place].tolist() == (
            [True] * len(wanted) + [False] * (width - len(wanted))
            if readout == "mean"
            else [False] * (width - len(wanted)) + [True] * len(wanted)
        )


def test_users_without_events_have_no_states(histories):
    model = make("mean")
    kept = StandingStates(model, histories, rows=np.array([1, 5]), max_length=20, blocks=1, device=CPU)
    states, valid, *_ = kept.batch(np.array([1, 0]))
    assert states.shape == (2, 1, 8)
    assert not valid.any()
