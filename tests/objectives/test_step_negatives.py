"""Negatives of a step: counted on the training histories; in-batch ones are targets of that step."""

import numpy as np
import pytest

from peterrec.data.prepared import open_prepared
from peterrec.objectives import step_negatives
from peterrec.objectives.settings import ObjectiveSettings
from peterrec.objectives.step_negatives import StepNegatives, item_counts


@pytest.fixture(scope="module")
def prepared(prepared_folder):
    return open_prepared(prepared_folder)


def test_items_are_counted_in_the_histories_whatever_the_portions(prepared, monkeypatch):
    train, rows = prepared.sequences("train"), len(prepared.vocabulary)
    wanted = np.zeros(rows, dtype=np.int64)
    for user in range(len(train)):
        for item in train.items_of(user):
            wanted[item] += 1
    assert item_counts(train, rows=rows).tolist() == wanted[3:].tolist()
    monkeypatch.setattr(step_negatives, "HISTORIES_AT_ONCE", 7)
    assert item_counts(train, rows=rows).tolist() == wanted[3:].tolist()


def test_popularity_has_the_power_that_is_set(prepared):
    train, rows = prepared.sequences("train"), len(prepared.vocabulary)
    nothing = np.zeros(0, dtype=np.int64)
    seen = []
    for power in (0.0, 1.0):
        objective = ObjectiveSettings(sampler="popularity", negatives=10, popularity_power=power)
        drawing = StepNegatives(train, objective=objective, rows=rows)
        draws = [drawing.draw(np.random.default_rng(n), row=nothing, start=nothing, stop=nothing) for n in range(200)]
        seen.append(np.mean(np.concatenate([d.sets[0].rows.numpy() for d in draws])))
    assert seen[0] == pytest.approx((rows + 2) / 2, rel=0.1)
    assert seen[1] < 0.8 * seen[0], "popular items stand in front"


def test_in_batch_negatives_are_targets_of_the_step_and_of_it_alone(prepared):
    train, rows = prepared.sequences("train"), len(prepared.vocabulary)
    objective = ObjectiveSettings(sampler="in_batch", negatives=8)
    drawing = StepNegatives(train, objective=objective, rows=rows)
    row, start, stop = np.array([5, 0, 9]), np.array([0, 3, 1]), np.array([4, 8, 3])
    targets = {
        int(item)
        for user, first, last in zip(row, start, stop, strict=True)
        for item in train.items_of(user)[first + 1 : last]
    }
    found = [drawing.draw(np.random.default_rng(n), row=row, start=start, stop=stop).sets[0] for n in range(200)]
    assert set(np.concatenate([f.rows.numpy() for f in found]).tolist()) == targets
    pairs = int((stop - start - 1).sum())
    drawn = min(drawing.sampler.draws, pairs)
    counts = item_counts(train, rows=rows)
    for negatives in found[:5]:
        share = counts[negatives.rows.numpy() - 3] / counts.sum()
        assert np.exp(negatives.log_counts.numpy()) == pytest.approx(1 - (1 - share) ** drawn, rel=1e-4)


def test_windows_are_dealt_out_to_sets_of_their_own(prepared):
    train, rows = prepared.sequences("train"), len(prepared.vocabulary)
    windows = {"row": np.arange(10), "start": np.zeros(10, dtype=np.int64), "stop": np.full(10, 4)}
    drawing = StepNegatives(train, objective=ObjectiveSettings(negatives=20, negative_sets=3), rows=rows)
    found = drawing.draw(np.random.default_rng(0), **windows)
    assert len({tuple(drawn.rows.tolist()) for drawn in found.sets}) == 3
    assert np.bincount(found.of_window).tolist() == [4, 3, 3]
    drawing = StepNegatives(train, objective=ObjectiveSettings(negatives=20, negative_sets=99), rows=rows)
    assert len(drawing.draw(np.random.default_rng(0), **windows).sets) == 10, "no set without a window"


def test_log_uniform_goes_by_frequency_whatever_the_rows_are(prepared):
    train, rows = prepared.sequences("train"), len(prepared.vocabulary)

    class Turned:
        """The same histories, the row of an item counted from the other end: as if it had been appended."""

        lengths = train.lengths

        def __len__(self):
            return len(train)

        def gather(self, *args):
            flat, lengths = train.gather(*args)
            return rows + 2 - flat, lengths

    objective = ObjectiveSettings(sampler="log_uniform", negatives=10)
    probabilities = [
        StepNegatives(histories, objective=objective, rows=rows).sampler._probabilities  # type: ignore[arg-type]
        for histories in (train, Turned())
    ]
    counts = item_counts(train, rows=rows)
    order = np.argsort(-probabilities[0])
    assert np.all(np.diff(counts[order]) <= 0)
    order = np.argsort(-probabilities[1])
    assert np.all(np.diff(counts[::-1][order]) <= 0)
    assert probabilities[1].argmax() > rows // 2
