"""The transfer script: what it reads from finished comparisons."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "transfer.py"


@pytest.fixture(scope="module")
def transfer():
    spec = importlib.util.spec_from_file_location("transfer_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def finished(folder: Path, metric: str) -> None:
    folder.mkdir(parents=True)
    names = {"items_convex": 0.78, "none": 0.77, "random+items_convex": 0.6}
    names |= {"bag_of_items": 0.75, "lsa": 0.76, "majority": 0.5}
    found = {
        "seeds": list(range(20)),
        "protocol": "told",
        "results": [
            {"name": name, "metrics": {metric: figure(value), "other": figure(0)}} for name, value in names.items()
        ],
        "gains": [
            {"metric": of_metric, "of": "items_convex", "over": name, **figure(names["items_convex"] - value)}
            for name, value in names.items()
            for of_metric in (metric, "other")
        ],
    }
    (folder / "metrics.json").write_text(json.dumps(found))


def test_a_finished_comparison_becomes_a_row(transfer, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "run", lambda *arguments: pytest.fail("it is finished"))
    finished(tmp_path / "gender_100", "roc_auc")
    row = transfer.compared("gender", 100, encoder=tmp_path / "encoder", output=tmp_path)
    assert (row["task"], row["labels"], row["metric"], row["seeds"]) == ("gender", 100, "roc_auc", list(range(20)))
    assert row["peterrec"] == pytest.approx(figure(0.78))
    assert row["head_alone"] == pytest.approx(figure(0.77))
    assert row["random_encoder"] == pytest.approx(figure(0.6))
    assert row["lsa"] == pytest.approx(figure(0.76))
    assert row["paired_difference"]["bag_of_items"] == pytest.approx(figure(0.03))
    assert "--labels 100" in row["command"]
    assert "--seeds 20" in row["command"]
    table = transfer.markdown([row])
    assert "| gender, ROC-AUC | 100 | 0.780 [0.770, 0.790] | 0.770 [0.760, 0.780] | 0.750 [" in table
    assert "| +0.030 [+0.020, +0.040] | +0.020 [" in table


def test_all_labels_take_fewer_seeds(transfer, tmp_path, monkeypatch):
    asked: list[str] = []

    def run(*arguments: str) -> None:
        asked.extend(arguments)
        finished(tmp_path / "age_all", "accuracy")

    monkeypatch.setattr(transfer, "run", run)
    row = transfer.compared("age", None, encoder=tmp_path / "encoder", output=tmp_path)
    assert row["labels"] == "all"
    assert "--labels" not in asked
    assert asked[asked.index("--seeds") + 1] == "5"


def test_permuted_labels_are_the_same_labels_of_other_users(transfer, prepared_folder, tmp_path):
    from peterrec.data.prepared import open_prepared

    copy = transfer.permuted(prepared_folder, tmp_path / "permuted")
    own, other = open_prepared(prepared_folder), open_prepared(copy)
    assert own.fingerprint != other.fingerprint
    before, after = own.labels(), other.labels()
    assert before is not None
    assert after is not None
    assert before["user"] == after["user"]
    for task in transfer.TASKS:
        assert before[task] != after[task]
        assert sorted(before[task].to_pylist()) == sorted(after[task].to_pylist())


def test_the_recipes_are_valid(transfer):
    from peterrec.catalogue import task
    from peterrec.settings import load_settings
    from peterrec.stages.pretrain import PretrainSettings

    for name, metric in transfer.TASKS.items():
        recipe = task(transfer.HERE / f"{name}.toml")
        assert (recipe.metric, recipe.readout, recipe.max_length, recipe.head.fit) == (
            metric,
            "encoder",
            "all",
            "newton",
        )
    settings = load_settings(PretrainSettings, file=transfer.HERE / "pooled.toml")
    assert (settings.encoder.kind, settings.objective.bag, settings.objective.next_item) == ("pooled", 1, 0)
