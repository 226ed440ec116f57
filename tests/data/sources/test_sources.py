"""The choice of a reader."""

from pathlib import Path

import pytest

from peterrec.data.logs.columns import LogColumns
from peterrec.data.sources import READERS, detect, load
from peterrec.errors import DataError, SettingsError


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "seq.txt"
    path.write_text("1,2,3,4,5\n0,0,6,7,8\n")
    return path


def test_every_reader_is_a_module_of_its_name() -> None:
    folder = Path(__file__).parents[3] / "peterrec" / "data" / "sources"
    modules = {file.stem for file in folder.glob("*.py")} - {"__init__", "source", "delimited"}
    assert set(READERS) == modules
    assert all(reader.load.__module__.endswith(f".{name}") for name, reader in READERS.items())


def test_one_reader_alone_knows_a_file(text: Path) -> None:
    assert [name for name, reader in READERS.items() if reader.matches(text)] == ["peterrec_text"]


def test_columns_are_no_choice_in_a_fixed_format(text: Path) -> None:
    with pytest.raises(SettingsError, match="the format peterrec_text has columns of its own"):
        load(text, columns=LogColumns("a", "b", None))


def test_unknown_formats(text: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown format 'movie_lens'\. Did you mean 'movielens'"):
        load(text, reader="movie_lens")
    absent = tmp_path / "absent.csv"
    assert detect(absent) is None
    with pytest.raises(SettingsError, match="none of the known public formats"):
        load(absent)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    for reader in ("tenrec", "peterrec_text", "movielens"):
        with pytest.raises(DataError, match="absent"):
            load(tmp_path / "absent.csv", reader=reader)


def test_names_with_pattern_characters_and_quotes(tmp_path: Path) -> None:
    folder = tmp_path / "it's [a]*?"
    folder.mkdir()
    (folder / "ratings.dat").write_text("1::2::3::4\n")
    assert load(folder).log.num_rows == 1
    log = load(folder, work=tmp_path / "[w]*").log
    assert [path.parent.name for path in log] == ["[w]*"]
