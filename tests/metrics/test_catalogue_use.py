"""Coverage and long tail against sorted lists."""

import numpy as np
import pytest
import torch

from peterrec.metrics.catalogue_use import CatalogueUse, long_tail


def test_the_head_is_the_fewest_items_that_hold_the_share():
    assert long_tail([9, 9, 9, 5, 3, 1, 1, 0]).tolist() == [False] * 5 + [True] * 3
    assert long_tail([9, 9, 9, 5, 3, 1, 1, 0], share=0.81).tolist() == [False] * 6 + [True] * 2
    assert long_tail([0, 0, 0, 1, 8, 1]).tolist() == [False] * 3 + [True, False, True], "8 of 10 hold it alone"
    assert long_tail([0, 0, 0, 2, 2, 2, 2]).tolist() == [False] * 7, "three of four hold 75 % only"
    assert long_tail([0] * 5).tolist() == [False] * 3 + [True] * 2
    random = np.random.default_rng(0)
    for _ in range(20):
        counts = np.concatenate([[50, 50, 50], random.integers(0, 9, 12)])
        tail = long_tail(counts, share=0.7)
        head = np.flatnonzero(~tail[3:]) + 3
        assert counts[head].sum() >= 0.7 * counts[3:].sum()
        assert counts[head].sum() - counts[head].min() < 0.7 * counts[3:].sum(), "no item of the head is too many"
        assert counts[head].min() >= counts[3:][tail[3:]].max(initial=0)


@pytest.mark.parametrize("k", [1, 4, 30])
def test_lists_hold_the_best_candidates(k):
    random = np.random.default_rng(k)
    tail = np.concatenate([[False] * 3, random.random(20) < 0.5])
    use, counts, shares = CatalogueUse(tail, k=k), np.zeros(23, dtype=int), []
    assert use.coverage() == 0
    for size in (5, 1, 9):
        scores = random.integers(0, 5, (size, 23)).astype(np.float32)
        scores[:, :3] = 99  # special rows are no candidates
        gone = random.integers(0, 23, (size, 6))
        rows = np.repeat(np.arange(size), 6)
        before = torch.from_numpy(scores.copy())
        given = torch.from_numpy(scores)
        use.add(given, excluded=(torch.from_numpy(rows), torch.from_numpy(gone.reshape(-1))))
        assert torch.equal(given, before), "scores are the caller's"
        for row, out in zip(scores, gone, strict=True):
            left = [item for item in range(3, 23) if item not in out]
            best = sorted(left, key=lambda item: (-row[item], item))[:k]
            counts[best] += 1
            shares.append(np.mean(tail[best]))
    assert use.counts().tolist() == counts.tolist()
    assert use.coverage() == np.count_nonzero(counts) / 20
    assert use.tail_shares() == pytest.approx(shares)


def test_nobody_is_recommended_what_is_no_candidate():
    use = CatalogueUse([False] * 3 + [True] * 4)
    use.add(torch.tensor([[0.0, 0, 0, -torch.inf, 1, -torch.inf, 2], [0, 0, 0] + [-torch.inf] * 4]))
    assert use.counts().tolist() == [0, 0, 0, 0, 1, 0, 1]
    assert use.tail_shares().tolist() == [1.0, 0.0]
