"""MovieLens folders in their published layouts, whole and damaged."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.sources import detect, load
from peterrec.errors import DataError

RATINGS = [(1, 1193, 5, 978300760), (1, 661, 3, 978302109), (6040, 1, 4, 956703932), (1, 1193, 4, 978300760)]


def rows(source) -> list[tuple]:
    log = source.log if isinstance(source.log, pa.Table) else pq.read_table(source.log[0])
    return [tuple(row.values()) for row in log.to_pylist()]


@pytest.fixture
def ml_1m(tmp_path: Path) -> Path:
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in RATINGS))
    (folder / "users.dat").write_text("1::F::1::10::48067\n6040::M::25::6::98107-2117\n")
    movies = '1::Toy Story (1995)::Animation|Children\'s|Comedy\n73::Misérables, "Les" (1995)::Drama|Musical\n'
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    return folder


@pytest.fixture
def ml_100k(tmp_path: Path) -> Path:
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATINGS))
    (folder / "u.user").write_text("1|24|M|technician|85711\n6040|53|F|other|T8H1N\n")
    flags = ["0"] * 19
    flags[3] = flags[4] = "1"
    item = ["1", "Café Story (1995)", "01-Jan-1995", "", "http://us.imdb.com/x", *flags]
    (folder / "u.item").write_bytes(("|".join(item) + "\n").encode("latin-1"))
    return folder


@pytest.fixture
def ml_20m(tmp_path: Path) -> Path:
    folder = tmp_path / "ml-20m"
    folder.mkdir()
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n1,29,3.5,1112484676\n")
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n1,Toy Story (1995),Animation\n11,"American ""Pie"", The (1995)",Comedy\n',
        encoding="utf-8",
    )
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n18,4141,x,1240597180\n")
    return folder


@pytest.mark.parametrize("in_memory", [True, False])
def test_1m(ml_1m: Path, tmp_path: Path, in_memory: bool) -> None:
    assert detect(ml_1m) == detect(ml_1m / "ratings.dat") == "movielens"
    work = tmp_path / "work"
    source = load(ml_1m, work=None if in_memory else work)
    assert isinstance(source.log, pa.Table) == in_memory
    assert rows(source) == [(str(u), str(i), float(r), t) for u, i, r, t in RATINGS]
    assert source.users is not None
    assert source.users.to_pylist() == [
        {"user": "1", "gender": "F", "age": "1", "occupation": "10", "zip": "48067"},
        {"user": "6040", "gender": "M", "age": "25", "occupation": "6", "zip": "98107-2117"},
    ]
    assert source.items is not None
    assert source.items.to_pylist()[1] == {
        "item": "73",
        "title": 'Misérables, "Les" (1995)',
        "genres": "Drama|Musical",
    }
    assert (source.columns.user, source.columns.item, source.columns.time) == ("user", "item", "time")


def test_10m_is_utf8_and_without_users(ml_1m: Path) -> None:
    (ml_1m / "users.dat").unlink()
    (ml_1m / "movies.dat").write_text("1::Misérables (1995)::Drama\n", encoding="utf-8")
    (ml_1m / "ratings.dat").write_text("1::122::4.5::838985046\n")
    source = load(ml_1m)
    assert source.users is None
    assert rows(source) == [("1", "122", 4.5, 838985046)]
    assert source.items is not None
    assert source.items["title"].to_pylist() == ["Misérables (1995)"]


def test_100k(ml_100k: Path) -> None:
    source = load(ml_100k / "u.data")
    assert source.name == "movielens"
    assert rows(source) == [(str(u), str(i), float(r), t) for u, i, r, t in RATINGS]
    assert source.users is not None
    assert source.users["age"].to_pylist() == ["24", "53"]
    assert source.users["gender"].to_pylist() == ["M", "F"]
    assert source.items is not None
    assert source.items.to_pylist() == [{"item": "1", "title": "Café Story (1995)", "genres": "Animation|Children's"}]


def test_csv_is_left_to_the_log_reader(ml_20m: Path) -> None:
    assert detect(ml_20m) == "movielens"
    source = load(ml_20m)
    assert source.log == (ml_20m / "ratings.csv",)
    assert (source.columns.user, source.columns.item, source.columns.time) == (
        "userId",
        "movieId",
        "timestamp",
    )
    assert source.items is not None
    assert source.items["title"].to_pylist() == ["Toy Story (1995)", 'American "Pie", The (1995)']


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("1::661::3", "missing field"),
        ("1::661::3::978302109::9", "extra field"),
        ("1::661::3::yesterday", "time is no number"),
        ("1::661::3::978302109.5", "time is no whole number"),
        ("1::::3::978302109", "no item"),
        ("1::661::five::978302109", "rating is no number"),
        ("1::661::3::99999999999999999999", "time overflows"),
    ],
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_malformed_rating_is_named(ml_1m: Path, tmp_path: Path, line: str, why: str, in_memory: bool) -> None:
    good = "".join("::".join(map(str, row)) + "\n" for row in RATINGS)
    (ml_1m / "ratings.dat").write_text(f"{good}\n{line}\n{good}")
    work = None if in_memory else tmp_path / "work"
    with pytest.raises(DataError, match=r"ratings\.dat: 1 malformed rows; line 6: ") as caught:
        load(ml_1m, work=work)
    assert repr(line) in str(caught.value), why
    assert in_memory or not list((tmp_path / "work").iterdir()), "nothing half-converted may stay"


def test_windows_line_ends(ml_1m: Path) -> None:
    text = (ml_1m / "ratings.dat").read_text()
    (ml_1m / "ratings.dat").write_bytes(text.replace("\n", "\r\n").encode())
    assert [row[3] for row in rows(load(ml_1m))] == [row[3] for row in RATINGS]


def test_side_tables_are_checked(ml_1m: Path) -> None:
    (ml_1m / "users.dat").write_text("1::F::1::10::48067\n2::M::25\n")
    with pytest.raises(DataError, match=r"users\.dat: 1 malformed rows; line 2: '2::M::25'"):
        load(ml_1m)


def test_movies_csv_is_checked(ml_20m: Path) -> None:
    (ml_20m / "movies.csv").write_text("movieId,title,genres\n1,Toy Story, The,Comedy\n")
    with pytest.raises(DataError, match=r"movies\.csv: line 2"):
        load(ml_20m)


def test_empty_ratings(ml_1m: Path) -> None:
    (ml_1m / "ratings.dat").write_text("")
    with pytest.raises(DataError, match="no ratings"):
        load(ml_1m)


def test_other_folders_are_not_movielens(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user,item,time\n1,2,3\n")
    assert detect(tmp_path) is None
    with pytest.raises(DataError, match="not a MovieLens folder"):
        load(tmp_path, reader="movielens")
