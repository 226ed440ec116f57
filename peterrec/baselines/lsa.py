"""Logistic regression on latent semantic factors of the unlabelled log (Deerwester et al., 1990)."""

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.baselines.item_matrix import Histories
from peterrec.baselines.majority import Majority
from peterrec.baselines.tfidf import TfIdf
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.heads.logistic import Logistic


class LatentSemantic:
    """Class probabilities from the `factors` largest factors of the TF-IDF matrix of an unlabelled log.

    It learns about items from users without labels, as pretraining does, and so is the fair rival where
    labels are few. A user without items gets the class shares of the training labels. See `Logistic` for `C`.
    """

    def __init__(self, num_items: int, *, factors: int = 256, C: float | Literal["cv"] = "cv", seed: int = 0) -> None:
        assert factors > 0
        self.weights: TfIdf = TfIdf(num_items)
        self.factors: int = factors
        self.seed: int = seed
        self.model: Logistic = Logistic(C=C, seed=seed)
        self._axes: NDArray[np.float64] | None = None
        self._prior: Majority | None = None
        self._learned = False

    def pretrain(self, histories: Histories) -> Self:
        """Find the factors of N unlabelled histories (flat rows, lengths); no more than N or the items."""
        from sklearn.utils.extmath import randomized_svd

        features = self.weights.fit(histories).transform(histories)
        rank = min(len(np.unique(features.indices)), int((np.diff(features.indptr) > 0).sum()))
        self._axes = np.empty((0, FIRST_ITEM + self.weights.num_items))
        if rank:
            _, _, self._axes = randomized_svd(features, min(self.factors, rank), random_state=self.seed)
        return self

    def fit(self, histories: Histories, labels: ArrayLike, *, num_classes: int) -> Self:
        """Fit to N histories (flat rows, lengths) and their labels (N,) in 0…C-1; `pretrain` comes first."""
        labels = np.asarray(labels, dtype=np.int64)
        assert len(labels) == len(histories[1])
        self._prior = Majority.fit(labels, num_classes=num_classes)
        factors, known = self._factors(histories)
        self._learned = bool(len(known))
        if self._learned:
            self.model.fit(factors, labels[known], num_classes=num_classes)
        return self

    def predict(self, histories: Histories) -> NDArray[np.float64]:
        """The probabilities (N, C) of all classes in their given order."""
        assert self._prior is not None, "fit first"
        probabilities = self._prior.predict(len(histories[1]))
        factors, known = self._factors(histories)
        if self._learned and len(known):
            probabilities[known] = self.model.predict(factors)
        return probabilities

    def _factors(self, histories: Histories) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(n, factors) of the n users who have items, and which of the N users they are."""
        assert self._axes is not None, "pretrain first"
        features = self.weights.transform(histories)
        known = np.flatnonzero(np.diff(features.indptr)) if len(self._axes) else np.empty(0, dtype=np.int64)
        return features[known] @ self._axes.T, known
