"""Encoding and ranking users of a part, against one user at a time."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from peterrec import inference
from peterrec.data.reading import Reading
from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.data.vocabulary import TCL
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.errors import SettingsError
from peterrec.inference import choose_device, encode, rank_next_items, reader_of, user_vectors, whole_histories

CPU = torch.device("cpu")
ITEMS = 30


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    random = np.random.default_rng(0)
    lengths = np.array([5, 0, 12, 1, 7, 0, 25, 3])
    folder = tmp_path_factory.mktemp("part") / "test"
    with SequenceWriter(folder, targets=True) as writer:
        flat = random.integers(3, 3 + ITEMS, lengths.sum()).astype(np.int32)
        targets = random.integers(3, 3 + ITEMS, len(lengths)).astype(np.int32)
        writer.write(pa.array([f"u{i}" for i in range(len(lengths))]), flat, lengths, targets)
    return Sequences(folder)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return NextItNet(NextItNetConfig(vocab_size=3 + ITEMS, hidden_size=8, dilations=(1, 2))).eval()


@pytest.mark.parametrize("positions", [1, 20, 10_000])
@pytest.mark.parametrize("readout", ["last", "mean", "tcl"])
def test_each_user_gets_the_vector_it_has_alone(encoder, sequences, positions, readout, monkeypatch):
    monkeypatch.setattr(inference, "POSITIONS", {"cpu": positions})
    rows = np.array([6, 0, 1, 3, 2, 7])
    done = []
    found = user_vectors(
        encoder.train(), sequences, rows=rows, max_length=10, readout=readout, device=CPU, advance=done.append
    )
    assert encoder.training, "the mode is as it was"
    encoder.eval()
    assert sum(done) == len(rows)
    assert (len(done) == 1) == (positions == 10_000)
    for row, vector in zip(rows, found, strict=True):
        items = [*sequences.items_of(row)[-10:], *([TCL] if readout == "tcl" else [])]
        if not items:
            assert not vector.any()
            continue
        hidden = encoder(torch.tensor([items])).last_hidden_state[0]
        wanted = hidden.mean(0) if readout == "mean" else hidden[-1]
        torch.testing.assert_close(vector, wanted.detach(), atol=1e-5, rtol=1e-4)


def test_batches_are_written_into_one_tensor_of_their_type(sequences, monkeypatch):
    monkeypatch.setattr(inference, "POSITIONS", {"cpu": 12})
    batches = []

    def sums(ids):
        batches.append(len(ids))
        return ids.sum(1, keepdim=True).double()

    found = encode(sums, sequences, reading=Reading(max_length=100), device=CPU)
    assert len(batches) > 2
    assert found.dtype == torch.float64
    assert found[:, 0].tolist() == [float(sequences.items_of(row).sum()) for row in range(len(sequences))]


def test_no_users_have_no_vectors(encoder, sequences):
    none = np.zeros(0, dtype=np.int64)
    assert user_vectors(encoder, sequences, rows=none, max_length=10, readout="mean", device=CPU).shape == (0, 8)


@pytest.mark.parametrize("remove", [True, False])
def test_ranks_are_those_of_numpy(encoder, sequences, remove):
    rows = np.array([7, 2, 0, 6])
    ranks = rank_next_items(encoder, sequences, rows=rows, max_length=10, device=CPU, remove_history=remove)
    table = encoder.score_table().detach().numpy()
    for place, row in enumerate(rows):
        items = sequences.items_of(row)
        hidden = encoder(torch.from_numpy(items[-10:].astype(np.int64))[None]).last_hidden_state[0, -1]
        target = sequences.targets[row]
        gone = set(items.tolist()) - {target} if remove else set()
        candidates = [item for item in range(3, 3 + ITEMS) if item not in gone]
        scores = table @ hidden.detach().numpy()
        assert ranks.candidates[place] == len(candidates)
        assert ranks.greater[place] == sum(scores[item] > scores[target] + 1e-6 for item in candidates)


def test_whole_histories_hold_every_event(sequences):
    flat, lengths = whole_histories(sequences, np.array([6, 1, 0]))
    assert lengths.tolist() == [25, 0, 5]
    assert flat.tolist() == [*sequences.items_of(6), *sequences.items_of(0)]


def test_devices_that_are_not_there_are_named():
    assert choose_device("cpu") == CPU
    with pytest.raises(SettingsError, match="usable: cpu"):
        choose_device("tpu")


@pytest.mark.parametrize(("readout", "longest"), [("last", 7), ("tcl", 7), ("mean", 12)])
def test_no_more_is_fed_than_the_readout_depends_on(encoder, sequences, readout, longest):
    assert encoder.config.receptive_field == 7
    embedded = []
    handle = encoder.embed_tokens.register_forward_hook(lambda _, args, out: embedded.append(out.shape[1]))
    try:
        user_vectors(encoder, sequences, max_length=12, readout=readout, device=CPU)
    finally:
        handle.remove()
    assert max(embedded) == longest


def test_attention_that_was_not_learned_is_refused_with_what_would_train_it(encoder):
    with pytest.raises(SettingsError, match=r"encoder\.readout=attention.* with objective\.contrast or objective\.bag"):
        reader_of(encoder, "attention")
