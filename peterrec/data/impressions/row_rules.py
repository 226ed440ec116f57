"""What each row of impressions must hold: numbers where numbers belong, weights, no conversion without a click."""

from collections.abc import Sequence
from dataclasses import dataclass

from peterrec.data.impressions.cells import no_number
from peterrec.data.impressions.reader import RawRows
from peterrec.data.impressions.schema import LabelRule
from peterrec.data.logs.problems import SHOWN_OFFENDERS, Findings, Offender
from peterrec.data.logs.rules import BAD
from peterrec.data.logs.sql import text
from peterrec.data.numbering import one_row

CLICK, CONVERSION = "click", "conversion"


@dataclass(frozen=True)
class _Rule:
    name: str
    column: str
    broken: str  # SQL condition over `joined`
    value: str  # SQL of the value to show
    fix: str


def label_value(raw: RawRows, rule: LabelRule) -> str:
    """The SQL of a label in `joined` and `sound`: DOUBLE, null where it is missing."""
    if rule.compare is None:
        return raw.number(rule.column)
    if isinstance(rule.value, str):
        holds = f"{raw.text(rule.column)} {_OPERATORS[rule.compare]} {text(rule.value.strip())}"
    else:
        holds = f"{raw.number(rule.column)} {_OPERATORS[rule.compare]} {rule.value!r}"
    return f"CASE WHEN {holds} THEN 1e0 WHEN NOT ({holds}) THEN 0e0 END"


_OPERATORS = {"==": "=", "!=": "<>", ">=": ">=", ">": ">", "<=": "<=", "<": "<"}


def sift_rows(
    raw: RawRows,
    *,
    labels: Sequence[LabelRule],
    numeric: Sequence[str],
    single: Sequence[str],
    weight: str | None,
    findings: Findings,
) -> None:
    """Reports each broken rule with its first offenders, and makes the table `sound` of the rows that broke none.

    `numeric` are the fields that were called numeric, `single` the columns in whose cells one value stands.
    """
    rules = [
        _Rule("label_value", rule.column, _no_number(raw, rule.column), raw.text(rule.column), _LABEL_FIX)
        for rule in labels
        if not isinstance(rule.value, str)
    ]
    rules += [
        _Rule("field_value", name, _no_number(raw, name), raw.text(name), _FIELD_FIX.format(name=name))
        for name in numeric
    ]
    rules += [
        _Rule("several_values", name, f"{raw.listed(name)} IS NOT NULL", f"CAST({raw.listed(name)} AS VARCHAR)", fix)
        for name in single
        for fix in ["a list where one value belongs; call such a field NAME:multi, or write one value"]
    ]
    rules += [
        _Rule("object_value", name, f"odd = {text(name)}", "NULL", "an object where a value belongs; mend the line")
        for name, table in raw.tables.items()
        if table == "rows"
    ]
    if weight is not None:
        cell = raw.text(weight)
        rules += [
            _Rule("empty_weight", weight, f"{cell} IS NULL", "NULL", "the weight is missing; fill it"),
            _Rule("weight_value", weight, _no_number(raw, weight), cell, "not a number; weights are numbers from 0 on"),
            _Rule("negative_weight", weight, f"{raw.number(weight)} < 0", cell, "a weight below 0; 0 leaves a row out"),
        ]
    by_name = {rule.name: rule for rule in labels}
    if {CLICK, CONVERSION} <= by_name.keys():
        click, conversion = (label_value(raw, by_name[name]) for name in (CLICK, CONVERSION))
        column = by_name[CONVERSION].column
        fix = "a conversion without a click; a conversion counts as one of a click, so mend the row, or call the label "
        fix += "otherwise"
        rules.append(
            _Rule("conversion_without_click", column, f"({conversion}) > 0 AND ({click}) = 0", raw.text(column), fix)
        )
    rules = list(dict.fromkeys(rules))
    counts = _report(raw, rules, findings)
    raw.con.execute(f"CREATE TABLE sound AS SELECT * FROM joined WHERE position NOT IN (SELECT position FROM {BAD})")
    if not one_row(raw.con, "SELECT count(*) FROM sound")[0]:
        fix = "no row can be used"
        if counts:  # an error names fatal problems alone
            rule = max(counts, key=lambda broken: counts[broken])
            fix += f"; in {counts[rule]:,} rows the column {rule.column!r} holds what it must not: {rule.fix}"
        else:
            broken = [each for each in raw.report(findings).problems if each.severity == "bad_row"]
            fix += f"; {max(broken, key=lambda each: each.count)}" if broken else ""
        findings.add("no_rows", "fatal", fix, offenders=[raw.place])


_LABEL_FIX = "not a number; a label is 0 or 1, or a number, or a comparison with one (--label click=rating>=4)"
_FIELD_FIX = "not a number; mend it, or call the field {name}:categorical"


def _no_number(raw: RawRows, name: str) -> str:
    return no_number(raw.text(name), raw.number(name))


def _report(raw: RawRows, rules: Sequence[_Rule], findings: Findings) -> dict[_Rule, int]:
    """How many rows break each rule that any does."""
    if not rules:
        return {}
    totals = one_row(raw.con, f"SELECT {', '.join(f'count(*) FILTER ({rule.broken})' for rule in rules)} FROM joined")
    for rule, count in zip(rules, totals, strict=True):
        if count:
            rows = raw.con.execute(
                f"SELECT position, left({rule.value}, 200) FROM joined WHERE {rule.broken} "
                f"ORDER BY position LIMIT {SHOWN_OFFENDERS}"
            ).fetchall()
            places = raw.parts.places([position for position, _ in rows])
            offenders = [Offender(file, row, value) for (file, row), (_, value) in zip(places, rows, strict=True)]
            findings.add(rule.name, "bad_row", rule.fix, column=rule.column, offenders=offenders, count=count)
            raw.con.execute(
                f"INSERT INTO {BAD} SELECT position FROM joined WHERE {rule.broken} EXCEPT SELECT position FROM {BAD}"
            )
    return {rule: count for rule, count in zip(rules, totals, strict=True) if count}
