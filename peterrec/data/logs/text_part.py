"""One text file on its way into the raw events: how it is parsed, what is rejected, each row's line."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from peterrec.data.logs.files import LogFile
from peterrec.data.logs.problems import SHOWN_OFFENDERS, Findings, Offender
from peterrec.data.logs.sql import text
from peterrec.data.logs.text_lines import lines_at, rows_at
from peterrec.data.logs.text_scan import TextFacts

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_NEVER = "\x02"  # stands for null, so that an empty field stays an empty text
_REJECTS = {
    "MISSING COLUMNS": ("too_few_fields", "too few fields (the header has {width}); mend the line"),
    "TOO MANY COLUMNS": (
        "too_many_fields",
        "too many fields (the header has {width}); quote a value that holds the separator, or mend the line",
    ),
    "UNQUOTED VALUE": (
        "quotes",
        "a quote is not closed, or stands inside a value; close it, or double it there",
    ),
    "INVALID ENCODING": (
        "not_utf8",
        "not UTF-8; if the file is Latin-1, convert it: `iconv -f LATIN1 -t UTF-8`",
    ),
    "LINE SIZE OVER MAXIMUM": (
        "line_too_long",
        "longer than 2 MB; a closing quote or a newline may be missing",
    ),
}
# csv_line can hold everything behind an open quote; only its beginning is taken out of the engine.
_FIRST_REJECTS = f"""SELECT error_type, line, line_byte_position, left(csv_line, 100),
    count(*) OVER (PARTITION BY error_type) AS total FROM
    (SELECT * FROM reject_errors
     QUALIFY row_number() OVER (PARTITION BY line_byte_position ORDER BY column_idx) = 1)
    QUALIFY row_number() OVER (PARTITION BY error_type ORDER BY line_byte_position) <= {SHOWN_OFFENDERS}
    ORDER BY line_byte_position"""
_SWALLOWED = r"""SELECT coalesce(sum(length(body) - length(replace(body, chr(10), ''))), 0)::BIGINT FROM
    (SELECT DISTINCT line_byte_position, regexp_replace(csv_line, '^\s+|\s+$', '', 'g') AS body
     FROM reject_errors WHERE contains(csv_line, chr(10)))"""


@dataclass
class TextPart:
    """A CSV, TSV or JSON-lines file; `separator` is None for JSON lines, which have no header."""

    file: LogFile
    facts: TextFacts
    separator: str | None = None
    width: int = 1
    header_lines: int = 0
    reject_lines: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    plain: bool = True  # no blank lines among the rows, no line breaks inside values: lines can be counted off

    def relation(self, *, rejects: bool = True) -> str:
        """The table function: every column text, `c0`, `c1`, … or `line`; rows that do not fit are left out.

        With `rejects` they go to the temporary table `reject_errors`.
        """
        names = [f"c{n}" for n in range(self.width)] if self.separator else ["line"]
        columns = ", ".join(f"{text(name)}: 'VARCHAR'" for name in names)
        quote = "'\"'" if self.separator else "''"
        skip = 1 + self.facts.leading_blank if self.header_lines else 0
        errors = "store_rejects = TRUE, rejects_limit = 0" if rejects else "ignore_errors = TRUE"
        return f"""read_csv([{text(self.file.pattern)}], columns = {{{columns}}},
            {errors}, delim = {text(self.separator or chr(1))}, quote = {quote}, escape = {quote},
            nullstr = {text(_NEVER)}, header = FALSE, skip = {skip}, auto_detect = FALSE, strict_mode = TRUE,
            hive_partitioning = FALSE, compression = {"'gzip'" if self.file.gzipped else "'none'"})"""

    def account(self, con: "DuckDBPyConnection", *, accepted: int, findings: Findings) -> int:
        """Reports rejected lines and lines that vanished; returns the number of rejected rows.

        The engine can lose thousands of lines behind one open quote, so every line must be accounted for.
        """
        byte_and_line = "line_byte_position AS byte, min(line) AS line"
        query = f"SELECT {byte_and_line} FROM reject_errors GROUP BY ALL ORDER BY byte"
        places = con.execute(query).fetchnumpy()
        self.reject_lines = np.asarray(places["line"], dtype=np.int64)
        first = con.execute(_FIRST_REJECTS).fetchall()
        swallowed = _one(con, _SWALLOWED)
        con.execute("DROP TABLE reject_errors; DROP TABLE reject_scans")

        rejected = len(self.reject_lines)
        filled = self.facts.lines - self.facts.blank
        seen = self.header_lines + accepted + rejected + swallowed
        inside = 0
        if seen != filled and self.separator is not None:
            breaks = " + ".join(f"length(c{n}) - length(replace(c{n}, chr(10), ''))" for n in range(self.width))
            inside = _one(con, f"SELECT coalesce(sum({breaks}), 0)::BIGINT FROM {self.relation(rejects=False)}")
        self.plain = not inside and not swallowed and self.facts.blank == self.facts.leading_blank
        if inside or swallowed:  # then the engine counts records, not lines
            offsets = np.asarray(places["byte"], dtype=np.int64) - 1
            self.reject_lines = np.asarray(lines_at(self.file, offsets.tolist()), dtype=np.int64)

        line_of = dict(zip(places["byte"].tolist(), self.reject_lines.tolist(), strict=False))
        offenders: dict[str, list[Offender]] = {}
        totals: dict[str, int] = {}
        for kind, line, byte, body, total in first:
            place = Offender(self.file.name, line_of.get(byte, line), body.strip("\r\n"))
            offenders.setdefault(kind, []).append(place)
            totals[kind] = total
        for kind, places_of_kind in offenders.items():
            rule, fix = _REJECTS.get(kind, ("unreadable_line", f"the line cannot be read ({kind.lower()}); mend it"))
            fix = fix.format(width=self.width)
            findings.add(rule, "bad_row", fix, offenders=places_of_kind, count=totals[kind])

        # Blank lines may stand between rows or inside quotes, so the count is known only within their number.
        seen += inside
        lost = swallowed + (0 if filled <= seen <= self.facts.lines else abs(filled - seen))
        if lost:
            where = offenders.get("UNQUOTED VALUE", [])
            fix = f"{lost:,} lines are lost, most likely behind a quote that is never closed; close it"
            findings.add("lost_lines", "fatal", fix, offenders=where[:1] or [Offender(self.file.name)])
        return rejected

    def lines(self, rows: Collection[int]) -> dict[int, int]:
        """The 1-based lines of the 0-based accepted `rows`."""
        header = self.header_lines
        if not self.plain:
            rejected = set(self.reject_lines.tolist())
            return rows_at(self.file, rows, separator=self.separator, header=header > 0, rejected=rejected)
        wanted = np.fromiter(rows, np.int64, len(rows))
        base = self.facts.leading_blank + header + 1 + wanted
        before = np.searchsorted(self.reject_lines - np.arange(len(self.reject_lines)), base, side="right")
        return dict(zip(wanted.tolist(), (base + before).tolist(), strict=True))


def _one(con: "DuckDBPyConnection", query: str) -> Any:
    (row,) = con.execute(query).fetchall()
    return row[0]
