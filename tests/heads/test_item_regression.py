"""Head and item deviations as one regression: against scikit-learn, by its limits, and what it learns."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from peterrec.heads.classification import ClassificationHead
from peterrec.heads.item_regression import ItemRegression, fit_items

USERS, ITEMS, CHANNELS = 240, 60, 5


def world(*, classes: int = 3, noise: bool = False, seed: int = 0):
    """Vectors, bags and labels; single items, which the vectors do not tell apart, say most of the class."""
    rng = np.random.default_rng(seed)
    held = rng.random((USERS, ITEMS)) < 0.15
    bags = held / np.sqrt(np.maximum(held.sum(axis=1, keepdims=True), 1))
    table = rng.normal(size=(ITEMS, CHANNELS))
    logits = 4 * bags @ rng.normal(size=(ITEMS, classes)) + bags @ table @ rng.normal(size=(CHANNELS, classes))
    drawn = logits + rng.gumbel(size=logits.shape)
    labels = rng.integers(classes, size=USERS) if noise else drawn.argmax(axis=1)
    return bags @ table, csr_array(bags), labels.astype(np.int64), table


@pytest.mark.parametrize("classes", [2, 3])
def test_the_solution_is_that_of_scikit_learn_on_both_kinds_of_columns(classes):
    vectors, bags, labels, _ = world(classes=classes)
    problem = ItemRegression(vectors, bags, labels, num_classes=classes, scales=np.ones(ITEMS))
    C, share = 0.5, 0.7
    found = problem.solve(C=C, share=share)
    norm = np.sqrt((bags.toarray() ** 2).sum() / USERS)
    columns = np.hstack([vectors, share * bags.toarray() / norm])
    # of two classes scikit-learn keeps one column, whose penalty is twice that of a pair of half as long ones
    peer = LogisticRegression(C=C * (2 if classes == 2 else 1), tol=1e-8, max_iter=5000).fit(columns, labels)
    ours = found.logits(vectors, bags)
    theirs = peer.predict_log_proba(columns)
    ours = ours - np.log(np.exp(ours).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(ours, theirs, atol=5e-3)


def test_items_get_a_share_where_they_say_more_and_none_where_nothing_is_to_be_said():
    vectors, bags, labels, _ = world()
    problem = ItemRegression(vectors, bags, labels, num_classes=3, scales=np.ones(ITEMS))
    C, share = problem.search()
    assert share > 0
    own = (problem.solve(C=C, share=share).logits(vectors, bags).argmax(axis=1) == labels).mean()
    alone = problem.solve(C=C, share=0.0)
    assert not alone.deviations.any()
    assert own > (alone.logits(vectors, bags).argmax(axis=1) == labels).mean() + 0.1
    # vectors that tell all: items have nothing to add
    onehot = np.eye(3)[labels]
    problem = ItemRegression(onehot, bags, labels, num_classes=3, scales=np.ones(ITEMS))
    C, share = problem.search()
    assert share == 0
    told = problem.solve(C=C, share=share)
    assert (told.logits(onehot, bags).argmax(axis=1) == labels).all()


def test_what_is_stored_gives_the_logits_of_the_solution():
    vectors, bags, labels, table = world()
    head = ClassificationHead(CHANNELS, 3, common_scale=True)
    left, right = torch.randn(ITEMS, 4), torch.randn(4, CHANNELS)
    C, share = fit_items(
        head, (left, right), torch.from_numpy(vectors).float(), bags, labels, scales=np.ones(ITEMS), seed=0
    )
    assert share > 0
    moved = torch.from_numpy(bags.toarray() @ (table + (left @ right).double().numpy())).float()
    centred = vectors - vectors.mean(axis=0)
    inputs = centred / np.sqrt((centred**2).sum(axis=1).mean())
    wanted = ItemRegression(inputs, bags, labels, num_classes=3, scales=np.ones(ITEMS)).solve(C=C, share=share)
    torch.testing.assert_close(
        head(moved).double(), torch.from_numpy(wanted.logits(inputs, bags)), atol=1e-3, rtol=1e-3
    )
    assert not left[:, 3].any()


def test_without_a_share_the_table_stays():
    vectors, bags, labels, _ = world(noise=True)
    head = ClassificationHead(CHANNELS, 3, common_scale=True)
    left, right = torch.randn(ITEMS, 3), torch.randn(3, CHANNELS)
    one_class = np.zeros_like(labels)
    told = fit_items(head, (left, right), torch.from_numpy(vectors), bags, one_class, scales=np.ones(ITEMS), seed=0)
    assert told == (1.0, 0.0)
    assert not left.any()
    assert not right.any()
