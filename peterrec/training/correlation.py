"""Which items users took near each other, for the correlation loss."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import DataError
from peterrec.objective_recipe import Correlation

Ints = NDArray[np.int64]


class Pairs(NamedTuple):
    """Rows of the impressions: `centre` and `context` `(P,)`, and drawn `negatives` `(P, Q)`."""

    centre: Ints
    context: Ints
    negatives: Ints


class Neighbours:
    """Each user's training rows whose label is 1, in order of time, as a sequence (rows of one time as in the file).

    A pair are two rows at most `window` apart in it; negatives are drawn from the rows of all sequences, so an item as
    often as it was taken. Raises DataError where rows have no users, or no user two such rows.
    """

    def __init__(self, impressions: Impressions, correlation: Correlation, *, label: NDArray[np.float32], train: Ints):
        if not impressions.schema.users:
            raise DataError(
                f"{impressions.folder}: the correlation loss needs to know whose each row is; prepare with --user."
            )
        rows = train[label[train] == 1]
        user = np.asarray(impressions.user)
        time = np.zeros(len(rows)) if impressions.time is None else np.asarray(impressions.time)[rows]
        self._order = rows[np.lexsort((rows, time, user[rows]))]
        self._user = user[self._order]
        self._place = np.full(len(impressions), -1, dtype=np.int64)
        self._place[self._order] = np.arange(len(self._order))
        self._steps = [step for step in range(-correlation.window, correlation.window + 1) if step]
        self._negatives = correlation.negatives
        if not self.count(self._order):
            raise DataError(
                f"{impressions.folder}: no user has two training rows where {correlation.label} is 1, of which the "
                "correlation loss makes its pairs; leave [correlation] out, or prepare more rows."
            )

    def count(self, rows: Ints) -> int:
        """How many pairs have their centre among `rows` `(n,)`."""
        return len(self._paired(rows)[0])

    def of(self, rows: Ints, *, draw: tuple[int, ...]) -> Pairs:
        """The pairs whose centre is among `rows` `(n,)`, with negatives drawn by the seed `draw`."""
        centre, context = self._paired(rows)
        rng = np.random.default_rng(draw)
        return Pairs(centre, context, self._order[rng.integers(len(self._order), size=(len(centre), self._negatives))])

    def _paired(self, rows: Ints) -> tuple[Ints, Ints]:
        place = self._place[rows]
        place = place[place >= 0]
        at = place[:, None] + np.array(self._steps)
        inside = np.clip(at, 0, len(self._order) - 1)
        near = (at == inside) & (self._user[inside] == self._user[place][:, None])
        centre = np.broadcast_to(self._order[place][:, None], at.shape)[near]
        return centre, self._order[inside[near]]
