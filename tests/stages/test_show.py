"""`peterrec show`: recipes, runs, settings."""

from pathlib import Path

import pytest
from pydantic import Field

from peterrec import catalogue
from peterrec.errors import RefusedError, SettingsError
from peterrec.run_folder import output_folder
from peterrec.settings import Settings
from peterrec.stages import show


class Small(Settings):
    learning_rate: float = Field(default=1e-3, gt=0, description="step size")


def test_recipes() -> None:
    text = show.run("serial")
    assert (catalogue.catalogue("adapters") / "serial.toml").read_text().strip() in text
    assert text.startswith("adapter serial (")
    assert show.run("adapters/serial") == text
    assert show.run("tasks/gender") == show.run("gender")


def test_own_files(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('# Mine.\ntuner = "none"\n')
    assert show.run(str(mine)).startswith("adapter mine (")
    mine.write_text('column = "city"\nhaed = 1\n')
    with pytest.raises(SettingsError, match="unknown setting 'haed'"):
        show.run(str(mine))
    mine.write_text("x = 1\n")
    with pytest.raises(SettingsError, match="neither an adapter"):
        show.run(str(mine))


def test_run_folder(tmp_path: Path) -> None:
    path = tmp_path / "gender"
    metrics = {
        "metric": "accuracy",
        "results": [
            {
                "name": "serial",
                "role": "model",
                "metrics": {"roc_auc": {"value": 0.8, "low": 0.7, "high": 0.9}},
                "trained_parameters": 1234,
                "seconds": 5.04,
            },
            {"name": "majority", "role": "baseline", "metrics": {"accuracy": {"value": 0.5}}},
        ],
        "gains": [{"metric": "roc_auc", "of": "serial", "over": "majority", "value": 0.3, "low": 0.2, "high": 0.4}],
    }
    with output_folder(path, stage="finetune", resume={"epochs": 3, "patience": None}) as folder:
        folder.write_json("metrics.json", metrics)
        folder.finish(inputs={"encoder": "runs/encoder"})
    text = show.run(str(path))
    lines = [line.split() for line in text.splitlines()]
    assert ["serial", "model", "0.800", "[0.700,", "0.900]", "–", "1,234", "5.0"] in lines
    assert ["epochs", "=", "3"] in lines
    assert 'encoder = "runs/encoder"' in text
    assert "serial over majority: ROC AUC +0.300 [+0.200, +0.400]" in text
    (path / "metrics.json").write_text("{")
    with pytest.raises(RefusedError, match=r"metrics\.json: damaged"):
        show.run(str(path))


def test_settings() -> None:
    text = show.run("pretrain", settings=Small)
    assert text.splitlines()[-1].split() == ["learning_rate", "float", ">", "0", "0.001", "step", "size"]


def test_unknown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"called 'seriel'\. Did you mean 'serial'"):
        show.run("seriel")
    with pytest.raises(SettingsError, match="unknown task 'gendr'"):
        show.run("tasks/gendr")
    with pytest.raises(SettingsError, match="not an output folder"):
        show.run(str(tmp_path))
