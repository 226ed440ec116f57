"""The ranking head, and the items that it embeds in mixed histories."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from peterrec.data.item_features import ItemFeatures, item_features
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError
from peterrec.heads.mixed_input import MixedInput
from peterrec.heads.ranking import RankingHead
from peterrec.metrics.ranking import rank_targets

W, D = 9, 6
CATALOGUE = Vocabulary.build([f"t{n}" for n in range(6)], counts=[6, 5, 4, 3, 2, 1])
ITEMS = pa.table(
    {
        "item": ["t1", "t0", "t2", "t3", "t5", "elsewhere"],
        "genre": ["a|b", "a", " b | c|b", None, "", "z"],
        "year": pa.array([1999, 2000, None, 1999, 2000, 1998]),
        "score": [0.5, 1.0, 1.5, 2.0, 2.5, 3.0],
        "tags": [["x"], [], ["x", "y"], None, ["y"], ["q"]],
    }
)


def moved(head: RankingHead) -> RankingHead:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return head


def held(features: ItemFeatures, row: int) -> dict:
    pairs = zip(features.values[row], features.weights[row], strict=True)
    return {features.names[value]: round(float(weight), 6) for value, weight in pairs if weight}


def test_the_values_of_items():
    found = item_features(ITEMS, vocabulary=CATALOGUE, columns=["genre", "year", "tags"])
    assert list(found.names) == [
        *(("genre", value) for value in "abc"),
        ("tags", "x"),
        ("tags", "y"),
        ("year", "1999"),
        ("year", "2000"),
    ]
    assert found.values.shape == found.weights.shape == (W, found.width) == (W, 4)
    assert held(found, 3) == {("genre", "a"): 1, ("year", "2000"): 1}
    assert held(found, 4) == {("genre", "a"): 0.5, ("genre", "b"): 0.5, ("year", "1999"): 1, ("tags", "x"): 1}
    assert held(found, 5) == {("genre", "b"): 0.5, ("genre", "c"): 0.5, ("tags", "x"): 0.5, ("tags", "y"): 0.5}
    assert [held(found, row) for row in (0, 1, 2, 7)] == [{}] * 4
    later = item_features(ITEMS, vocabulary=CATALOGUE, columns=["genre"], names=[("genre", "b"), ("genre", "q")])
    assert held(later, 4) == {("genre", "b"): 1}
    assert later.names == (("genre", "b"), ("genre", "q"))
    for columns, message in ((["gnre"], "Did you mean 'genre'"), (["score"], "holds numbers such as 0.5")):
        with pytest.raises(DataError, match=message):
            item_features(ITEMS, vocabulary=CATALOGUE, columns=columns)
    with pytest.raises(DataError, match="without an items table"):
        item_features(None, vocabulary=CATALOGUE, columns=["genre"])


def test_the_head_starts_as_the_popularity_order():
    counts = np.array([0, 0, 0, 5, 9, 0, 1, 7, 2])
    head = RankingHead(D, W, counts=counts)
    scores = head(torch.randn(4, D))
    assert scores.shape == (4, W)
    assert torch.equal(scores, scores[:1].expand(4, W))
    assert scores[0].argsort(descending=True).tolist()[:6] == [4, 7, 3, 8, 6, 5]
    assert scores[:, :3].max() < -1e30
    shares = torch.softmax(scores[0, 3:].double(), dim=0).detach().numpy()
    wanted = np.maximum(counts[3:], 0.5)
    np.testing.assert_allclose(shares, wanted / wanted.sum(), rtol=1e-5)


@pytest.mark.parametrize("hidden", [(), (8, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_scores_are_products_with_the_table(hidden, bias):
    head = moved(RankingHead(D, W, hidden=hidden, dropout=0.3, bias=bias)).eval()
    users = torch.randn(7, D) * 3
    x = users.numpy()
    x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + head.norm.eps)
    for layer in head.hidden:
        if isinstance(layer, torch.nn.Linear):
            x = np.maximum(x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    query = head.query(users)
    np.testing.assert_allclose(query.detach().numpy(), x, atol=1e-5)
    assert head.score_table().shape == (W, query.shape[1])
    assert (head.bias is None) == (not bias)
    wanted = x @ head.items.detach().numpy().T + (head.item_bias.detach().numpy() if bias else 0)
    np.testing.assert_allclose(head(users).detach().numpy()[:, 3:], wanted[:, 3:], atol=1e-5)
    targets = torch.randint(3, W, (7,))
    ranks = rank_targets(query, head.score_table(), targets, bias=head.bias)
    own = wanted[np.arange(7), targets.numpy()]
    assert ranks.greater.tolist() == (wanted[:, 3:] > own[:, None]).sum(axis=1).tolist()


def test_the_vector_of_an_item_is_its_own_and_the_means_of_its_values():
    features = item_features(ITEMS, vocabulary=CATALOGUE, columns=["genre", "tags"])
    counts = np.array([0, 0, 0, 4, 3, 2, 1, 0, 0])
    head = moved(RankingHead(D, W, features=features, counts=counts))
    table, bias = head.score_table(), head.bias
    assert head.value_vectors is not None
    assert head.value_bias is not None
    assert bias is not None
    of = {name: place for place, name in enumerate(features.names)}
    a, b, c, x, y = (head.value_vectors[of[name]] for name in features.names)
    torch.testing.assert_close(table[4], head.items[4] + (a + b) / 2 + x)
    torch.testing.assert_close(table[5], head.items[5] + (b + c) / 2 + (x + y) / 2)
    torch.testing.assert_close(table[6], head.items[6])
    own = head.item_bias
    torch.testing.assert_close(bias[3], own[3] + head.value_bias[of["genre", "a"]])
    torch.testing.assert_close(bias[8], own[3:7].mean() + head.value_bias[of["tags", "y"]], msg="a cold item")
    rows = torch.tensor([5, 5, 8, 0])
    torch.testing.assert_close(head.vectors(rows), table[rows])
    torch.testing.assert_close(head.biases(rows), bias[rows])


def test_a_cold_item_is_scored_by_its_attributes():
    """Users like genre a or b; item 5 of genre a was never seen in training, and comes before the warm items of b."""
    names = (("genre", "a"), ("genre", "b"))
    values = np.array([[0]] * 3 + [[n % 2] for n in range(6)])
    weights = np.array([[0.0]] * 3 + [[1.0]] * 6, dtype=np.float32)
    counts = np.array([0, 0, 0, 9, 9, 0, 9, 9, 9])
    head = RankingHead(D, W, features=ItemFeatures(names, values, weights), counts=counts)
    torch.manual_seed(0)
    taste = torch.randn(2, D)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    warm = torch.tensor([0, 1, 2, 3, 4, 6, 7, 8])
    from peterrec.objectives.ranking import softmax_loss

    for _ in range(60):
        likes = torch.randint(2, (32,))
        target = torch.where(
            likes == 0, torch.tensor([3, 7])[torch.randint(2, (32,))], torch.tensor([4, 6, 8])[torch.randint(3, (32,))]
        )
        places = torch.searchsorted(warm, target)
        query = head.query(taste[likes] + 0.1 * torch.randn(32, D))
        loss = softmax_loss(query, head.vectors(warm), places, bias=head.biases(warm))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = head(taste)
    assert torch.equal(head.items[5], torch.zeros(D))
    assert scores[0, 5] > scores[0, [4, 6, 8]].max()
    assert scores[1, 5] < scores[1, [4, 6, 8]].min()


def test_mixed_input_adds_marks_and_the_vectors_of_target_items():
    mixed = MixedInput(D, source_rows=7, target_rows=W)
    ids = torch.tensor([[3, 7, 2, 0], [12, 6, 1, 8]])
    embedded = torch.randn(2, 4, D)
    there = embedded * (ids < 7).unsqueeze(-1)
    assert torch.equal(mixed(embedded, ids), there), "at first it adds nothing"
    assert mixed.source_ids(ids).tolist() == [[3, 0, 2, 0], [0, 6, 1, 0]]
    with torch.no_grad():
        for parameter in mixed.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    found = mixed(embedded, ids)
    source, target = mixed.marks
    items, zero = mixed.items.weight, torch.zeros(D)
    wanted = [[source, items[0] + target, zero, zero], [items[5] + target, source, zero, items[1] + target]]
    torch.testing.assert_close(found, there + torch.stack([torch.stack(row) for row in wanted]))
    assert found.transpose(0, 1).is_contiguous()
