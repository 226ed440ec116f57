"""How far users and items lie from the mean rating: the baseline of every other model."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from peterrec.baselines.ratings.ratings import Floats, Ints, Ratings
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

TOLERANCE = 1e-10  # of the residual of the normal equations


class BiasBaseline:
    """b_ui = μ + b_u + b_i (Koren, KDD 2008, §2.1), the exact minimum of Σ w (r − b_ui)² + λ_u Σ b_u² + λ_i Σ b_i².

    `user_bias` (U + 1,) and `item_bias` (I + 1,) are 0 for whoever has no rating; their last places are those of
    unknown users and items.
    """

    def __init__(self, ratings: Ratings, *, user_bias: Floats, item_bias: Floats) -> None:
        self.mean: float = ratings.mean
        self.user_bias: Floats = user_bias
        self.item_bias: Floats = item_bias
        self._ratings = ratings

    @classmethod
    def fit(
        cls,
        ratings: Ratings,
        *,
        validation: Ratings | None = None,
        seed: int = 0,
        user_penalty: float = 15.0,
        item_penalty: float = 10.0,
    ) -> Self:
        """Solve the normal equations; `validation` and `seed` play no part.

        b_u is eliminated, and conjugate gradients solve what is left for b_i. Raises SettingsError for a penalty that
        is not above 0.
        """
        from scipy.sparse import csr_array
        from scipy.sparse.linalg import cg

        if wrong := [penalty for penalty in (user_penalty, item_penalty) if not penalty > 0]:
            raise SettingsError(f"The penalties of user and item biases are above 0, not {wrong[0]:g}.")
        users, items, weights = ratings.users, ratings.items, ratings.shares
        left = weights * (ratings.values - ratings.mean)
        of_user = np.bincount(users, left, minlength=ratings.num_users)
        of_item = np.bincount(items, left, minlength=ratings.num_items)
        user_total = np.bincount(users, weights, minlength=ratings.num_users) + user_penalty
        item_total = np.bincount(items, weights, minlength=ratings.num_items) + item_penalty
        joint = csr_array((weights, (users, items)), shape=(ratings.num_users, ratings.num_items))
        back = csr_array(joint.T)

        def reduced(item_bias: Floats) -> Floats:
            item_bias = item_bias.ravel()
            return item_total * item_bias - back @ ((joint @ item_bias) / user_total)

        item_bias, unsolved = cg(
            _operator(reduced, ratings.num_items),
            of_item - back @ (of_user / user_total),
            rtol=TOLERANCE,
            M=_operator(lambda x: x.ravel() / item_total, ratings.num_items),
        )
        assert not unsolved, "positive definite for any penalty above 0"
        user_bias = (of_user - joint @ item_bias) / user_total
        return cls(ratings, user_bias=np.append(user_bias, 0.0), item_bias=np.append(item_bias, 0.0))

    def biases(self, users: Ints, items: Ints) -> Floats:
        """μ + b_u + b_i (B,), not clipped: what other models are centred by."""
        users, items = self._ratings.places(users, items)
        return self.mean + self.user_bias[users] + self.item_bias[items]

    def predict(self, users: Ints, items: Ints) -> Floats:
        """The ratings (B,), clipped."""
        return self._ratings.clipped(self.biases(users, items))


def _operator(matvec: Callable[[Floats], Floats], size: int) -> "LinearOperator":
    """A matrix (size, size) by what it does to a vector."""
    from scipy.sparse.linalg import LinearOperator

    build: Any = LinearOperator  # its stubs describe a subclass's own constructor
    return build((size, size), matvec=matvec, dtype=np.float64)
