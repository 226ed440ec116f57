"""TF-IDF against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfTransformer

from peterrec.baselines.item_matrix import count_matrix
from peterrec.baselines.tfidf import TfIdf


def histories(seed: int, users: int = 40):
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 30, users)
    return random.integers(3, 15, lengths.sum()).astype(np.int32), lengths


def test_scikit_learn_agrees_with_sublinear_tf_and_smooth_idf():
    train, test = histories(0), histories(1)
    reference = TfidfTransformer(sublinear_tf=True).fit(count_matrix(train, num_items=12))
    found = TfIdf(12).fit(train).transform(test)
    assert found.toarray() == pytest.approx(reference.transform(count_matrix(test, num_items=12)).toarray())


def test_binary_is_presence_alone():
    found = TfIdf(12, weighting="binary").fit(histories(0)).transform(([3, 3, 4, 3, 2], [4, 1]))
    assert found.toarray().tolist() == [pytest.approx([0] * 3 + [0.5**0.5] * 2 + [0] * 10), [0.0] * 15]
