"""Many views as user vectors: in whatever pieces, with or without encoding again, the same vectors and gradients."""

import numpy as np
import pytest
import torch

from peterrec.data.views import Views
from peterrec.data.vocabulary import TCL
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.training import view_encoding
from peterrec.training.view_encoding import encode_views

CPU = torch.device("cpu")


def encoder(**changes) -> NextItNet:
    torch.manual_seed(0)
    shape = {"vocab_size": 43, "hidden_size": 8, "dilations": (1, 2), "initializer_range": 0.5}
    return NextItNet(NextItNetConfig(**shape | changes)).double().train()


def views(users=9) -> Views:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 20, 2 * users)
    return Views(rng.integers(3, 43, counts.sum()).astype(np.int32), counts)


def gradients(made, drawn, *, positions):
    made.zero_grad()
    torch.manual_seed(7)
    vectors = encode_views(made, drawn, positions=positions, device=CPU)
    weights = torch.randn(vectors.shape, dtype=vectors.dtype, generator=torch.Generator().manual_seed(3))
    (vectors * weights).sum().backward()
    return vectors.detach(), {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("readout", ["mean", "tcl", "last"])
@pytest.mark.parametrize("positions", [None, 30, 1])
def test_each_view_gets_the_vector_it_has_alone(readout, positions):
    made, drawn = encoder(readout=readout), views()
    found = encode_views(made, drawn, positions=positions, device=CPU)
    end = 0
    for vector, count in zip(found, drawn.counts, strict=True):
        items, end = drawn.flat[end : end + count].tolist(), end + count
        row = torch.tensor([[*items, *([TCL] if readout == "tcl" else [])]])
        torch.testing.assert_close(vector, made(row).user_vector[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_encoding_again_gives_the_same_bits(monkeypatch, dropout):
    made, drawn = encoder(dropout=dropout), views()
    kept = gradients(made, drawn, positions=30)
    monkeypatch.setattr(view_encoding, "KEPT_BYTES", {"cpu": 0})
    calls = []
    made.embed_tokens.register_forward_hook(lambda *_: calls.append(1))
    again = gradients(made, drawn, positions=30)
    assert torch.equal(kept[0], again[0])
    assert kept[1].keys() == again[1].keys()
    assert all(torch.equal(kept[1][name], again[1][name]) for name in kept[1])
    computed = len(calls)
    calls.clear()
    with torch.no_grad():
        encode_views(made, drawn, positions=30, device=CPU)
    assert computed == 2 * len(calls) > 4


def test_what_is_kept_for_the_backward_pass_is_bounded(monkeypatch):
    """Encoding again keeps one vector a view; one pass keeps states of every position."""
    made, drawn = encoder(), views(40)

    def kept() -> int:
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            encode_views(made, drawn, positions=60, device=CPU)
        return sum(saved)

    one_pass = kept()
    monkeypatch.setattr(view_encoding, "KEPT_BYTES", {"cpu": 0})
    assert kept() < one_pass / 4
