"""The search for the next-item encoder: what it reads from finished runs, and the histories that it shuffles."""

import json
from pathlib import Path

import numpy as np
import pytest

from peterrec.cli import execute
from peterrec.data.prepared import open_prepared
from peterrec.settings import load_settings
from peterrec.stages.pretrain import PretrainSettings

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import next_item

    return next_item


def test_the_recipes_are_valid_and_differ(script):
    found = [load_settings(PretrainSettings, file=file) for file in sorted(script.RECIPES.glob("*.toml"))]
    assert len(found) >= 3
    assert len({settings.model_dump_json() for settings in found}) == len(found)


def test_shuffled_histories_hold_the_same_events_in_another_order(script, prepared_folder):
    test = open_prepared(prepared_folder).sequences("test")
    shuffled = script.Shuffled(test, seed=0)
    rows = np.argsort(-test.lengths)[:5]
    nothing = np.zeros_like(rows)
    flat, lengths = test.gather(rows, nothing, test.lengths[rows])
    mixed, same = shuffled.gather(rows, nothing, test.lengths[rows])
    assert (lengths == same).all()
    assert (flat != mixed).any()
    for own, other in zip(
        np.split(flat, np.cumsum(lengths)[:-1]), np.split(mixed, np.cumsum(lengths)[:-1]), strict=True
    ):
        assert sorted(own) == sorted(other)
    # parts of a history are parts of one order
    last, _ = shuffled.gather(rows, test.lengths[rows] - 2, test.lengths[rows])
    ends = np.cumsum(lengths)
    assert (last.reshape(-1, 2) == np.stack([mixed[ends - 2], mixed[ends - 1]], axis=1)).all()


def test_the_best_validation_figure_wins_whatever_the_test_says(script, tmp_path, monkeypatch):
    figures = {"a": (0.10, 0.9), "b": (0.12, 0.1)}
    for name in figures:
        (tmp_path / f"{name}.toml").write_text("")
    monkeypatch.setattr(script, "RECIPES", tmp_path)

    def pretrained(data, output, *, recipe, seed):
        validation, test = figures[recipe.stem]
        return {
            "training": {"best_epoch": 2, "epochs": 3, "seconds": 60.0},
            "curves": [
                {"epoch": 1, "validation": {"hr@10": 0.9, "ndcg@10": 0.9}},
                {"epoch": 2, "validation": {"hr@10": 0.2, "ndcg@10": validation}},
            ],
            "results": [{"trained_parameters": 5, "metrics": {"ndcg@10": {"value": test}}}],
        }

    monkeypatch.setattr(script, "pretrained", pretrained)
    found = script.searched(tmp_path, tmp_path)
    assert [(entry["recipe"], entry["validation"]["ndcg@10"]) for entry in found] == [("b", 0.12), ("a", 0.10)]


def test_it_runs_from_end_to_end(script, prepared_folder, tmp_path, monkeypatch, capsys):
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "small.toml").write_text(
        '[encoder]\nkind = "sasrec"\nhidden_size = 8\nmax_length = 20\n[training]\nepochs = 1\ndevice = "cpu"\n'
    )
    monkeypatch.setattr(script, "RECIPES", recipes)
    monkeypatch.setattr(script, "SEEDS", (0, 1))
    monkeypatch.setattr(script.subprocess, "run", lambda command, check: execute(command[3:]))  # python -m peterrec …
    monkeypatch.setattr("sys.argv", ["next_item.py", str(prepared_folder), str(tmp_path / "out")])
    script.main()
    found = json.loads((tmp_path / "out" / "next_item.json").read_text())
    assert found["recipe"] == "small"
    assert len(found["test"]["hr@10"]["per_seed"]) == 2
    assert 0 <= found["shuffled"]["ndcg@10"]["value"] <= 1
    assert "| small | " in capsys.readouterr().out
