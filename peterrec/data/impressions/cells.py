"""The SQL of single cells: every kind of column as text, as a list of texts, and as a number."""

from typing import NamedTuple

from peterrec.data.logs.sql import json_path

_NUMBER = r"'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?'"
_LARGEST = 3e38  # about what float32 holds
_BLANKS = "' ' || chr(9) || chr(10) || chr(13) || chr(160)"


class Cell(NamedTuple):
    """A cell as SQL: its text without blanks around it, its values as a list, its finite number; null where not."""

    text: str = "NULL::VARCHAR"
    listed: str = "NULL::VARCHAR[]"
    number: str = "NULL::DOUBLE"


def typed_cell(column: str, kind: str) -> Cell | None:
    """A column of the engine's type `kind`; None for structures, maps and bytes.

    A whole number in a column of floats is written without its fraction, since columns of whole numbers become floats
    where some are missing.
    """
    if kind.endswith("]"):
        inner = kind[: kind.rindex("[")]
        if _nested(inner) or inner.endswith("]"):
            return None
        return Cell(listed=_list(f"[{_text('x', inner)} FOR x IN {column}::{inner}[]]"))
    if _nested(kind):
        return None
    text = _text(column, kind)
    if kind == "VARCHAR" or kind.startswith("ENUM"):
        return Cell(_filled(text), number=_number(text))
    if kind == "BOOLEAN":
        return Cell(text, number=f"CAST({column} AS DOUBLE)")
    if not kind.startswith(("FLOAT", "DOUBLE", "DECIMAL")) and not kind.endswith(("INT", "INTEGER")):
        return Cell(text)  # a date, a time, a UUID
    value = f"CAST({column} AS DOUBLE)"
    return Cell(text, number=f"CASE WHEN abs({value}) <= {_LARGEST} THEN {value} END")


def json_cell(line: str, key: str) -> tuple[Cell, str]:
    """A key of a JSON object, and whether it holds an object itself, which is no value."""
    value = f"json_extract({line}, {json_path(key)})"
    kind = f"json_type({value})"
    plain = f"({value} ->> '$')"
    decimal = _text(f"TRY_CAST({plain} AS DOUBLE)", "DOUBLE")
    text = f"CASE WHEN {kind} = 'DOUBLE' THEN {decimal} WHEN {kind} NOT IN ('ARRAY', 'OBJECT') THEN {plain} END"
    several = f"CASE WHEN {kind} = 'ARRAY' THEN TRY_CAST({value} AS VARCHAR[]) END"
    return Cell(_filled(text), _list(several), _number(text)), f"{kind} = 'OBJECT'"


def no_number(text: str, number: str) -> str:
    """Whether a cell is filled, and not by a number; NaN counts as missing."""
    return f"({text} IS NOT NULL AND {number} IS NULL AND lower({text}) <> 'nan')"


def members(text: str, listed: str) -> str:
    """The values of a cell of several: its list, or its text `a|b` taken apart; null where there is none."""
    apart = _list(f"string_split({text}, '|')")
    return f"coalesce({listed}, {apart})"


def _filled(text: str) -> str:
    return f"nullif(trim({text}, {_BLANKS}), '')"


def _list(several: str) -> str:
    return f"[{_filled('x')} FOR x IN {several} IF {_filled('x')} IS NOT NULL]"


def _number(text: str) -> str:
    bare = _filled(text)
    value = f"TRY_CAST({bare} AS DOUBLE)"
    return f"""CASE WHEN lower({bare}) = 'true' THEN 1.0 WHEN lower({bare}) = 'false' THEN 0.0
        WHEN abs({value}) <= {_LARGEST} AND regexp_full_match({bare}, {_NUMBER}) THEN {value} END"""


def _text(column: str, kind: str) -> str:
    if kind in ("FLOAT", "DOUBLE"):
        whole = f"{column} = trunc({column}) AND abs({column}) < 1e15"
        return f"""CASE WHEN isnan({column}) THEN NULL WHEN {whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR)
            ELSE CAST({column} AS VARCHAR) END"""
    return f"CAST({column} AS VARCHAR)"


def _nested(kind: str) -> bool:
    return kind.startswith(("STRUCT", "MAP", "UNION", "BLOB", "BIT"))
