"""Histories of two domains mixed, through every kind of encoder and readout."""

import pytest
import torch

from peterrec import catalogue
from peterrec.adaptation import build_ranking
from peterrec.adapter_recipe import AdapterRecipe
from peterrec.catalogue import RankingTask
from peterrec.encoders import (
    DUPN,
    DUPNConfig,
    GRec,
    GRecConfig,
    NextItNet,
    NextItNetConfig,
    PooledConfig,
    PooledItems,
    SASRec,
    SASRecConfig,
)
from peterrec.errors import SettingsError

D, V, W = 8, 30, 14
SHAPE = {"vocab_size": V, "hidden_size": D, "initializer_range": 0.4}
ENCODERS = {
    "nextitnet": lambda: NextItNet(NextItNetConfig(**SHAPE, dilations=(1, 2, 1, 2))),
    "two_sided": lambda: NextItNet(NextItNetConfig(**SHAPE, dilations=(1, 2, 1, 2), causal=False)),
    "sasrec": lambda: SASRec(SASRecConfig(**SHAPE, heads=2, num_blocks=2, max_length=10)),
    "grec": lambda: GRec(GRecConfig(**SHAPE, encoder_dilations=(1, 2), decoder_dilations=(1, 2))),
    "dupn": lambda: DUPN(DUPNConfig(**SHAPE)),
    "pooled": lambda: PooledItems(PooledConfig(**SHAPE)),
}


def task_of(**changes) -> RankingTask:
    return RankingTask.model_validate({"name": "x", "kind": "ranking", **changes})


def model_of(kind, *, adapter="none", **changes):
    torch.manual_seed(0)
    encoder = ENCODERS[kind]()
    if isinstance(encoder, GRec):
        encoder.decoder["embed_tokens"].load_state_dict(encoder.embed_tokens.state_dict())
    return build_ranking(encoder, adapter=catalogue.adapter(adapter), task=task_of(**changes), rows=W).eval()


@pytest.mark.parametrize(
    ("kind", "adapter", "changes"),
    [
        *((kind, "none", {"readout": readout}) for kind in ENCODERS for readout in ("mean", "last")),
        *((kind, "none", {"readout": "tcl"}) for kind in ENCODERS if kind != "pooled"),
        ("two_sided", "serial", {"readout": "tcl_ends"}),
        ("nextitnet", "serial", {"readout": "first_last", "layers": [0, -1]}),
        ("nextitnet", "none", {"readout": "mean", "layers": [0]}),
        ("nextitnet", "lora", {"readout": "mean", "window": 5}),
        ("sasrec", "items", {"readout": "attention"}),
        ("grec", "items", {"readout": "last"}),
    ],
)
@torch.no_grad()
def test_a_target_item_that_is_embedded_as_a_source_item_reads_as_one(kind, adapter, changes):
    mixed, plain = (model_of(kind, adapter=adapter, history=name, **changes) for name in ("mixed", "source"))
    history = mixed.head.history
    assert history is not None
    base = mixed.base_encoder.embed_tokens
    table = (base.base_layer if hasattr(base, "base_layer") else base).weight
    history.items.weight.copy_(table[3:W])
    ids = torch.randint(3, W, (5, 13), generator=torch.Generator().manual_seed(1))
    ids[2, 4:] = 0
    ids[4, 1:] = 0
    target = torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    both = torch.where(target & (ids > 0), ids + V - 3, ids)
    assert (both >= V).any()
    places = torch.tensor([[-1, 0], [1, 2], [3, 4]]) if mixed.window else None
    found, wanted = (
        model.vectors_of_pooled(model.pooled_users(rows, places=places))
        for model, rows in ((mixed, both), (plain, ids))
    )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    history.marks[1] += torch.randn(D, generator=torch.Generator().manual_seed(3))
    assert not torch.allclose(mixed.user_vectors(both, places=places), found, atol=1e-3)
    torch.testing.assert_close(mixed.user_vectors(ids, places=places), wanted, atol=1e-5, rtol=1e-5)


def test_no_block_stands_still_below_what_trains():
    plain, mixed = model_of("nextitnet"), model_of("nextitnet", history="mixed")
    assert plain.encoder_stands
    assert plain.standing_blocks == 2
    assert not mixed.encoder_stands
    assert mixed.standing_blocks == 0


def test_scores_are_the_logits_of_the_model():
    model = model_of("nextitnet")
    with torch.no_grad():
        model.head.items.copy_(torch.randn(W, D))
    ids = torch.tensor([[4, 5, 6], [7, 8, 0]])
    output = model(ids, labels=torch.tensor([5, 9]))
    torch.testing.assert_close(output.logits, model.head.scores(model.queries(ids)))
    assert torch.isfinite(output.loss)


def test_what_does_not_fit_is_refused():
    encoder = ENCODERS["pooled"]()
    build = {"rows": W, "task": task_of()}
    with pytest.raises(SettingsError, match="fit = 'convex' is for tasks with classes"):
        build_ranking(encoder, adapter=catalogue.adapter("items_convex"), **build)
    star = AdapterRecipe.model_validate({"name": "s", "tuner": "star", "star": {"domains": 2}})
    with pytest.raises(SettingsError, match=r"star\.domains = 2"):
        build_ranking(ENCODERS["nextitnet"](), adapter=star, **build)
    weighed = task_of(history="mixed", readout="attention", item_weights=True)
    with pytest.raises(SettingsError, match="readout without item_weights"):
        build_ranking(encoder, adapter=catalogue.adapter("none"), task=weighed, rows=W)
