"""The users table (or that of items): one row each with what is known of them, checked like a log."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from peterrec.data.logs.columns import LogColumns
from peterrec.data.logs.database import temporary_database
from peterrec.data.logs.files import find_files
from peterrec.data.logs.parts import Part, Parts, refuse_lack_of_room
from peterrec.data.logs.plans import TABLE, plan_file, plan_table
from peterrec.data.logs.problems import SHOWN_OFFENDERS, CheckReport, Findings, Offender, clip
from peterrec.data.logs.sql import BLANK, identifier, json_objects, json_path

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_WHOLE, _NUMBER = "'-?(0|[1-9][0-9]{0,17})'", "'-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?'"


def read_labels(
    path: str | os.PathLike[str] | pa.Table,
    *,
    user: str = "user",
    known_users: pa.Array | pa.ChunkedArray | None = None,
    noun: Literal["user", "item"] = "user",
) -> tuple[pa.Table, CheckReport]:
    """The users table of a file (any format that a log may have) or of Arrow, and what is wrong with it.

    The table has the ids as text in the column `user` and all other columns as they are; in delimited text,
    columns of plain numbers become numbers and empty fields nulls. Rows without a user, and all but the first
    of a user's rows, are bad rows and left out. `known_users` are those of the log. `noun` is what the messages call
    the subject of a row; the table's column is `user` all the same.

    Raises ResourceError if memory or disk gives out.
    """
    import duckdb

    findings = Findings()
    columns = LogColumns(user=user, item=user, time=None)
    if isinstance(path, pa.Table):
        names, plans = [TABLE], [plan_table(path, columns, findings)]
    else:
        files = find_files(path, findings)
        names, plans = [f.name for f in files], [plan_file(f, columns, findings) for f in files]
        if len(files) > 1:
            fix = f"a table of {noun}s is one file; join its parts first"
            findings.add("several_files", "fatal", fix, offenders=[Offender(name) for name in names])
    table, rows, bad = pa.table({"user": pa.array([], pa.string())}), 0, 0
    part = plans[0] if len(plans) == 1 else None
    if part is not None and not _clashes(part, user, findings):
        with temporary_database("2GB", None, None) as con:
            try:
                users = _Users.read(con, part, user, noun, findings)
                if users is not None:
                    bad = users.check(known_users) + users.parts.rejected
                    rows = users.parts.rows + users.parts.rejected
                    table = users.table()
            except duckdb.Error as error:
                refuse_lack_of_room(error)
                raise
        if rows == bad and not findings.fatal:
            fix = "no row can be used" if rows else "there are no rows"
            findings.add("no_rows", "fatal", fix, offenders=[Offender(part.name)])
    return table, findings.report(rows_read=rows, bad_rows=bad, files=names)


def _clashes(part: Part, user: str, findings: Findings) -> bool:
    """Whether two columns of the table would have one name; that is a fatal problem."""
    names = ["user" if name == user else name for name in part.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    for name in twice:
        fix = "two columns would have this name; rename one"
        findings.add("duplicated_column", "fatal", fix, column=name, offenders=[Offender(part.name)])
    return bool(twice)


@dataclass
class _Users:
    """The rows of the table `labels(user, c0, c1, …, flaw)`, where c0, c1, … are the columns `names`."""

    con: "DuckDBPyConnection"
    parts: Parts
    column: str
    noun: str
    names: list[str]
    findings: Findings

    @classmethod
    def read(cls, con: "DuckDBPyConnection", part: Part, user: str, noun: str, findings: Findings) -> "_Users | None":
        """Reads the rows; None, with a fatal problem, if that fails."""
        names = [name for name in part.names if name != user]
        if part.text is None:
            relation = part.relation
            values = [identifier(name) for name in part.names]
        elif part.text.separator is not None:
            relation = part.relation
            values = [f"c{number}" for number in range(len(part.names))]
        else:
            relation = f"({json_objects(part.relation)})"
            values = [f"CASE WHEN good THEN json_extract(line, {json_path(name)}) END" for name in part.names]
        value = dict(zip(part.names, values, strict=True))
        flaw, of_user = "FALSE", f"CAST({value[user]} AS VARCHAR)"
        if part.text is not None and part.text.separator is None:
            kind = f"json_type({value[user]})"
            whole = f"{kind} NOT IN ('DOUBLE', 'BOOLEAN', 'ARRAY', 'OBJECT')"
            of_user = f"CASE WHEN {whole} THEN {value[user]} ->> '$' END"
            flaw = "NOT good"
        columns = [f"{value[name]} AS c{number}" for number, name in enumerate(names)]
        select = ", ".join([f"{of_user} AS user", *columns, f"{flaw} AS flaw"])
        parts = Parts()
        parts.add(con, part, findings, statement=f"CREATE TABLE labels AS SELECT {select} FROM {relation}")
        if not parts.read:
            return None
        users = cls(con, parts, user, noun, names, findings)
        if part.text is not None:
            users._settle_types(of_json=part.text.separator is None)
        return users

    def _settle_types(self, *, of_json: bool) -> None:
        """Turns columns of plain numbers into numbers, all else into text; empty fields become null."""
        settled: list[str] = []
        for number in range(len(self.names)):
            column = f"c{number}"
            if of_json:
                found = self._all(f"SELECT DISTINCT json_type({column}) FROM labels WHERE {column} IS NOT NULL")
                kinds = {kind for (kind,) in found} - {"NULL"}
                plain = f"({column} ->> '$')"
            else:
                plain = f"nullif({column}, '')"
                whole, number_, filled = self._all(
                    f"SELECT bool_and(regexp_full_match({plain}, {_WHOLE})), "
                    f"bool_and(regexp_full_match({plain}, {_NUMBER})), count({plain}) > 0 FROM labels"
                )[0]
                kinds = {"BIGINT"} if filled and whole else {"DOUBLE"} if filled and number_ else {"VARCHAR"}
            kind = "VARCHAR"
            if kinds and kinds <= {"BIGINT", "UBIGINT"}:
                kind = "BIGINT"
            elif kinds and kinds <= {"BIGINT", "UBIGINT", "DOUBLE"}:
                kind = "DOUBLE"
            elif kinds == {"BOOLEAN"}:
                kind = "BOOLEAN"
            settled.append(f"CAST({plain} AS {kind}) AS {column}")
        select = ", ".join(["user", *settled, "flaw"])
        self.con.execute(f"CREATE OR REPLACE TABLE labels AS SELECT {select} FROM labels ORDER BY rowid")

    def check(self, known: pa.Array | pa.ChunkedArray | None) -> int:
        """Reports what is wrong and keeps the sound rows in `sound_labels`; returns how many are not."""
        blank = f"(user IS NULL OR regexp_full_match(user, {BLANK}))"
        self._report("not_json", "flaw", "NULL", "not one JSON object; mend or remove the line", column=None)
        empty = f"the {self.noun} is missing; fill it (as text or a whole number) or remove the row"
        self._report("empty_id", f"{blank} AND NOT flaw", "user", empty, column=self.column)
        values = ", ".join(["0", *(f"c{number}" for number in range(len(self.names)))])
        self.con.execute(f"""CREATE TEMP TABLE twice AS SELECT user, list(rowid ORDER BY rowid) AS rows,
            count(DISTINCT hash({values})) > 1 AS conflict
            FROM labels WHERE NOT {blank} GROUP BY user HAVING count(*) > 1""")
        for conflict, what in (
            (True, "different values; keep the right one"),
            (False, "equal values; keep one"),
        ):
            self._report_twice(conflict=conflict, fix=f"the {self.noun} has several rows with {what}")
        self.con.execute(f"""CREATE TABLE sound_labels AS SELECT * FROM labels WHERE NOT {blank}
            AND rowid NOT IN (SELECT unnest(rows[2:]) FROM twice) ORDER BY rowid""")
        sound = self._all("SELECT count(*) FROM sound_labels")[0][0]
        if known is not None and sound:
            self._compare(known, sound)
        return self.parts.rows - sound

    def table(self) -> pa.Table:
        """The sound rows."""
        columns = [f"c{number} AS {identifier(name)}" for number, name in enumerate(self.names)]
        return self.con.sql(f"SELECT {', '.join(['user', *columns])} FROM sound_labels").to_arrow_table()

    def _report(self, rule: str, broken: str, value: str, fix: str, *, column: str | None) -> None:
        count = self._all(f"SELECT count(*) FROM labels WHERE {broken}")[0][0]
        if count:
            query = f"SELECT rowid, {value} FROM labels WHERE {broken} ORDER BY rowid LIMIT {SHOWN_OFFENDERS}"
            rows = self._all(query)
            offenders = [
                Offender(file, row, shown)
                for (file, row), (_, shown) in zip(self.parts.places([r for r, _ in rows]), rows, strict=True)
            ]
            self.findings.add(rule, "bad_row", fix, column=column, offenders=offenders, count=count)

    def _report_twice(self, *, conflict: bool, fix: str) -> None:
        count = self._all(f"SELECT sum(len(rows) - 1)::BIGINT FROM twice WHERE conflict = {conflict}")[0][0]
        if count:
            rows = self._all(
                f"SELECT user, rows[1], rows[2] FROM twice WHERE conflict = {conflict} ORDER BY rows[2] "
                f"LIMIT {SHOWN_OFFENDERS}"
            )
            offenders: list[Offender] = []
            for user, first, second in rows:
                (_, row), (file, again) = self.parts.places([first, second])
                offenders.append(Offender(file, again, f"{user} (also in row {row})"))
            rule = "conflicting_user" if conflict else "duplicate_user"
            self.findings.add(rule, "bad_row", fix, column=self.column, offenders=offenders, count=count)

    def _compare(self, known: pa.Array | pa.ChunkedArray, sound: int) -> None:
        """Notes users that are not in the log; if none is, the ids must be written in different ways."""
        self.con.register("known_arrow", pa.table({"user": known.cast(pa.string())}))
        self.con.execute("CREATE TEMP TABLE known AS SELECT user FROM known_arrow")
        absent = "FROM sound_labels AS s WHERE NOT EXISTS (SELECT 1 FROM known WHERE known.user = s.user)"
        count = self._all(f"SELECT count(*) {absent}")[0][0]
        if not count:
            return
        users = self._all(f"SELECT s.user {absent} ORDER BY s.rowid LIMIT {SHOWN_OFFENDERS}")
        offenders = [Offender(self.parts.read[0].name, None, user) for (user,) in users]
        if count < sound:
            fix = f"{count / sound:.1%} of these users are not in the log; they are left out"
            self.findings.add("unknown_user", "note", fix, column=self.column, offenders=offenders, count=count)
            return
        fix = f"none of these users is in the log, whose ids are written so: {self._examples()}"
        self.findings.add(
            "no_known_user", "fatal", fix + self._near(), column=self.column, offenders=offenders, count=count
        )

    def _examples(self) -> str:
        found = self._all("SELECT user FROM known LIMIT 3")
        return ", ".join(repr(clip(user)) for (user,) in found) or "(the log has no users)"

    def _near(self) -> str:
        """What would make the ids of both equal, if it is one of the usual slips."""
        slips = {
            "leading zeros": "ltrim({}, '0')",
            "spaces": "trim({})",
            "upper and lower case": "lower({})",
            "a trailing '.0'": "regexp_replace({}, '\\.0$', '')",
        }
        for slip, form in slips.items():
            equal = f"{form.format('s.user')} = {form.format('known.user')}"
            if self._all(f"SELECT 1 FROM sound_labels AS s JOIN known ON {equal} LIMIT 1"):
                return f"; they differ in {slip}"
        return ""

    def _all(self, query: str) -> list[tuple[Any, ...]]:
        return self.con.execute(query).fetchall()
