"""What predict and encode share: the file they write, the users they are asked for."""

from pathlib import Path

import pyarrow as pa

from peterrec.data.logs.labels import read_labels
from peterrec.errors import SettingsError


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Raises SettingsError where `output` exists and may not be replaced, is a folder, or is not called .parquet."""
    if output.is_dir():
        raise SettingsError(f"--output {output} is a folder; name a file, such as {output / 'out.parquet'}.")
    if output.suffix.lower() != ".parquet":
        raise SettingsError(f"--output {output}: the file is Parquet; call it {output.with_suffix('.parquet')}.")
    if output.exists() and not overwrite:
        raise SettingsError(f"--output {output} exists; add --overwrite or choose another name.")


def wanted_users(table: Path | None, *, column: str) -> pa.ChunkedArray | None:
    """The users of a table; None without one. Raises DataError for a table that cannot be used."""
    if table is None:
        return None
    users, report = read_labels(table, user=column, known_users=None)
    if not report.ok:
        raise report.refusal()
    return users["user"]
