"""Hugging Face data sets saved to disk, flat and nested; the hub is never asked."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.logs.columns import LogColumns
from peterrec.data.sources import detect, huggingface, load
from peterrec.errors import DataError, SettingsError


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def save(path: Path, **columns) -> Path:
    datasets.Dataset.from_dict(columns).save_to_disk(str(path))
    return path


def rows(source) -> list[dict]:
    table = source.log if isinstance(source.log, pa.Table) else pq.read_table(source.log[0])
    return table.to_pylist()


@pytest.mark.parametrize("in_memory", [True, False])
def test_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    monkeypatch.setattr(huggingface, "BATCH", 7)
    big = 2**53 + 1  # not a float64
    users, items, times = [f"u{n % 5}" for n in range(50)], [big + n for n in range(50)], list(range(50))
    path = save(tmp_path / "flat", user=users, item=items, time=times, rating=[1.0] * 50)
    assert detect(path) == "huggingface"
    source = load(path, work=None if in_memory else tmp_path / "work")
    expected = [{"user": u, "item": i, "time": t} for u, i, t in zip(users, items, times, strict=True)]
    assert rows(source) == expected
    assert source.columns == LogColumns()


@pytest.mark.parametrize("in_memory", [True, False])
def test_one_row_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    monkeypatch.setattr(huggingface, "BATCH", 3)
    lists = [[n * 10 + k for k in range(n % 4)] for n in range(11)]  # empty lists too
    path = save(tmp_path / "nested", user=list(range(11)), items=lists, time=lists)
    source = load(path, work=None if in_memory else tmp_path / "work")
    expected = [{"user": n, "items": i, "time": i} for n, items in enumerate(lists) for i in items]
    assert rows(source) == expected
    assert (source.columns.item, source.columns.time) == ("items", "time")


def test_own_columns_and_no_time(tmp_path: Path) -> None:
    path = save(tmp_path / "named", who=["a", "b"], what=[["x", "y"], ["z"]])
    source = load(path, columns=LogColumns("who", "what", None))
    assert rows(source) == [{"who": "a", "what": "x"}, {"who": "a", "what": "y"}, {"who": "b", "what": "z"}]
    with pytest.raises(DataError, match="no column 'user'"):
        load(path)
    with pytest.raises(DataError, match=r"no column 'whta'. Did you mean 'what'"):
        load(path, columns=LogColumns("who", "whta", None))


def test_splits(tmp_path: Path) -> None:
    part = {name: datasets.Dataset.from_dict({"user": [name], "item": ["i"]}) for name in ("train", "test")}
    datasets.DatasetDict(part).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(SettingsError, match=r"several splits; give one as .*both:train"):
        load(tmp_path / "both")
    assert rows(load(f"{tmp_path / 'both'}:test", reader="huggingface")) == [{"user": "test", "item": "i"}]
    assert detect(f"{tmp_path / 'both'}:test") == "huggingface"
    with pytest.raises(SettingsError, match=r"no split 'tset'. Did you mean 'test'"):
        load(f"{tmp_path / 'both'}:tset")


def test_lists_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "BATCH", 1)  # rows are numbered across batches
    path = save(tmp_path / "uneven", user=["a", "b"], item=[["x"], ["y", "z"]], time=[[1], [2]])
    with pytest.raises(DataError, match="row 2: 'item' and 'time' have lists of different lengths"):
        load(path)


def test_float_ids_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "floats", user=[1.0, 2.0], item=["a", "b"])
    with pytest.raises(DataError, match="column 'user' holds double"):
        load(path)


def test_damaged_folder(tmp_path: Path) -> None:
    path = save(tmp_path / "damaged", user=["a"], item=["b"])
    next(path.glob("*.arrow")).write_bytes(b"")
    with pytest.raises(DataError, match="damaged"):
        load(path)


def test_no_rows(tmp_path: Path) -> None:
    path = save(tmp_path / "none", user=pa.array([], pa.string()).to_pylist(), item=[])
    with pytest.raises(DataError, match="none"):
        load(path)


def test_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name, *, split, streaming):
        asked.append((name, split, streaming))
        if split == "absent":
            raise ValueError("Bad split: absent")
        return datasets.Dataset.from_dict({"user": ["a"], "item": ["b"]}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    assert detect("owner/name") == detect("owner/name:test") == "huggingface"
    assert rows(load("owner/name:test")) == [{"user": "a", "item": "b"}]
    load("owner/name")
    assert asked == [("owner/name", "test", True), ("owner/name", "train", True)]
    with pytest.raises(DataError, match=r"no such file or folder here.*Bad split: absent.*save_to_disk"):
        load("owner/name:absent")


@pytest.mark.parametrize(
    "name", ["data/log.csv", "log", "data/log.parquet", "/data/log", "a/b/c", "data/*.csv", "data/log.csv.gz"]
)
def test_names_of_absent_files_are_not_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert detect(name) is None


def test_prepared_folder_is_not_a_log(tmp_path: Path) -> None:
    path = save(tmp_path / "prepared", user=["a"], item=["b"])
    (path / "run.json").write_text("{}")
    assert detect(path) is None
