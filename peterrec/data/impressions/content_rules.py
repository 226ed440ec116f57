"""What a whole table of impressions must hold: labels of both kinds, and no field that is a label in disguise."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from peterrec.data.impressions.reader import RawRows
from peterrec.data.impressions.row_rules import label_value
from peterrec.data.impressions.schema import FieldSpec, Kind, LabelRule
from peterrec.data.impressions.wanted import WantedField
from peterrec.data.logs.problems import Findings
from peterrec.data.numbering import one_row

FIRST_ROWS = 1000
MOST_CATEGORIES = 100  # a column with more different numbers is one of numbers, unless it was called otherwise


def settle_kinds(raw: RawRows, fields: Sequence[WantedField], *, ids: Sequence[str | None]) -> tuple[FieldSpec, ...]:
    """The fields with their kinds, told by the sound rows where they were not named.

    A column of lists holds several values, one of numbers with more than 100 different ones is numeric, all others
    are categorical; so are those of users, items and domains (`ids`), whatever their numbers.
    """
    settled = []
    for field in fields:
        kind: Kind = field.kind or "categorical"
        if field.kind is None and field.name not in ids:
            text, number = raw.text(field.name), raw.number(field.name)
            lists, texts, numbers = one_row(
                raw.con,
                f"SELECT count({raw.listed(field.name)}), count({text}) - count({number}), count(DISTINCT {number}) "
                "FROM sound",
            )
            kind = "multi" if lists else "numeric" if not texts and numbers > MOST_CATEGORIES else "categorical"
        settled.append(FieldSpec(name=field.name, kind=kind, table=raw.tables[field.name]))
    return tuple(settled)


def refuse_useless_labels(raw: RawRows, labels: Sequence[LabelRule], findings: Findings) -> None:
    """A fatal problem for each label that is always missing, or the same in all rows that have it."""
    for rule in labels:
        value = label_value(raw, rule)
        known, low, high = one_row(raw.con, f"SELECT count({value}), min({value}), max({value}) FROM sound")
        if known and low < high:
            continue
        if not known:
            fix = f"the label {rule.name!r} is missing in all rows; is it the right column?"
        elif low in (0, 1):
            kind = "negative" if low else "positive"
            fix = f"the label {rule.name!r} is {low:g} in all {known:,} rows that have it: there is no {kind} row"
            fix += " to learn from; give other rows, or another rule"
        else:
            fix = f"the label {rule.name!r} is {low:g} in all {known:,} rows that have it: there is nothing to learn"
        findings.add("label_constant", "fatal", fix, column=rule.column, offenders=[raw.place])


def refuse_leaks(
    raw: RawRows, fields: Sequence[FieldSpec], labels: Sequence[LabelRule], *, domain: str | None, findings: Findings
) -> None:
    """A fatal problem for each field, or domain, that equals a label, its opposite or a product of two in all rows.

    Rows without the label do not count.
    """
    read = [field.name for field in fields if field.kind != "multi"]
    read += [domain] if domain is not None and domain not in read else []
    value = {rule.name: label_value(raw, rule) for rule in labels}
    if not read or not value:
        return
    found: dict[str, list[str]] = {}
    for column, name in _equal(raw, _alike(raw, read, value)):
        found.setdefault(column, []).append(name)
    for column, same in found.items():
        what = f"label {same[0]!r}" if "×" not in same[0] else f"product of the labels {same[0]}"
        fix = f"equals the {what} (or its opposite) in all rows, so the network would read what it is to predict; "
        fix += "do not name it as a field"
        findings.add("label_as_field", "fatal", fix, column=column, offenders=[raw.place])


def _alike(raw: RawRows, read: Sequence[str], value: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """The columns of `read` and the labels, or products of two, that could be equal by the first rows, with their SQL.

    Of many labels there are very many products, and hardly one is like a field for a thousand rows.
    """
    columns = ", ".join([*value.values(), *map(raw.number, read)])
    rows = raw.con.execute(f"SELECT {columns} FROM sound LIMIT {FIRST_ROWS}").fetchall()
    cells = np.array(rows, dtype=np.float64).reshape(len(rows), len(value) + len(read)).T
    of_label = dict(zip(value, cells, strict=False))
    products = dict(value)
    for a, b in combinations(value, 2):
        of_label[f"{a} × {b}"] = of_label[a] * of_label[b]
        products[f"{a} × {b}"] = f"({value[a]}) * ({value[b]})"
    found = {}
    for column, number in zip(read, cells[len(value) :], strict=True):
        for name, label in of_label.items():
            known = ~np.isnan(label)
            if any(np.array_equal(number[known], one[known]) for one in (label, 1 - label)):
                found[column, name] = products[name]
    return found


def _equal(raw: RawRows, pairs: Mapping[tuple[str, str], str]) -> list[tuple[str, str]]:
    """Those of the `pairs` of a column and a label that are equal, or opposite, in all rows that have the label."""
    if not pairs:
        return []
    cells = ", ".join(
        f"{raw.number(column)} AS f{place}, {sql} AS v{place}" for place, ((column, _), sql) in enumerate(pairs.items())
    )
    tests = [
        f"bool_and(f{k} IS NOT DISTINCT FROM v{k}) FILTER (v{k} IS NOT NULL) OR "
        f"bool_and(f{k} IS NOT DISTINCT FROM 1 - v{k}) FILTER (v{k} IS NOT NULL)"
        for k in range(len(pairs))
    ]
    equal = one_row(raw.con, f"SELECT {', '.join(tests)} FROM (SELECT {cells} FROM sound)")
    return [pair for pair, same in zip(pairs, equal, strict=True) if same]
