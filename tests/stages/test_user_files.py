"""The files of encode and predict are written in blocks of users."""

import pyarrow.parquet as pq
import pytest

from peterrec.errors import RefusedError, SettingsError
from peterrec.stages import encode, predict
from peterrec.stages.world import COLUMNS, log_files


@pytest.fixture
def told(monkeypatch):
    """What the progress bar is told, instead of a bar."""
    from contextlib import contextmanager

    done = []

    @contextmanager
    def user_progress(title, *, users):
        done.append((title, users))
        yield done.append

    for stage in (encode, predict):
        monkeypatch.setattr(stage, "user_progress", user_progress)
    return done


def test_vectors_come_in_row_groups(encoder_folder, world_log, tmp_path, told, monkeypatch):
    files = log_files(world_log)
    encode.run(files, encoder=encoder_folder, output=tmp_path / "a.parquet", columns=COLUMNS, device="cpu")
    monkeypatch.setattr(encode, "BLOCK_USERS", 150)
    encode.run(files, encoder=encoder_folder, output=tmp_path / "b.parquet", columns=COLUMNS, device="cpu")
    one, many = (pq.ParquetFile(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert (one.num_row_groups, many.num_row_groups) == (1, 3)
    assert one.schema_arrow == many.schema_arrow
    first, second = one.read(), many.read()
    assert first.drop(["vector"]).equals(second.drop(["vector"]))
    vectors = [table["vector"].combine_chunks().flatten().to_numpy() for table in (first, second)]
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-5)
    starts = [entry for entry in told if isinstance(entry, tuple)]
    assert starts == [("encoding", 400)] * 2
    assert sum(entry for entry in told if isinstance(entry, int)) == 800


def test_predictions_come_in_row_groups(task_folder, world_log, tmp_path, told, monkeypatch):
    files = log_files(world_log)
    predict.run(files, model=task_folder, output=tmp_path / "a.parquet", columns=COLUMNS, device="cpu")
    monkeypatch.setattr(predict, "BLOCK_USERS", 150)
    predict.run(files, model=task_folder, output=tmp_path / "b.parquet", columns=COLUMNS, device="cpu")
    one, many = (pq.ParquetFile(tmp_path / name) for name in ("a.parquet", "b.parquet"))
    assert (one.num_row_groups, many.num_row_groups) == (1, 3)
    first, second = one.read().to_pydict(), many.read().to_pydict()
    for name, column in first.items():
        assert second[name] == (pytest.approx(column, abs=1e-5) if name.startswith("p_") else column)
    assert told == [("predicting", 400), 400, ("predicting", 400), 150, 150, 100]


def test_another_vocabulary_beside_the_encoder_is_refused(encoder_folder, world_log, tmp_path):
    import shutil

    from peterrec.data.vocabulary import Vocabulary

    folder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    known = Vocabulary.load(folder / "vocabulary.parquet")
    Vocabulary.build([f"x{item}" for item in known.items.to_pylist()], counts=known.counts).save(
        folder / "vocabulary.parquet"
    )
    with pytest.raises(RefusedError, match=r"vocabulary\.parquet"):
        encode.run(log_files(world_log), encoder=folder, output=tmp_path / "v.parquet", columns=COLUMNS)
    assert not (tmp_path / "v.parquet").exists()


def test_a_device_that_is_not_there_is_told_before_the_log_is_read(encoder_folder, task_folder, tmp_path):
    for stage, given in ((encode, {"encoder": encoder_folder}), (predict, {"model": task_folder})):
        with pytest.raises(SettingsError, match="--device"):
            stage.run([tmp_path / "none.csv"], **given, output=tmp_path / "o.parquet", device="tpu")
