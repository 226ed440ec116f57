import pytest

from peterrec.metrics.measure_name import MeasureName


@pytest.mark.parametrize(
    "name",
    [
        MeasureName("ctr", "auc"),
        MeasureName("ctr", "log_loss", "young"),
        MeasureName("a/b", "pcoc", "18/24"),
        MeasureName("cvr", "gauc", ""),
        MeasureName("dwell", "rmse", "x/domain=y"),
    ],
)
def test_names_are_read_as_they_are_written(name: MeasureName) -> None:
    assert MeasureName.parse(str(name)) == name


@pytest.mark.parametrize("name", ["auc", "accuracy", "ndcg@10 (history kept)", "/auc", "ctr/speed", "ctr/domain=a", ""])
def test_other_names_are_none(name: str) -> None:
    assert MeasureName.parse(name) is None
