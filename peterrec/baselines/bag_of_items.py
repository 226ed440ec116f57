"""Logistic regression on the bag of items: the baseline that is hardest to beat on attributes of users."""

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.baselines.item_matrix import Histories
from peterrec.baselines.majority import Majority
from peterrec.baselines.tfidf import TfIdf, Weighting
from peterrec.heads.logistic import Logistic


class BagOfItems:
    """Class probabilities from the TF-IDF weights of all items of a history, without their order.

    A user without items gets the class shares of the training labels. See `Logistic` for `C`.
    """

    def __init__(
        self,
        num_items: int,
        *,
        weighting: Weighting = "tfidf",
        C: float | Literal["cv"] = "cv",
        seed: int = 0,
    ) -> None:
        self.weights: TfIdf = TfIdf(num_items, weighting=weighting)
        self.model: Logistic = Logistic(C=C, seed=seed)
        self._prior: Majority | None = None
        self._learned = False

    def fit(self, histories: Histories, labels: ArrayLike, *, num_classes: int) -> Self:
        """Fit to N histories (flat rows, lengths) and their labels (N,) in 0…C-1."""
        labels = np.asarray(labels, dtype=np.int64)
        assert len(labels) == len(histories[1])
        self._prior = Majority.fit(labels, num_classes=num_classes)
        features = self.weights.fit(histories).transform(histories)
        known = np.flatnonzero(np.diff(features.indptr))  # empty rows would teach the intercepts alone
        self._learned = bool(len(known))
        if self._learned:
            self.model.fit(features[known], labels[known], num_classes=num_classes)
        return self

    def predict(self, histories: Histories) -> NDArray[np.float64]:
        """The probabilities (N, C) of all classes in their given order."""
        assert self._prior is not None, "fit first"
        features = self.weights.transform(histories)
        probabilities = self._prior.predict(len(histories[1]))
        known = np.flatnonzero(np.diff(features.indptr))
        if self._learned and len(known):
            probabilities[known] = self.model.predict(features[known])
        return probabilities
