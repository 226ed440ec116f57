"""Exact top-k against sorting all scores, with small whole numbers, so that sums are exact and ties are many."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import peterrec
from peterrec import top_k
from peterrec.errors import DataError, DivergedError, SettingsError
from peterrec.top_k import top_items


def sorted_items(scores, *, k, first_row=3, excluded=None, allowed=None, blocked=()):
    """Items and scores of each query by a plain sort: falling score, then rising row."""
    items, values = [], []
    for query, row in enumerate(scores):
        out = set(blocked) | set(excluded[query] if excluded else ())
        candidates = [
            (-score, item)
            for item, score in enumerate(row)
            if item >= first_row and item not in out and (allowed is None or item in allowed) and score > -np.inf
        ]
        best = sorted(candidates)[:k]
        items.append([item for _, item in best] + [0] * (k - len(best)))
        values.append([-score for score, _ in best] + [-np.inf] * (k - len(best)))
    return items, values


def flat(excluded):
    return (
        np.array([row for rows in excluded for row in rows], dtype=np.int32),
        np.array([len(rows) for rows in excluded], dtype=np.int64),
    )


@settings(max_examples=120, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31), queries=st.integers(0, 5), rows=st.integers(4, 300))
def test_it_is_the_head_of_the_sorted_scores(data, seed, queries, rows):
    generator = torch.Generator().manual_seed(seed)
    levels = data.draw(st.sampled_from([1, 2, 5, 50]))  # few levels: many ties
    vectors = torch.randint(-levels, levels + 1, (queries, 3), generator=generator).float()
    table = torch.randint(-2, 3, (rows, 3), generator=generator).float()
    bias = torch.randint(-3, 4, (rows,), generator=generator).float() if data.draw(st.booleans()) else None
    some = st.lists(st.integers(0, rows - 1), max_size=rows)
    excluded = [data.draw(some) for _ in range(queries)] if data.draw(st.booleans()) else None
    allowed = data.draw(some) if data.draw(st.booleans()) else None
    blocked = data.draw(some) if data.draw(st.booleans()) else None
    k, first_row = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 4))
    scores = vectors @ table.T + (0 if bias is None else bias)
    wanted = sorted_items(
        scores.tolist(), k=k, first_row=first_row, excluded=excluded, allowed=allowed, blocked=blocked or ()
    )
    items, found = top_items(
        vectors,
        table,
        k=k,
        first_row=first_row,
        excluded=None if excluded is None else flat(excluded),
        allowed=None if allowed is None else torch.tensor(allowed, dtype=torch.long),
        blocked=None if blocked is None else np.array(blocked, dtype=np.int64),
        bias=bias,
        chunk=data.draw(st.sampled_from([None, 1, 7, 64, 65, 100, 1000])),
    )
    assert (items.tolist(), found.tolist()) == wanted
    assert items.dtype == torch.long


@pytest.mark.parametrize("order", ["random", "rising", "falling", "constant"])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_any_order_of_the_items_and_any_chunk_give_the_same(order, k):
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(-30, 31, (5003, 8), generator=generator).double()
    vectors = torch.randint(-3, 4, (9, 8), generator=generator).double()
    if order == "constant":
        table[:] = 1
    elif order != "random":
        table = table[(table @ vectors[0]).argsort(descending=order == "falling")]
    wanted = sorted_items((vectors @ table.T).tolist(), k=k)
    for chunk in (None, 64, 333, 4096, 5000):
        items, scores = top_items(vectors, table, k=k, chunk=chunk)
        assert (items.tolist(), scores.tolist()) == wanted, chunk


def test_more_queries_than_at_once(monkeypatch):
    monkeypatch.setitem(top_k.QUERIES, "cpu", 4)
    generator = torch.Generator().manual_seed(1)
    table = torch.randint(-9, 10, (400, 4), generator=generator).float()
    vectors = torch.randint(-9, 10, (11, 4), generator=generator).float()
    excluded = [torch.randint(0, 400, (query % 3 * 40,), generator=generator).tolist() for query in range(11)]
    items, scores = top_items(vectors, table, k=7, excluded=flat(excluded))
    assert (items.tolist(), scores.tolist()) == sorted_items((vectors @ table.T).tolist(), k=7, excluded=excluded)


def test_chunks_without_a_better_score_are_not_opened(monkeypatch):
    offered = []
    merge = top_k._Best._merge
    monkeypatch.setattr(
        top_k._Best, "_merge", lambda self, *found: (offered.append(len(found[0])), merge(self, *found))[1]
    )
    table = torch.arange(10_003, 0, -1).float().unsqueeze(1)  # the best come first
    items, _ = top_items(torch.ones(2, 1), table, k=5, chunk=1000)
    assert items.tolist() == [[3, 4, 5, 6, 7]] * 2
    assert offered == [10]


def test_real_scores_agree_with_the_whole_product():
    generator = torch.Generator().manual_seed(2)
    table, vectors = torch.randn(20_000, 16, generator=generator), torch.randn(33, 16, generator=generator)
    scores, items = (vectors.double() @ table[3:].double().T).topk(20)
    for chunk in (None, 999):
        found, values = top_items(vectors, table, k=20, chunk=chunk)
        assert torch.equal(found, items + 3)
        torch.testing.assert_close(values.double(), scores, rtol=1e-5, atol=1e-5)


def test_half_precision_is_scored_in_single():
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(500, 16, generator=generator).bfloat16()
    vectors = torch.randn(4, 16, generator=generator).bfloat16()
    items, scores = top_items(vectors, table, k=9)
    assert scores.dtype == torch.float32
    assert torch.equal(items, (vectors.float() @ table[3:].float().T).topk(9).indices + 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(top_items(vectors, table, k=9)[1], scores)


def test_gradients_do_not_follow_and_nothing_is_changed():
    table = torch.nn.Parameter(torch.randn(30, 4))
    vectors = torch.randn(2, 4, requires_grad=True)
    before = table.detach().clone()
    _, scores = top_items(vectors, table, k=3, blocked=np.array([5]), excluded=flat([[6], [7]]))
    assert not scores.requires_grad
    assert torch.equal(table, before)


@pytest.mark.parametrize("where", ["vectors", "table", "bias"])
def test_nan_is_refused(where):
    inputs = {"vectors": torch.ones(3, 2), "table": torch.ones(400, 2), "bias": torch.zeros(400)}
    inputs[where][2] = float("nan")
    top_items(inputs["vectors"][:2], inputs["table"][3:], k=2, bias=inputs["bias"][3:])  # rows left out do not count
    inputs[where][2 if where == "vectors" else 333] = float("nan")
    with pytest.raises(DivergedError, match="query 2" if where == "vectors" else "query 0"):
        top_items(inputs["vectors"], inputs["table"], k=2, bias=inputs["bias"], chunk=64)


def test_infinite_scores():
    bias = torch.zeros(10)
    bias[4], bias[7] = -torch.inf, torch.inf
    items, scores = top_items(torch.zeros(1, 2), torch.zeros(10, 2), k=8, bias=bias)
    assert items.tolist() == [[7, 3, 5, 6, 8, 9, 0, 0]]
    assert scores.tolist() == [[np.inf, 0, 0, 0, 0, 0, -np.inf, -np.inf]]


def test_wrong_calls_say_what_is_wrong():
    vectors, table = torch.ones(2, 3), torch.ones(9, 3)
    for wrong, error, message in (
        ({"k": 0}, SettingsError, "k is a whole number of at least 1, got 0"),
        ({"k": 3.0}, SettingsError, r"k is a whole number of at least 1, got 3\.0"),
        ({"k": 1, "chunk": 0}, SettingsError, "chunk is a whole number"),
        ({"k": 1, "first_row": -1}, SettingsError, "first_row is a whole number of at least 0, got -1"),
        ({"k": 1, "bias": torch.ones(8)}, SettingsError, r"\(9,\)"),
        ({"k": 1, "excluded": flat([[3]])}, SettingsError, "each of the 2 queries"),
        ({"k": 1, "excluded": (np.array([3]), np.array([1, 1]))}, SettingsError, "add up to 2"),
        ({"k": 1, "excluded": ([3], [2, -1])}, SettingsError, "each of the 2 queries"),
        ({"k": 1, "excluded": ([3.5], [1, 0])}, DataError, "excluded must be whole numbers"),
        ({"k": 1, "excluded": flat([[9], []])}, DataError, "excluded holds row 9"),
        ({"k": 1, "allowed": np.array([3, 10])}, DataError, "allowed holds row 10"),
        ({"k": 1, "blocked": torch.tensor([-1])}, DataError, "blocked holds row -1"),
        ({"k": 1, "blocked": torch.tensor([0.5])}, DataError, "whole numbers"),
    ):
        with pytest.raises(error, match=message):
            top_items(vectors, table, **wrong)
    with pytest.raises(SettingsError, match="same D"):
        top_items(vectors, torch.ones(9, 4), k=1)


def test_no_candidates_and_no_queries():
    items, scores = top_items(torch.ones(2, 3), torch.ones(3, 3), k=2)
    assert items.tolist() == [[0, 0], [0, 0]]
    assert scores.isneginf().all()
    assert top_items(torch.ones(0, 3), torch.ones(9, 3), k=2)[0].shape == (0, 2)
    items, _ = top_items(torch.ones(1, 3), torch.ones(9, 3), k=2, allowed=np.array([], dtype=np.int64))
    assert items.tolist() == [[0, 0]]


@pytest.mark.parametrize("form", [list, torch.tensor, np.array])
def test_rows_come_as_lists_tensors_or_arrays(form):
    table = torch.arange(20).float().unsqueeze(1)
    items, _ = top_items(torch.ones(2, 1), table, k=2, excluded=(form([19, 18, 17]), form([1, 2])))
    assert items.tolist() == [[18, 17], [19, 16]]
    items, _ = top_items(torch.ones(1, 1), table, k=2, allowed=form([5, 6, 7]), blocked=form([7]))
    assert items.tolist() == [[6, 5]]


def test_it_is_public():
    assert peterrec.top_items is top_items
