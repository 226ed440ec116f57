"""Groups of rows, and that no batch, share of a process or piece cuts one."""

import numpy as np
import pytest
import torch
from impression_world import draw

from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import DataError
from peterrec.training.impression_groups import group_batches, group_part, group_runs, groups_of

RNG = np.random.default_rng(0)
GROUPS = RNG.integers(0, 60, 800)
ROWS = np.sort(RNG.permutation(800)[:700])


def whole(parts):
    """Whether each group stands in one part alone, and together there."""
    seen = set()
    for part in parts:
        own = GROUPS[part]
        runs = own[np.r_[True, np.diff(own) != 0]]
        assert len(runs) == len(set(runs))
        assert not seen & set(runs)
        seen |= set(runs)


@pytest.mark.parametrize("batch", [1, 5, 100, 699, 700, 5000])
def test_batches_hold_whole_groups_and_every_row_once(batch):
    found = group_batches(ROWS, GROUPS, batch=batch, rng=np.random.default_rng(1))
    assert sorted(np.concatenate(found)) == ROWS.tolist()
    whole(found)
    again = group_batches(ROWS, GROUPS, batch=batch, rng=np.random.default_rng(2))
    assert batch >= 700 or [x.tolist() for x in found] != [x.tolist() for x in again]
    if batch == 100:
        assert 6 <= len(found) <= 7


@pytest.mark.parametrize("parts", [1, 2, 3, 40])
def test_processes_and_pieces_share_a_batch_without_cutting_groups(parts):
    (batch,) = group_batches(ROWS, GROUPS, batch=5000, rng=np.random.default_rng(1))
    shares = [group_part(batch, GROUPS, part=part, parts=parts) for part in range(parts)]
    assert np.concatenate(shares).tolist() == batch.tolist()
    whole(shares)
    lengths = RNG.integers(0, 9, len(batch))
    runs = group_runs(batch, GROUPS, lengths, limit=100)
    assert np.concatenate(runs).tolist() == batch.tolist()
    whole(runs)
    ends = np.cumsum([len(run) for run in runs])[:-1]
    assert all(each.sum() <= 100 for each in np.split(lengths, ends))


def test_what_makes_a_group():
    data = Impressions.of_arrays(
        labels={"click": [1, 0, 1, 0, 1]},
        categorical={"request": ["a", "a", None, None, "b"]},
        user=["u", "u", "u", "v", "v"],
        time=[1, 2, 2, 2, 2],
    )

    def alike(within):
        found = groups_of(data, within)
        return [[int(a == b) for b in found] for a in found]

    def same(*classes):
        return [[int(a == b) for b in classes] for a in classes]

    assert alike("user") == same(0, 0, 0, 1, 1)
    assert alike("time") == same(0, 1, 1, 2, 2)
    assert alike("request") == same(0, 0, 1, 2, 3)
    with pytest.raises(DataError, match="no categorical field; there are request"):
        groups_of(data, "list")
    with pytest.raises(DataError, match="there is no such column"):
        groups_of(Impressions.of_arrays(labels={"click": [1, 0]}, numeric={"x": [1.0, 2.0]}), "user")


def test_the_world_of_the_builders_has_groups():
    assert len(np.unique(groups_of(draw(rows=100, users=7), "user"))) == 7
    assert torch.get_num_threads() == 1
