"""Impressions with a planted truth, for tests; not a test module."""

import numpy as np
import torch

from peterrec.catalogue import impression_task
from peterrec.data.impressions.impressions import Impressions
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.impression_design import binary_labels, design

ITEMS = 20


class Histories:
    """Item rows of users in memory, with the interface of `Sequences`."""

    folder = "memory"

    def __init__(self, rows):
        self.rows = [np.asarray(row, dtype=np.int32) for row in rows]
        self.lengths = np.array([len(row) for row in self.rows], dtype=np.int64)

    def __len__(self):
        return len(self.rows)

    def gather(self, rows, starts, stops):
        parts = [
            self.rows[row][start:stop]
            for row, start, stop in zip(np.asarray(rows), np.asarray(starts), np.asarray(stops), strict=True)
        ]
        flat = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
        return flat, np.array([len(part) for part in parts], dtype=np.int64)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def draw(*, rows=1500, users=40, planted=True, history=False, domains=3, weights=False, seed=0) -> Impressions:
    """Clicks hang on `shelf`, `price` and the domain, conversions of clicks on `colour` (not `planted`: on nothing).

    With `history`, users have up to 30 events, and clicks hang on the last one before the impression.
    """
    rng = np.random.default_rng(seed)
    shelf, colour = rng.integers(0, 5, rows), rng.integers(0, 4, rows)
    price, domain = rng.normal(size=rows), rng.integers(0, domains, rows)
    user = rng.permutation(np.arange(rows) % users)
    logit = shelf - 2.0 + price + 0.7 * domain
    more = {}
    if history:
        lengths = rng.integers(0, 31, users)
        histories = [rng.integers(3, 3 + ITEMS, n) for n in lengths]
        before = np.array([rng.integers(0, lengths[u] + 1) for u in user])
        last = np.array([histories[u][b - 1] if b else 0 for u, b in zip(user, before, strict=True)])
        logit = np.where(last > 0, (last % 2) * 4.0 - 2.0, 0.0)
        more = {"history": Histories(histories), "before": before, "item_row": rng.integers(0, 3 + ITEMS, rows)}
    if not planted:
        logit = np.zeros(rows)
    click = rng.random(rows) < sigmoid(logit)
    conversion = click & (rng.random(rows) < sigmoid(1.5 * colour - 2.5 if planted else np.zeros(rows)))
    return Impressions.of_arrays(
        labels={"click": click, "conversion": conversion},
        categorical={"shelf": [f"s{n}" for n in shelf], "colour": [f"c{n}" for n in colour]},
        numeric={"price": price},
        multi={"tags": [[f"t{a}", f"t{b}"] for a, b in zip(shelf, colour, strict=True)]},
        user=[f"u{n:03d}" for n in user],
        item=[f"i{n}" for n in shelf],
        domain=[f"d{n}" for n in domain],
        time=np.arange(rows),
        weight=rng.uniform(0.5, 2.0, rows) if weights else None,
        **more,
    )


def encoder(*, dropout=0.0, seed=3, dilations=(1, 2), **changes) -> NextItNet:
    torch.manual_seed(seed)
    return NextItNet(
        NextItNetConfig(
            vocab_size=3 + ITEMS,
            hidden_size=16,
            dilations=dilations,
            dropout=dropout,
            readout="last",
            initializer_range=0.4,
            **changes,
        )
    )


def plan_of(name, impressions: Impressions, **changes):
    """The design of a recipe of the catalogue on these impressions."""
    task = impression_task(name) if isinstance(name, str) else name
    return design(
        task.model_copy(update=changes),
        fields=[field.name for field in impressions.schema.fields],
        labels=binary_labels(impressions),
        domains=len(impressions.schema.domains),
    )
