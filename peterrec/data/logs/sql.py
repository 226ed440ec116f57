"""The SQL that turns columns of every kind into ids as text and times as whole numbers.

Each `SELECT` here yields the columns of `raw_events`: user, item (text or null), ticks (a whole number of a
unit yet unknown), micros (microseconds since 1970, UTC), and flaw_rule, flaw_column, flaw_value of a value
that is neither.
"""

from peterrec.data.logs.columns import LogColumns, TimeKind

RAW = "raw_events"
CREATE_RAW = f"""CREATE TABLE {RAW} (user VARCHAR, item VARCHAR, ticks BIGINT, micros BIGINT,
    flaw_rule VARCHAR, flaw_column VARCHAR, flaw_value VARCHAR)"""
BLANK = r"'[\s\p{Z}]*'"
# A number of seconds since 1970 lies between March 1973 and the year 2100; the same in ms, µs and ns.
FIRST_SECOND, LAST_SECOND = 100_000_000, 4_102_444_800
_WHOLE = "'[+-]?[0-9]+'"
_DECIMAL = r"'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE]\+?[0-9]+)?'"
_JSON_TEXT = "('VARCHAR', 'UBIGINT', 'BIGINT', 'UHUGEINT', 'HUGEINT')"


def text(value: object) -> str:
    """A string literal."""
    return "'" + str(value).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def json_path(key: str) -> str:
    """A JSON pointer to a key of an object, as a string literal."""
    return text("/" + key.replace("~", "~0").replace("/", "~1"))


def typed(relation: str, columns: LogColumns, *, time: TimeKind | None) -> str:
    """Of Parquet, Arrow and tables: columns whose types were found to be ids and times."""
    when = "NULL::VARCHAR" if columns.time is None else identifier(columns.time)
    user, item = identifier(columns.user), identifier(columns.item)
    inner = f"""SELECT CAST({user} AS VARCHAR) AS u, CAST({item} AS VARCHAR) AS i, {when} AS t,
        NULL::VARCHAR AS rule, NULL::VARCHAR AS col, NULL::VARCHAR AS val FROM {relation}"""
    return _timed(inner, columns, time=time)


def delimited(relation: str, columns: LogColumns, *, names: dict[str, str], separator: str) -> str:
    """Of text with separators, every column text; `names` are the columns' names in the relation."""
    user, item = names[columns.user], names[columns.item]
    when = "NULL::VARCHAR" if columns.time is None else names[columns.time]
    broken = f"CASE WHEN {_broken(user)} THEN {user} WHEN {_broken(item)} THEN {item} END"
    column = f"CASE WHEN {_broken(user)} THEN {text(columns.user)} ELSE {text(columns.item)} END"
    inner = f"""SELECT u, i, t, CASE WHEN contains(val, {text(separator)}) THEN 'rows_in_quotes'
            WHEN val IS NOT NULL THEN 'line_break' END AS rule,
            CASE WHEN val IS NOT NULL THEN col END AS col, val FROM
        (SELECT {user} AS u, {item} AS i, {when} AS t, {column} AS col, {broken} AS val FROM {relation})"""
    return _timed(inner, columns, time=None if columns.time is None else "text")


def json_lines(relation: str, columns: LogColumns) -> str:
    """Of JSON lines in a column `line`: ids are strings or whole numbers, exact whatever their size."""
    fields = [columns.user, columns.item] + ([] if columns.time is None else [columns.time])
    paths = "[" + ", ".join(map(json_path, fields)) + "]"
    # CASE, not AND: on a line that is not JSON the functions would fail.
    objects = json_objects(relation)
    values = f"""SELECT line, good, CASE WHEN good THEN json_extract_string(line, {paths}) END AS v,
        CASE WHEN good THEN json_type(line, {paths}) END AS k FROM ({objects})"""

    def wrong(n: int, *, number: bool = False) -> str:
        whole = "TRUE" if number else f"regexp_full_match(v[{n}], '-?[0-9]+')"
        whole = f"(k[{n}] = 'DOUBLE' AND {whole})"
        return f"(v[{n}] IS NOT NULL AND k[{n}] NOT IN {_JSON_TEXT} AND NOT {whole})"

    def right(n: int, *, number: bool = False) -> str:
        return f"CASE WHEN NOT {wrong(n, number=number)} THEN v[{n}] END"

    flaws = [("id_value", columns.user, wrong(1), "v[1]"), ("id_value", columns.item, wrong(2), "v[2]")]
    if columns.time is not None:
        flaws.append(("time_value", columns.time, wrong(3, number=True), "v[3]"))

    def case(of: int) -> str:
        whens = " ".join(f"WHEN {f[2]} THEN {f[3] if of == 3 else text(f[of])}" for f in flaws)
        none = {0: "'not_json'", 1: "NULL", 3: "left(line, 100)"}[of]
        return f"CASE WHEN NOT good THEN {none} {whens} END"

    when = "NULL::VARCHAR" if columns.time is None else right(3, number=True)
    inner = f"""SELECT {right(1)} AS u, {right(2)} AS i, {when} AS t,
        {case(0)} AS rule, {case(1)} AS col, {case(3)} AS val FROM ({values})"""
    return _timed(inner, columns, time=None if columns.time is None else "text")


def json_objects(relation: str) -> str:
    """Lines, and whether each is a `good` one, that is an object."""
    good = "CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' ELSE FALSE END"
    return f"SELECT line, {good} AS good FROM {relation}"


def _broken(column: str) -> str:
    return f"(contains({column}, chr(10)) OR contains({column}, chr(13)))"


def _timed(inner: str, columns: LogColumns, *, time: TimeKind | None) -> str:
    """Adds ticks and micros to `inner` (u, i, t, rule, col, val)."""
    near = f"BETWEEN {FIRST_SECOND} AND {LAST_SECOND}"
    if time is None:
        return f"SELECT u, i, NULL::BIGINT, NULL::BIGINT, rule, col, val FROM ({inner})"
    if time == "timestamp":
        numbers = "NULL::BIGINT AS ticks, TRY(epoch_us(CAST(t AS TIMESTAMPTZ))) AS micros"
    elif time == "integer":
        numbers = "TRY_CAST(t AS BIGINT) AS ticks, NULL::BIGINT AS micros"
    elif time == "float":  # seconds may have a fraction; other floats must be whole
        numbers = f"""CASE WHEN t NOT {near} AND t = trunc(t) AND abs(t) < 9007199254740992
                THEN TRY_CAST(t AS BIGINT) END AS ticks,
            CASE WHEN t {near} THEN CAST(round(t * 1000000) AS BIGINT) END AS micros"""
    else:
        # A plain whole number is what nearly all logs hold, so it is told without a pattern; the cast alone
        # would also take 12.5, 0x10 and 1_000.
        bare = "nullif(regexp_replace(t, '^\\s+|\\s+$', '', 'g'), '')"
        inner = f"SELECT u, i, {bare} AS t, rule, col, val FROM ({inner})"
        whole = f"CAST(n AS VARCHAR) = t OR regexp_full_match(t, {_WHOLE})"
        inner = f"""SELECT *, CASE WHEN {whole} THEN n END AS w FROM
            (SELECT *, TRY_CAST(t AS BIGINT) AS n FROM ({inner}))"""
        inner = f"""SELECT *, CASE WHEN w IS NULL AND regexp_full_match(t, {_DECIMAL})
            THEN TRY_CAST(t AS DECIMAL(38, 6)) END AS d FROM ({inner})"""
        numbers = f"""CASE WHEN w IS NOT NULL THEN w
                WHEN d NOT {near} AND d = trunc(d) THEN TRY_CAST(d AS BIGINT) END AS ticks,
            CASE WHEN w IS NOT NULL OR t IS NULL THEN NULL
                 WHEN d {near} THEN CAST(d * 1000000 AS BIGINT)
                 WHEN d IS NULL THEN TRY(epoch_us(TRY_CAST(t AS TIMESTAMPTZ))) END AS micros"""
    column = text(columns.time)
    unread = "rule IS NULL AND t IS NOT NULL AND ticks IS NULL AND micros IS NULL"
    return f"""SELECT u, i, ticks, micros, CASE WHEN {unread} THEN 'time_value' ELSE rule END,
        CASE WHEN {unread} THEN {column} ELSE col END,
        CASE WHEN {unread} THEN left(CAST(t AS VARCHAR), 100) ELSE val END FROM
        (SELECT u, i, t, rule, col, val, {numbers} FROM ({inner}))"""
