import numpy as np

from peterrec.evaluation.gains import gains_of, reference_of
from peterrec.metrics.intervals import ClassificationRows, paired_gain


def rows(seed: int) -> list[ClassificationRows]:
    labels = np.arange(40) % 2
    right = np.random.default_rng(seed).random(40) < 0.5 + 0.1 * seed
    predicted = np.where(right, labels, 1 - labels)
    return [ClassificationRows(np.arange(40), labels, np.eye(2)[predicted] * 0.8 + 0.1, names=["accuracy"])]


def pairs(models: list[str], others: list[str]) -> set[tuple[str, str]]:
    every = {name: rows(place) for place, name in enumerate([*models, *others])}
    found = gains_of(models, every, baselines=["bag"], metrics=["accuracy"])
    assert len({(gain["of"], gain["over"]) for gain in found}) == len(found)
    for gain in found:
        wanted = paired_gain(every[gain["of"]], every[gain["over"]], metric="accuracy")
        assert wanted is not None
        assert (gain["value"], gain["low"], gain["high"]) == (wanted.value, wanted.low, wanted.high)
    return {(gain["of"], gain["over"]) for gain in found}


def test_the_first_meets_all_and_the_others_baselines_and_full_fine_tuning() -> None:
    assert pairs(["a", "b", "full"], ["scratch", "bag"]) == {
        ("a", "b"),
        ("a", "full"),
        ("a", "scratch"),
        ("a", "bag"),
        ("b", "full"),
        ("b", "bag"),
        ("full", "bag"),
    }
    first = pairs(["full", "a"], ["scratch", "bag"])
    assert first == {("full", "a"), ("full", "scratch"), ("full", "bag"), ("a", "full"), ("a", "bag")}


def test_without_full_there_is_no_reference() -> None:
    assert pairs(["a", "b"], ["scratch", "bag"]) == {("a", "b"), ("a", "scratch"), ("a", "bag"), ("b", "bag")}
    assert reference_of(["a", "b"]) is None
    assert reference_of(["a", "full"]) == "full"
