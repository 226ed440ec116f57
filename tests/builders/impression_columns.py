"""Impressions as raw columns, and what a network makes of them before its body, in numpy; not a test module.

Nothing here reads what the package codes: values become rows of tables, and these vectors, by the rules in the docs.
"""

from collections import Counter

import numpy as np

from peterrec.data.impressions.impressions import Impressions

ROWS, TRAIN, DOMAINS = 60, 40, 3
CATEGORICAL, NUMERIC, MULTI = ("shelf", "colour", "device"), ("price", "position"), ("tags",)
FIELDS = (*CATEGORICAL, *NUMERIC, *MULTI)
LABELS = {
    "esm2": ("click", "cart", "conversion"),
    "engagement": ("click", "dwell", "completion"),
    "youtube_ranking": ("click", "dwell"),
}
Array = np.ndarray


class Columns:
    """`ROWS` impressions, of which the first `TRAIN` are for training.

    Values are missing here and there; in the last rows some are unseen and some domains unknown.
    """

    def __init__(self, *, seed: int = 0):
        rng = np.random.default_rng(seed)

        def drawn(letter: str, number: int, *, new: bool) -> list[str | None]:
            known = [f"{letter}{n}" for n in rng.integers(0, number, ROWS)]
            return [
                None if rng.random() < 0.15 else f"{letter}-new" if new and row >= TRAIN and row % 3 == 0 else value
                for row, value in enumerate(known)
            ]

        self.values = {
            "shelf": drawn("s", 5, new=False),
            "colour": drawn("c", 4, new=True),
            "device": drawn("v", 2, new=False),
            "price": np.where(rng.random(ROWS) < 0.15, np.nan, rng.normal(3.0, 2.0, ROWS)),
            "position": np.where(rng.random(ROWS) < 0.1, np.nan, rng.integers(1, 11, ROWS)),
            "tags": [
                [f"t{n}" for n in rng.permutation(5)[: rng.integers(0, 4)]] + (["t-new"] if row % 7 == 6 else [])
                for row in range(ROWS)
            ],
        }
        self.values["tags"][:TRAIN] = [[tag for tag in tags if tag != "t-new"] for tags in self.values["tags"][:TRAIN]]
        # in training rows every domain several times, and an unknown one
        self.domain = np.array([row % (DOMAINS + 1) if row % 5 else DOMAINS - 1 for row in range(ROWS)])
        self.domain[self.domain == DOMAINS] = -1
        clicks = rng.random(ROWS) < 0.5
        self.labels = {
            "click": clicks,
            "cart": clicks & (rng.random(ROWS) < 0.5),
            "conversion": clicks & (rng.random(ROWS) < 0.5),
            "dwell": rng.exponential(30.0, ROWS),
            "completion": clicks & (rng.random(ROWS) < 0.3),
        }

    def impressions(self, *, labels: tuple[str, ...] = ("click", "conversion"), domains: bool = True) -> Impressions:
        return Impressions.of_arrays(
            labels={name: self.labels[name] for name in labels},
            categorical={name: self.values[name] for name in CATEGORICAL},
            numeric={name: self.values[name] for name in NUMERIC},
            multi={name: self.values[name] for name in MULTI},
            domain=[f"d{n}" if n >= 0 else None for n in self.domain] if domains else None,
        )

    def embedded(self, state: dict[str, Array], prefix: str, fields: tuple[str, ...], rows: Array) -> Array:
        """The vectors `(B, F, dim)` of `fields` in these rows, by the embeddings under `prefix`."""
        vectors: list[Array] = []
        start = 0
        for name in (one for one in CATEGORICAL if one in fields):
            places = self._places(self.values[name])
            vectors.append(state[f"{prefix}.table.weight"][[start + _row(self.values[name][r], places) for r in rows]])
            start += 2 + len(places)
        for number, name in enumerate(one for one in NUMERIC if one in fields):
            slope, offset, missing = state[f"{prefix}.numeric"][:, number]
            column = self.values[name]
            seen = column[:TRAIN][~np.isnan(column[:TRAIN])]
            x = ((column[rows] - seen.mean()) / seen.std())[:, None]
            vectors.append(np.where(np.isnan(x), missing, x * slope + offset))
        for number, name in enumerate(one for one in MULTI if one in fields):
            table = state[f"{prefix}.multi.{number}.weight"]
            places = self._places([tag for tags in self.values[name][:TRAIN] for tag in tags], cut=False)
            vectors.append(
                np.stack(
                    [
                        np.mean([table[_row(tag, places)] for tag in self.values[name][r]] or [table[0]], axis=0)
                        for r in rows
                    ]
                )
            )
        return np.stack(vectors, axis=1)

    @staticmethod
    def _places(values, *, cut: bool = True) -> dict[str, int]:
        """The row of each value of the training rows: the most frequent first, then by text, from 2."""
        counts = Counter(value for value in (values[:TRAIN] if cut else values) if value is not None)
        return {value: 2 + n for n, value in enumerate(sorted(counts, key=lambda value: (-counts[value], value)))}


def _row(value: str | None, places: dict[str, int]) -> int:
    return 0 if value is None else places.get(value, 1)
