"""A linear map from source items to target items, by ridge regression."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.item_matrix import Histories, count_matrix
from peterrec.baselines.tfidf import TfIdf, Weighting
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]
ROWS_AT_ONCE = 512


class Ridge:
    """Scores target items by a linear map of the weighted bag of source items, with an intercept.

    With X (N, V) the bags of the training rows (of length 1) and Y (N, W) ones where a row has the target item, both
    centred, the map is (X'X + λI)⁻¹ X'Y (Hoerl and Kennard, 1970), solved exactly: in X'X or, where rows are fewer
    than source items, in XX'. The intercept is not penalised, so that a large λ comes to popularity.
    """

    def __init__(self, weights: TfIdf, solution: "_Primal | _Dual", *, penalty: float) -> None:
        self.weights: TfIdf = weights
        self.penalty: float = penalty
        self._solution = solution

    @property
    def dual(self) -> bool:
        """Whether it was solved in XX'."""
        return isinstance(self._solution, _Dual)

    @classmethod
    def path(
        cls,
        sources: Histories,
        targets: Histories,
        *,
        num_sources: int,
        num_targets: int,
        penalties: Sequence[float],
        weighting: Weighting = "tfidf",
    ) -> "Iterator[Ridge]":
        """One map for each of `penalties` (λ > 0); row i of `sources` and `targets` is one user, or one example.

        Raises SettingsError for a penalty that is not above 0.
        """
        from scipy.linalg import cho_factor, cho_solve
        from scipy.sparse import csr_array

        if wrong := [penalty for penalty in penalties if not penalty > 0]:
            raise SettingsError(f"The penalties of a ridge regression are above 0, not {wrong[0]:g}.")
        weights = TfIdf(num_sources, weighting=weighting).fit(sources)
        bags, taken = weights.transform(sources), count_matrix(targets, num_items=num_targets)
        taken.data = np.ones_like(taken.data)
        mean, share = (np.asarray(matrix.mean(axis=0), dtype=np.float64) for matrix in (bags, taken))
        count, by_item = len(sources[1]), csr_array(bags.T)
        dual = count < num_sources
        wanted = np.zeros((0, 0))
        if dual:
            gram = _centred_both(csr_array(bags @ by_item).toarray())
        else:
            gram = csr_array(by_item @ bags).toarray() - count * np.outer(mean, mean)
            wanted = csr_array(by_item @ taken).toarray() - count * np.outer(mean, share)
        diagonal = np.diagonal(gram).copy()
        for penalty in penalties:
            np.fill_diagonal(gram, diagonal + penalty)
            factor = cho_factor(gram, lower=True)
            if dual:
                solution = _Dual(factor, by_item, np.asarray(bags @ mean), taken, share)
            else:
                solved = cho_solve(factor, wanted)
                solution = _Primal(solved.astype(np.float32), (share - mean @ solved).astype(np.float32))
            yield cls(weights, solution, penalty=penalty)

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """The scores (B, W) of the target items for B source histories."""
        return self._solution.scores(self.weights.transform(histories))


@dataclass(frozen=True)
class _Primal:
    """The map itself (V, W), and the intercept (W,)."""

    coefficients: NDArray[np.float32]
    intercept: NDArray[np.float32]

    def scores(self, bags: "csr_array") -> NDArray[np.float32]:
        return bags.astype(np.float32) @ self.coefficients + self.intercept


@dataclass(frozen=True)
class _Dual:
    """What solves for the rows that are scored: they are mostly fewer than the target items of such a map."""

    factor: tuple[Floats, bool]  # of the centred XX' + λI (N, N)
    products: "csr_array"  # X' (V, N)
    centre: Floats  # the products of the training rows with their mean (N,)
    taken: "csr_array"  # Y (N, W), not centred
    share: Floats  # (W,)

    def scores(self, bags: "csr_array") -> NDArray[np.float32]:
        from scipy.linalg import cho_solve
        from scipy.sparse import csr_array

        out = np.empty((len(bags.indptr) - 1, len(self.share)), dtype=np.float32)
        for start in range(0, len(out), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            # a constant added to a row's products would change nothing: the centred Y sums to 0
            near = csr_array(csr_array(bags[rows]) @ self.products).toarray() - self.centre
            weights = cho_solve(self.factor, near.T).T
            out[rows] = weights @ self.taken + np.outer(1 - weights.sum(axis=1), self.share)
        return out


def _centred_both(gram: Floats) -> Floats:
    """The products of rows (N, N) after the mean row was taken from each, in place."""
    mean = gram.mean(axis=0)
    gram -= mean
    gram -= mean[:, None] - mean.mean()
    return gram
