"""User vectors from windows, layers and special rows, against one call on the whole history of one user at a time."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from peterrec import catalogue, inference
from peterrec.adaptation import build
from peterrec.data.reading import WHOLE, Reading
from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.data.vocabulary import MASK, TCL
from peterrec.encoders import NextItNet, NextItNetConfig, SASRec, SASRecConfig
from peterrec.encoders.pooled import PooledItems
from peterrec.encoders.pooled_config import PooledConfig
from peterrec.encoders.readout import BOTH_ENDS, READOUTS, Readout, valid_positions
from peterrec.encoders.user_reading import owners_of, pooled_users, reading_of, states_of
from peterrec.errors import SettingsError
from peterrec.heads.classification import ClassificationHead
from peterrec.inference import next_item_states, rank_next_items, user_vectors
from peterrec.model import TaskModel

CPU = torch.device("cpu")
LENGTHS = np.array([5, 0, 40, 1, 12, 7])
VOCABULARY, CHANNELS, BLOCKS = 33, 8, 2


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("part") / "test"
    with SequenceWriter(folder, targets=True) as writer:
        flat = random.integers(3, VOCABULARY, LENGTHS.sum()).astype(np.int32)
        targets = random.integers(3, VOCABULARY, len(LENGTHS)).astype(np.int32)
        writer.write(pa.array([f"u{i}" for i in range(len(LENGTHS))]), flat, LENGTHS, targets)
    return Sequences(folder)


def make(*, position_wise: bool = False, causal: bool = True, **changes) -> NextItNet:
    torch.manual_seed(0)
    config = NextItNetConfig(
        vocab_size=VOCABULARY,
        hidden_size=CHANNELS,
        dilations=(1, 2, 1, 1),
        causal=causal,
        initializer_range=0.5,
        **changes,
    )
    encoder = NextItNet(config).double().eval()
    if position_wise:
        for block in encoder.blocks:
            for unit in (block.unit1, block.unit2):
                taps = unit.conv.linear.weight.data
                kept = slice(2 * CHANNELS, None) if causal else slice(CHANNELS, 2 * CHANNELS)
                taps.copy_(torch.zeros_like(taps).index_copy_(1, torch.arange(taps.shape[1])[kept], taps[:, kept]))
    return encoder


def reader_of(kind: str, layers=(-1,)) -> Readout:
    torch.manual_seed(1)
    item_weights = kind == "attention"
    reader = Readout(
        kind, channels=CHANNELS, depth=BLOCKS, layers=layers, item_weights=item_weights, vocab_size=VOCABULARY
    ).double()
    for parameter in reader.parameters():
        torch.nn.init.normal_(parameter)
    return reader


def one_call(encoder: NextItNet, reader: Readout, items: list[int]) -> torch.Tensor:
    """The user vector `(D,)` of one history with its special rows, by the readable definition."""
    ids = torch.tensor([items if items else [0]])
    states = encoder(ids, output_hidden_states=True).hidden_states
    return reader([states[layer] for layer in reader.layers], ids.ne(0), ids)[0]


def with_special(items: list[int], reader: Readout) -> list[int]:
    front = [TCL] if reader.kind == "tcl_ends" else []
    return front + items + ([TCL] if reader.kind.startswith("tcl") else [])


@pytest.mark.parametrize("window", [None, 3, 7])
@pytest.mark.parametrize("layers", [(-1,), (0,), (1, -1)])
@pytest.mark.parametrize("kind", READOUTS)
def test_whole_histories_in_windows_are_as_in_one_call(kind, layers, window, sequences, monkeypatch):
    """On an encoder whose states depend on their own event alone, where both must agree."""
    monkeypatch.setattr(inference, "POSITIONS", {"cpu": 20})  # so that a user's windows are encoded in parts
    encoder, reader = make(position_wise=True, causal=kind != "tcl_ends"), reader_of(kind, layers)
    if kind.startswith("tcl") and layers == (0,):
        with pytest.raises(SettingsError, match="the same vector for every user"):
            reading_of(encoder, reader, max_length=WHOLE, window=window)
        return
    found = user_vectors(encoder, sequences, max_length=WHOLE, readout=reader, window=window, device=CPU)
    for row, vector in enumerate(found):
        wanted = one_call(encoder, reader, with_special(sequences.items_of(row).tolist(), reader))
        torch.testing.assert_close(vector, wanted.detach().float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "attention", "first_last"])
def test_gradients_reach_all_windows(kind, sequences):
    encoder, reader = make(position_wise=True), reader_of(kind, (0, -1))
    users = np.arange(len(LENGTHS))
    weigh = torch.randn(len(users), CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = []
    for window in (4, None):
        rows = reading_of(encoder, reader, max_length=WHOLE, window=window).rows(sequences, users)
        ids = torch.from_numpy(rows.ids)
        places = None if rows.places is None else torch.from_numpy(rows.places)
        pooled = pooled_users(encoder, encoder, reader, ids, valid_positions(ids), places=places)
        loss = (reader.mixed(pooled) * weigh).sum()
        parameters = [*reader.parameters(), encoder.embed_tokens.weight, *encoder.blocks.parameters()]
        gradients = torch.autograd.grad(loss, parameters)
        # the taps that are zero see across the borders of windows, and their gradients with them
        found.append([loss, *(g[:, 2 * CHANNELS :] if g.shape[1:] == (3 * CHANNELS,) else g for g in gradients)])
    assert found[1][-1].abs().sum() > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("kind", READOUTS)
def test_windows_of_an_encoder_are_each_encoded_alone(kind, sequences):
    """On an encoder that looks back, what a window holds is what its own positions say."""
    causal = kind != "tcl_ends"
    encoder, reader = make(causal=causal), reader_of(kind)
    found = user_vectors(encoder, sequences, max_length=30, readout=reader, window=8, device=CPU)
    for row, vector in enumerate(found):
        items = with_special(sequences.items_of(row).tolist()[-30:], reader)
        cuts = [items[max(stop - 8, 0) : stop] for stop in range(len(items), 0, -8)][::-1]
        if kind in BOTH_ENDS and len(items) > 8:
            cuts = [items[:8], items[-8:]]
        states = [encoder(torch.tensor([cut])).last_hidden_state[0] for cut in cuts]
        whole = torch.cat([*states, torch.zeros(0, CHANNELS, dtype=torch.float64)]).unsqueeze(0)
        ids = torch.tensor([[item for cut in cuts for item in cut]], dtype=torch.long)
        if not items:
            assert not vector.any()
            continue
        wanted = reader([whole], ids.ne(0), ids)[0]
        torch.testing.assert_close(vector, wanted.detach().float(), atol=1e-6, rtol=1e-5)


def test_an_encoder_with_a_longest_history_gets_windows_by_itself():
    encoder = make(max_length=6)
    encoder.window = 7
    assert reading_of(encoder, reader_of("mean"), max_length=WHOLE) == Reading(window=6)
    assert reading_of(encoder, reader_of("mean"), max_length=WHOLE, window=4) == Reading(window=4)
    tcl = reading_of(encoder, reader_of("tcl"), max_length=WHOLE)
    assert (tcl.window, tcl.back, tcl.parts) == (7, TCL, "last")
    assert reading_of(encoder, reader_of("first_last"), max_length=50).parts == "ends"


def test_tcl_in_front_of_a_causal_encoder_is_refused():
    with pytest.raises(SettingsError, match="two-sided"):
        reading_of(make(), reader_of("tcl_ends"), max_length=10)


@pytest.mark.parametrize("kind", ["tcl", "tcl_ends"])
def test_the_embedding_of_tcl_says_nothing_of_a_user(kind):
    encoder = make(causal=False)
    with pytest.raises(SettingsError, match=rf'"{kind}" of the embeddings alone .* a layer above it'):
        reading_of(encoder, reader_of(kind, (0,)), max_length=WHOLE)
    assert reading_of(encoder, reader_of(kind, (0, -1)), max_length=WHOLE).back == TCL
    pooled = PooledItems(PooledConfig(vocab_size=VOCABULARY, hidden_size=CHANNELS))
    reader = Readout("tcl", channels=CHANNELS, depth=0)
    with pytest.raises(SettingsError, match='read them with "mean" or "sqrtn"'):
        reading_of(pooled, reader, max_length=WHOLE)
    with pytest.raises(SettingsError, match="the same vector for every user"):
        build(
            pooled,
            adapter=catalogue.adapter("none"),
            task=catalogue.task("gender").model_copy(update={"readout": "tcl"}),
            num_classes=2,
        )


@pytest.mark.parametrize("kind", ["mean", "sqrtn", "last", "first_last", "attention"])
@pytest.mark.parametrize("layers", [(-1,), (0,), (1, -1)])
def test_a_task_reads_rows_beyond_the_window_as_the_encoder_does(kind, layers):
    torch.manual_seed(0)
    config = SASRecConfig(
        vocab_size=VOCABULARY, hidden_size=CHANNELS, max_length=6, initializer_range=0.5, readout_layers=layers,
        readout=kind, readout_item_weights=kind == "attention",
    )  # fmt: skip
    encoder = SASRec(config).double().eval()
    for parameter in encoder.reader.parameters():
        torch.nn.init.normal_(parameter)
    ids = torch.randint(3, VOCABULARY, (4, 19), generator=torch.Generator().manual_seed(3))
    ids[1, :4] = 0
    ids[2, 9:] = 0
    ids[3, 5:] = 0
    model = TaskModel(encoder, ClassificationHead(CHANNELS, 2).double(), readout=encoder.reader).eval()
    wanted = encoder(ids).user_vector
    torch.testing.assert_close(model.user_vectors(ids), wanted, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(model(ids).user_vector, wanted, atol=1e-12, rtol=1e-10)
    states, valid = model.chosen_states(ids)
    assert valid.sum(1).tolist() == [7, 7, 7, 5]
    split = list(states.split(CHANNELS, dim=2))
    torch.testing.assert_close(encoder.reader(split, valid, ids), wanted, atol=1e-12, rtol=1e-10)
    if 0 in layers or kind == "attention":
        return
    embedded, _ = encoder.embed(ids)
    found = model.vectors_of_states(embedded, ids.ne(0), first_block=0)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)


def test_the_embeddings_are_read_without_running_a_block():
    encoder, reader = make(), reader_of("attention", (0,))
    ids = torch.tensor([[5, 6, 7]])
    calls = []
    encoder.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    (states,) = states_of(encoder, encoder, reader, ids, ids.ne(0))
    assert not calls
    assert torch.equal(states, encoder.embed_tokens(ids))


def test_the_encoder_reads_with_what_it_learned(sequences):
    encoder = make(readout="attention", readout_layers=[0, -1], readout_item_weights=True)
    assert {name for name in encoder.state_dict() if name.startswith("reader.")} == {
        "reader.query",
        "reader.mix",
        "reader.item_weights",
    }
    torch.manual_seed(7)
    for parameter in encoder.reader.parameters():
        torch.nn.init.normal_(parameter)
    own = user_vectors(encoder, sequences, max_length=WHOLE, device=CPU)
    named = user_vectors(encoder, sequences, max_length=WHOLE, readout="attention", device=CPU)
    assert torch.equal(own, named)
    for row, vector in enumerate(own):
        items = sequences.items_of(row).tolist()
        if items:
            output = encoder(torch.tensor([items]))
            torch.testing.assert_close(vector, output.user_vector[0].float(), atol=1e-6, rtol=1e-5)
    mean = user_vectors(encoder, sequences, max_length=WHOLE, readout="mean", device=CPU)
    wanted = encoder(torch.tensor([sequences.items_of(2).tolist()])).last_hidden_state.mean(1)[0]
    torch.testing.assert_close(mean[2], wanted.float(), atol=1e-6, rtol=1e-5)
    embeds, mask = encoder.embed(torch.tensor([[5, 6]]))
    assert encoder(inputs_embeds=embeds, attention_mask=mask).user_vector is None, "item weights need the items"


def test_what_follows_is_read_at_the_top_whatever_the_encoder_reads_users_with(sequences):
    encoder = make(readout="last", readout_layers=[0])
    found = next_item_states(encoder, sequences, max_length=10, device=CPU)
    for row in (0, 2, 3):
        states = encoder(torch.tensor([sequences.items_of(row).tolist()[-10:]])).last_hidden_state
        torch.testing.assert_close(found[row], states[0, -1].float(), atol=1e-6, rtol=1e-5)


def test_an_encoder_that_fills_masks_is_asked_at_a_mask(sequences):
    encoder = make(causal=False)
    assert encoder.predicts == "masked"
    found = next_item_states(encoder, sequences, max_length=10, device=CPU)
    ranks = rank_next_items(encoder, sequences, max_length=10, device=CPU, remove_history=False)
    table = encoder.score_table()[3:].float()
    for row in range(len(LENGTHS)):
        items = [*sequences.items_of(row).tolist()[-10:], MASK]
        wanted = encoder(torch.tensor([items])).last_hidden_state[0, -1].float()
        torch.testing.assert_close(found[row], wanted, atol=1e-6, rtol=1e-5)
        scores = table @ wanted
        assert ranks.greater[row] == int((scores > scores[sequences.targets[row] - 3] + 1e-6).sum())


def test_owners_are_the_users_of_the_rows():
    places = torch.tensor([[-1, 0], [1, 2], [-1, 3]])
    assert owners_of(places, rows=4).tolist() == [0, 1, 1, 2]
