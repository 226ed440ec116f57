"""The classes' shares."""

import pytest

from peterrec.baselines.majority import Majority


def test_shares_of_the_training_labels_for_everybody():
    found = Majority.fit([2, 0, 2, 2], num_classes=4).predict(3)
    assert found.tolist() == [pytest.approx([0.25, 0, 0.75, 0])] * 3
