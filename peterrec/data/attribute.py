"""Labelled users of one attribute, and their split into training, validation and test users."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from peterrec.data.prepared import PreparedLog
from peterrec.errors import DataError, SettingsError, did_you_mean

Ints = NDArray[np.int64]
FEWEST_VALIDATION = 40  # users, unless that is over a fifth of those beside the test users


@dataclass(frozen=True)
class Attribute:
    """Users with a label: `users` (N,) ids, `rows` (N,) of the part `histories`, `labels` (N,) places in `classes`."""

    column: str
    classes: tuple[str, ...]
    users: NDArray[np.str_]
    rows: Ints
    labels: Ints
    unlabelled: int

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Split:
    """Places `(n,)` in an `Attribute` of each part."""

    train: Ints
    validation: Ints
    test: Ints


def read_attribute(prepared: PreparedLog, *, column: str, classes: Sequence[str] | None = None) -> Attribute:
    """The users of a prepared log whose `column` is filled in.

    Classes are text; those found, in order (numbers by value), unless `classes` lists them. Raises DataError where
    there are no labels, no such column, fewer than two classes, or a label that `classes` does not list.
    """
    table = prepared.labels()
    if table is None:
        raise DataError(f"{prepared.folder}: holds no labels; prepare the log with --users TABLE.")
    known = [name for name in table.column_names if name != "user"]
    if column not in known:
        raise DataError(f"{prepared.folder}: the users table has no column {column!r}. {did_you_mean(column, known)}")
    values = table[column]
    if pa.types.is_floating(values.type) or pa.types.is_nested(values.type):
        raise DataError(f"{prepared.folder}: column {column!r} holds {values.type}; classes are text or integers.")
    text = pc.call_function("utf8_trim_whitespace", [pc.cast(values, pa.string())])
    filled = pc.fill_null(pc.call_function("not_equal", [text, pa.scalar("")]), False)
    labelled = pa.table({"user": table["user"], "label": text}).filter(filled)
    found = sorted(set(labelled["label"].to_pylist()), key=_by_value)
    if classes is not None:
        wrong = [label for label in found if label not in classes]
        if wrong:
            raise DataError(
                f"{prepared.folder}: column {column!r} holds {wrong[0]!r}, which is none of the task's classes: "
                f"{', '.join(classes)}."
            )
    names = tuple(found if classes is None else classes)
    if len(found) < 2:
        only = f"only the class {found[0]!r}" if found else "no label at all"
        raise DataError(f"{prepared.folder}: column {column!r} holds {only}; a classifier needs two classes.")
    position = prepared.sequences("histories").users.array
    place = _place_in(labelled["user"], position.combine_chunks())
    labels = _place_in(labelled["label"], pa.array(names))
    order = np.argsort(place, kind="stable")
    return Attribute(
        column=column,
        classes=names,
        users=np.asarray(labelled["user"].to_pylist(), dtype=np.str_)[order],
        rows=place[order],
        labels=labels[order],
        unlabelled=len(position) - len(place),
    )


def split_users(
    attribute: Attribute,
    *,
    fractions: tuple[float, float, float],
    stratified: bool,
    seed: int,
    budget: int | None = None,
) -> Split:
    """A seeded split by user; with `stratified` each class is divided in the same shares, rare ones into every part.

    With few labels there are more validation users than their fraction: a handful says nothing of when to stop.
    `budget` keeps so many of the training and validation users, a fifth of them for validation, every class in
    proportion; a smaller budget's users are among those of a larger one, and the test users stay the same. Raises
    SettingsError for a budget that is not there, DataError where a part would be empty or of one class only.
    """
    rng = np.random.default_rng((seed, 11))
    share = fractions[1] / (fractions[0] + fractions[1])
    learned = len(attribute) * (fractions[0] + fractions[1])
    share = max(share, min(FEWEST_VALIDATION / learned, 0.2)) if len(attribute) else share
    part = np.empty(len(attribute), dtype=np.int64)  # 0 train, 1 validation, 2 test
    place = np.empty(len(attribute))  # rank within class and part, in (0, 1): a prefix is in proportion
    strata = attribute.labels if stratified else np.zeros(len(attribute), dtype=np.int64)
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        test = _share(len(members), fractions[2])
        validation = _share(len(members) - test, share)
        cuts = [len(members) - test - validation, len(members) - test]
        for number, group in enumerate(np.split(members, cuts)):
            part[group] = number
        kept = members[: cuts[1]]
        place[kept] = (np.arange(len(kept)) + 0.5) / max(len(kept), 1)
    if budget is not None:
        part = _within(budget, part=part, place=place, strata=strata)
    split = Split(*(np.flatnonzero(part == number) for number in range(3)))
    for name, chosen in vars(split).items():
        if not len(chosen):
            raise DataError(
                f"column {attribute.column!r}: {len(attribute)} labelled users leave none for {name}; label more users "
                "or change the split's fractions."
            )
        if len(np.unique(attribute.labels[chosen])) < 2:
            raise DataError(
                f"column {attribute.column!r}: all {len(chosen)} {name} users are of one class; label more users, or "
                "split with stratified = true."
            )
    return split


def _share(count: int, fraction: float) -> int:
    """How many of `count` members go into a part: at least one, if that leaves any."""
    return min(max(round(count * fraction), 1), count - 1) if count > 1 else 0


def _within(budget: int, *, part: Ints, place: NDArray[np.float64], strata: Ints) -> Ints:
    """The parts with only `budget` users left for training and validation; the others get −1."""
    learned = np.flatnonzero(part < 2)
    if not 5 <= budget <= len(learned):
        raise SettingsError(
            f"--labels {budget}: there are {len(learned):,} labelled users beside those of the test; "
            f"give 5 to {len(learned)}."
        )
    chosen = learned[np.argsort(place[learned], kind="stable")[:budget]]
    limited = np.where(part == 2, 2, -1)
    limited[chosen] = 0
    for stratum in np.unique(strata[chosen]):
        members = chosen[strata[chosen] == stratum]
        limited[members[len(members) - _share(len(members), 0.2) :]] = 1
    return limited


def _place_in(values: pa.ChunkedArray, known: pa.Array) -> Ints:
    """Where each value stands in `known`, all of them being there."""
    found = pc.call_function("index_in", [values], pc.SetLookupOptions(value_set=known))
    return found.to_numpy().astype(np.int64)


def _by_value(label: str) -> tuple[int, float, str]:
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label
