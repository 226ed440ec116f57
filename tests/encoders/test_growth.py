"""Rows for more items: of every kind of encoder, the old ones stay to the bit, and only what shall train does."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from transformers import AutoModel

from peterrec.encoders.growth import DOUBT, grow, item_tensors, stands_in, train_new_rows_alone
from peterrec.encoders.loading import ENCODERS, load_encoder, save_encoder

SHAPES: dict[str, tuple[str, dict]] = {
    "nextitnet": ("nextitnet", {"dilations": (1, 2)}),
    "two_sided": ("nextitnet", {"dilations": (1, 2), "causal": False, "tie_output": False}),
    "grec": ("grec", {"encoder_dilations": (1, 2), "decoder_dilations": (1, 2)}),
    "sasrec": ("sasrec", {"num_blocks": 1, "tie_output": False}),
    # as many kinds of events as items, whose table is none of items
    "dupn": ("dupn", {"num_properties": 22}),
    "pooled": ("pooled", {"readout": "attention", "readout_item_weights": True}),
}
KNOWN, ROWS = 23, 27


def parent(shape, *, dtype=torch.float32):
    kind, own = SHAPES[shape]
    config, model = ENCODERS[kind]
    torch.manual_seed(0)
    settings = {"vocab_size": KNOWN, "hidden_size": 8, "initializer_range": 0.5, "vocabulary_fingerprint": "old"}
    encoder = model(config(**{**settings, **own}))  # type: ignore[call-arg]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        encoder.embed_tokens.weight[0] = 0
    return encoder.to(dtype).eval()


def around():
    counts = np.zeros((ROWS - KNOWN, KNOWN))
    counts[0, 5], counts[0, 7], counts[1, 20] = 3, 1, 2
    return csr_array(counts)


def grown(encoder, **changes):
    told = {"vocab_size": ROWS, "fingerprint": "new", "revision": "r1", "around": around(), **changes}
    return grow(encoder, **told)


def ids(rows, *shape):
    found = torch.randint(3, rows, shape, generator=torch.Generator().manual_seed(1))
    found[0, shape[1] // 2 :] = 0
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_histories_of_old_items_have_the_parents_states_to_the_bit(shape, dtype):
    old = parent(shape, dtype=dtype)
    new = grown(old).eval()
    assert new.dtype == dtype
    assert new.embed_tokens.weight.shape == (ROWS, 8)
    rows = ids(KNOWN, 4, 9)
    with torch.no_grad():
        wanted, found = old(rows), new(rows)
    assert torch.equal(found.last_hidden_state, wanted.last_hidden_state)
    assert torch.equal(found.user_vector, wanted.user_vector)
    assert torch.equal(new.score_table()[:KNOWN], old.score_table())
    assert stands_in(old.state_dict(), new)
    assert (new.config.vocab_size, new.config.vocabulary_fingerprint) == (ROWS, "new")
    assert (old.config.vocab_size, list(old.config.ancestors)) == (KNOWN, [])
    with torch.no_grad():
        new.embed_tokens.weight[KNOWN - 1, 0] += 1
    assert not stands_in(old.state_dict(), new)


@pytest.mark.parametrize("shape", SHAPES)
def test_new_rows_start_at_the_mean_of_what_stands_around_them(shape):
    old = parent(shape)
    new = grown(old)
    tables = item_tensors(new)
    before = old.state_dict()
    assert {name for name, own in new.state_dict().items() if own.shape != before[name].shape} == tables.keys()
    for name, table in tables.items():
        own = before[name].double()
        mean = own[3:].mean(dim=0)
        wanted = [
            (3 * own[5] + own[7] + DOUBT * mean) / (4 + DOUBT),
            (2 * own[20] + DOUBT * mean) / (2 + DOUBT),
            mean,
            mean,
        ]
        if own.ndim > 1:
            length = np.mean([float(row.norm()) for row in own[3:]])
            wanted[:2] = [row / row.norm() * length for row in wanted[:2]]
        if own.ndim == 1:
            wanted = [mean] * 4
        torch.testing.assert_close(table[KNOWN:].double(), torch.stack(wanted), atol=1e-6, rtol=1e-6)


def test_lineage_goes_on_and_a_file_holds_it(tmp_path):
    old = parent("sasrec")
    first = grown(old)
    second = grow(first, vocab_size=ROWS, fingerprint="new", revision="r2", around=csr_array((0, ROWS)))
    assert list(second.config.ancestors) == ["r1", "r2"]
    assert list(second.config.preserved) == ["r1", "r2"]
    save_encoder(second, config_path=tmp_path / "config.json", weights_path=tmp_path / "model.safetensors")
    for again in (load_encoder(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert list(again.config.ancestors) == ["r1", "r2"]
        state = second.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_new_rows_train_alone(shape, sparse):
    old = parent(shape)
    new = grown(old)
    new.sparse_rows = sparse
    train_new_rows_alone(new, known=KNOWN)
    before = {name: own.clone() for name, own in new.state_dict().items()}
    rows = ids(ROWS, 6, 9)
    assert (rows >= KNOWN).any()
    assert (rows < KNOWN).any()
    targets = torch.arange(3, ROWS).repeat(2)[:48]
    for _ in range(2):  # gradients of two pieces add up
        output = new(rows)
        states = output.last_hidden_state.reshape(-1, 8)[:48]
        scores = states * new.item_rows(targets)
        (scores.square().sum() + output.user_vector.square().sum()).backward()
    trained = {name: own for name, own in new.named_parameters() if own.requires_grad}
    assert trained.keys() == item_tensors(new).keys()
    with torch.no_grad():
        for own in trained.values():
            assert own.grad is not None
            own -= 0.1 * (own.grad.to_dense() if own.grad.is_sparse else own.grad)
    after = new.state_dict()
    assert stands_in(old.state_dict(), new)
    for name in trained:
        assert not torch.equal(after[name][KNOWN:], before[name][KNOWN:]), name
