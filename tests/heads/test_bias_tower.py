"""Towers whose logits are added: for position, and beside STAR."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from peterrec.data.impressions.field_batch import FieldBatch, FieldSizes
from peterrec.errors import SettingsError
from peterrec.features.embeddings import FieldEmbeddings
from peterrec.heads.bias_tower import BiasTower
from peterrec.impression_recipe import Bias

DIM, K = 3, 4
SIZES = FieldSizes(names=("position", "device", "age", "tags"), categorical=(6, 4), numeric=1, multi=(5,))


def build(*, sizes: FieldSizes = SIZES, domains: int = K, **keys) -> BiasTower:
    torch.manual_seed(0)
    recipe = Bias.model_validate({"fields": sizes.names, "hidden": (8,), **keys})
    tower = BiasTower(recipe, sizes, embeddings=FieldEmbeddings(sizes, DIM), dim=DIM, domains=domains)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.normal_()
    return tower


def batch(rows: int, *, seed: int = 0) -> FieldBatch:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, rows)
    return FieldBatch(
        categorical=torch.from_numpy(np.stack([rng.integers(0, size, rows) for size in SIZES.categorical], axis=1)),
        numeric=torch.from_numpy(rng.normal(size=(rows, 1)).astype(np.float32)),
        missing=torch.from_numpy(rng.random((rows, 1)) < 0.3),
        multi=(
            (
                torch.from_numpy(rng.integers(2, 5, lengths.sum())),
                torch.from_numpy(np.cumsum(lengths) - lengths),
            ),
        ),
    )


def without(fields: FieldBatch, hidden: tuple[bool, ...]) -> FieldBatch:
    """The batch with some fields missing in all rows, in the words of the data."""
    categorical, missing, multi = fields.categorical.clone(), fields.missing.clone(), fields.multi
    for column in (0, 1):
        if hidden[column]:
            categorical[:, column] = 0
    if hidden[2]:
        missing[:] = True
    if hidden[3]:
        multi = ((torch.zeros(0, dtype=torch.int64), torch.zeros(len(fields), dtype=torch.int64)),)
    return FieldBatch(categorical=categorical, numeric=fields.numeric, missing=missing, multi=multi)


def by_hand(tower: BiasTower, fields: FieldBatch, domain_ids: Tensor | None) -> np.ndarray:
    """The logit in numpy: ReLU layers on the fields' vectors and the domain's."""
    x = tower.embeddings(fields).flatten(1).detach().numpy()
    if tower.domains is not None:
        table = np.vstack([tower.domains.weight.detach().numpy(), np.zeros((1, DIM))])
        ids = [-1] * len(x) if domain_ids is None else [one if 0 <= one < K else -1 for one in domain_ids.tolist()]
        x = np.hstack([x, table[ids]])
    state = {name: value.numpy() for name, value in tower.tower.state_dict().items()}
    x = np.maximum(x @ state["tower.linears.0.weight"].T + state["tower.linears.0.bias"], 0)
    return (x @ state["output.weight"].T)[:, 0] + state.get("output.bias", 0)


@pytest.mark.parametrize("training", [True, False])
def test_a_tower_that_is_always_on(training):
    tower = build(domain=True).train(training)
    fields = batch(20)
    for ids in (torch.arange(20) % (K + 3) - 1, None):
        np.testing.assert_allclose(tower(fields, ids).detach(), by_hand(tower, fields, ids), rtol=1e-4, atol=1e-5)
    known = build().train(training)
    np.testing.assert_allclose(known(fields).detach(), by_hand(known, fields, None), rtol=1e-4, atol=1e-5)


def test_unknown_domains_are_one_and_teach_nothing():
    tower = build(domain=True)
    fields = batch(5)
    one, other = (tower(fields, torch.full((5,), ids)) for ids in (-1, K + 2))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one, tower(fields))
    assert (one != tower(fields, torch.zeros(5, dtype=torch.int64))).all()
    one.sum().backward()
    assert tower.domains is not None
    assert tower.domains.weight.grad is not None
    assert not tower.domains.weight.grad.any()


def test_position_changes_nothing_in_evaluation():
    tower = build(train_only=True, dropout=0.1)
    fields, ids = batch(30), torch.arange(30) % K
    assert tower(fields, ids).abs().min() > 0
    tower.eval()
    for seed in (0, 1):
        found = tower(batch(30, seed=seed), ids)
        assert found.dtype == torch.float32
        assert found.tolist() == [0.0] * 30


@pytest.mark.parametrize("domain", [True, False])
def test_in_training_it_counts_from_missing_fields(domain):
    tower = build(train_only=True, domain=domain)
    fields, ids = batch(10), torch.arange(10) % K
    nothing = without(fields, (True,) * 4)
    expected = by_hand(tower, fields, ids) - by_hand(tower, nothing, ids)
    np.testing.assert_allclose(tower(fields, ids).detach(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tower(nothing, ids).detach(), 0, atol=1e-6)
    np.testing.assert_allclose(
        tower(fields).detach(), by_hand(tower, fields, None) - by_hand(tower, nothing, None), rtol=1e-4, atol=1e-5
    )
    loss = tower(fields, ids).square().sum()
    grads = torch.autograd.grad(loss, list(tower.parameters()))
    assert all(grad.any() for grad in grads)  # not a parameter that does nothing


@pytest.mark.parametrize("train_only", [True, False])
def test_each_field_is_hidden_in_a_share_of_the_training_rows(train_only):
    """Each row comes out as one of the sixteen ways to hide four fields, as often as independent draws say."""
    share, rows = 0.3, 4000
    tower = build(train_only=train_only, dropout=share)
    fields = batch(1)
    start = torch.zeros(rows, dtype=torch.int64)
    one = FieldBatch(
        categorical=torch.tensor([[3, 2]]),
        numeric=fields.numeric,
        missing=torch.zeros(1, 1, dtype=torch.bool),
        multi=((torch.tensor([4, 2]), start[:1]),),
    )
    many = FieldBatch(
        categorical=one.categorical.expand(rows, -1),
        numeric=one.numeric.expand(rows, -1),
        missing=one.missing.expand(rows, -1),
        multi=((torch.tensor([4, 2]).repeat(rows), torch.arange(rows) * 2),),
    )
    found = tower(many).detach().numpy()
    bare = build(train_only=train_only)
    bare.load_state_dict(tower.state_dict())
    counted = 0
    for hidden in itertools.product((True, False), repeat=4):
        value = bare(without(one, hidden)).item()
        hits = int((np.abs(found - value) < 1e-4).sum())
        expected = rows * np.prod([share if each else 1 - share for each in hidden])
        assert abs(hits - expected) < 5 * np.sqrt(expected) + 1, hidden
        counted += hits
    assert counted == rows
    if not train_only:
        tower.eval()
        np.testing.assert_allclose(tower(many).detach(), found.dtype.type(bare(one).item()), rtol=1e-5)


def test_a_batch_of_one_in_half_precision():
    for keys in ({"train_only": True, "dropout": 0.5}, {"domain": True}):
        tower = build(**keys)
        with torch.autocast("cpu", torch.bfloat16):
            found = tower(batch(1), torch.tensor([2]))
        assert found.shape == (1,)
        assert found.dtype == torch.float32
        found.sum().backward()


def test_domains_alone_and_nothing_at_all():
    none = FieldSizes(names=(), categorical=(), numeric=0, multi=())
    fields = FieldBatch(
        categorical=torch.zeros(5, 0, dtype=torch.int64),
        numeric=torch.zeros(5, 0),
        missing=torch.zeros(5, 0, dtype=torch.bool),
    )
    tower = build(sizes=none, domain=True)
    ids = torch.tensor([0, 1, 1, -1, 0])
    np.testing.assert_allclose(tower(fields, ids).detach(), by_hand(tower, fields, ids), rtol=1e-5)
    with pytest.raises(SettingsError, match="nothing to read"):
        build(sizes=none)
    with pytest.raises(SettingsError, match="the data have no domains"):
        build(domain=True, domains=0)
