"""Raw and prepared impressions of the embedded world, small, for tests; not a test module."""

import csv
from pathlib import Path

import pyarrow as pa

from peterrec.data.impressions.history import History
from peterrec.data.impressions.preparation import Sources
from peterrec.data.impressions.side_table import side_tables
from peterrec.data.impressions.wanted import Wanted, parse_field, parse_label, split_rule
from peterrec.encoders.loading import open_encoder
from peterrec.stages import prepare_impressions
from peterrec.stages.world import COLUMNS, log_files

FIELDS = ("item", "position", "device", "dice:numeric", "tags:multi", "gender")
LABELS = ("click", "conversion")
QUICK = ["epochs=2", "rows=256", "device=cpu", "warmup=2", "learning_rate=0.01"]


def raw_rows(world: Path, *, first: int = 0, number: int = 900) -> list[dict[str, str]]:
    """Some of the world's impressions as a file holds them; every other item is one that the encoder knows."""
    rows = list(csv.DictReader((world / "impressions.csv").read_text().splitlines()))[first : first + number]
    for place, row in enumerate(rows):
        if place % 2:
            row["item"] = f"i{place % 7:04d}"
        row["dice"] = f"{(place * 37 % 101) / 10:.1f}"
        row["tags"] = "|".join(f"t{n}" for n in range(place % 3))
        if place % 11 == 0:
            row["device"] = ""
    return rows


def table_of(rows: list[dict[str, str]], *, without: tuple[str, ...] = ()) -> pa.Table:
    """Rows as a table of text, with missing cells for empty ones."""
    names = [name for name in rows[0] if name not in without]
    return pa.table({name: pa.array([row[name] or None for row in rows], pa.string()) for name in names})


def wanted(*, labels: tuple[str, ...] = LABELS, fields: tuple[str, ...] = FIELDS, split: str | None = None) -> Wanted:
    return Wanted(
        labels=tuple(map(parse_label, labels)),
        fields=tuple(map(parse_field, fields)),
        user="user",
        item="item",
        time="timestamp",
        domain="domain",
        split=split_rule(split, fractions=None, user=True, time=True),
    )


def prepare(world: Path, output: Path, *, rows: list[dict[str, str]], encoder: Path | None = None, **changes) -> Path:
    """Impressions prepared from `rows`, with the world's log as history where there is an encoder."""
    history = None
    if encoder is not None:
        history = History([str(path) for path in log_files(world)], COLUMNS, open_encoder(encoder)[1])
    sources = Sources(table_of(rows), side_tables(users=world / "users.csv"), history)
    prepare_impressions.run(sources, wanted=wanted(**changes), output=output)
    return output
