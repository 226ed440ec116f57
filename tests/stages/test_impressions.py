"""The stages on impressions: fine-tuning, comparing, evaluating, showing."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from impression_files import QUICK, prepare, raw_rows

from peterrec.data.impressions.impressions import open_impressions
from peterrec.errors import DataError, RefusedError, SettingsError
from peterrec.stages import evaluate, finetune, show
from peterrec.stages import list as listing


@pytest.fixture(scope="module")
def data(world_log, encoder_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("impressions")
    return prepare(world_log, folder / "data", rows=raw_rows(world_log), encoder=encoder_folder)


def tune(task, data, output, *, encoder=None, **changes):
    given = {"seeds": [0], "overrides": QUICK, "progress": "silent", **changes}
    return finetune.run(task, encoder=encoder, data=data, output=output, **given)


@pytest.fixture(scope="module")
def run(data, encoder_folder):
    """mmoe_esmm on the frozen encoder, two seeds."""
    output = data.with_name("run")
    tune("mmoe_esmm", data, output, encoder=encoder_folder, seeds=[0, 1])
    return output


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def area(label, score):
    """The share of pairs that are in order, counted one by one."""
    positive, negative = score[label == 1], score[label == 0]
    above = (positive[:, None] > negative).sum() + 0.5 * (positive[:, None] == negative).sum()
    return above / (len(positive) * len(negative))


def test_the_figures_are_those_of_the_predictions(run, data):
    metrics, table = metrics_of(run), pq.read_table(run / "predictions.parquet").to_pandas()
    impressions = open_impressions(data)
    figures = metrics["results"][0]["metrics"]
    for place, seed in enumerate((0, 1)):
        own = table[table["seed"] == seed]
        test = impressions.split(seed).test
        assert own["row"].tolist() == impressions.position[test].tolist()
        assert own["click"].tolist() == impressions.labels["click"][test].tolist()
        assert own["user"].tolist() == [impressions.user_ids.array[int(u)].as_py() for u in impressions.user[test]]
        assert own["domain"].tolist() == [impressions.schema.domains[d] for d in impressions.domain[test]]
        np.testing.assert_allclose(own["p_ctcvr"], own["p_ctr"] * own["p_cvr"], rtol=1e-5)
        clicked = own[own["click"] == 1]
        expected = {
            "ctr": area(own["click"].to_numpy(), own["p_ctr"].to_numpy()),
            "cvr": area(clicked["conversion"].to_numpy(), clicked["p_cvr"].to_numpy()),
            "ctcvr": area(own["conversion"].to_numpy(), own["p_ctcvr"].to_numpy()),
        }
        for name, value in expected.items():
            assert figures[f"{name}/auc"]["per_seed"][place] == pytest.approx(value, abs=1e-4)
        home = own[own["domain"] == "home"]
        found = figures["ctr/auc/domain=home"]["per_seed"][place]
        assert found == pytest.approx(area(home["click"].to_numpy(), home["p_ctr"].to_numpy()), abs=1e-4)
        assert figures["mean/auc"]["per_seed"][place] == pytest.approx(np.mean(list(expected.values())), abs=1e-4)
    assert metrics["metric"] == "mean/auc"
    assert [one["name"] for one in metrics["results"]] == [
        "mmoe_esmm", "logistic_regression", "base_rate_of_domain", "base_rate"
    ]  # fmt: skip
    assert {gain["of"] for gain in metrics["gains"]} == {"mmoe_esmm"}
    assert "each user's rows in time order" in metrics["protocol"]


def test_a_run_is_shown_and_listed_by_its_main_figure(run):
    figure = metrics_of(run)["results"][0]["metrics"]["mean/auc"]["value"]
    [entry] = [one for one in listing.run("runs", folder=run.parent) if one.stage == "finetune"]
    assert entry.what.startswith(f"mmoe_esmm: mean AUC {figure:.3f}")
    text = show.run(str(run))
    [title] = [line for line in text.splitlines() if line.startswith("result ")]
    assert title.split()[:4] == ["result", "role", "output", "AUC"]
    assert "domain=" not in text
    assert max(map(len, text[text.index("result ") :].splitlines())) < 180
    outputs = text[text.index("result ") :].split("\n\n")[0].splitlines()
    assert outputs[1].split()[:4] == ["mmoe_esmm", "model", "mean", f"{figure:.3f}"]
    assert [line.split()[0] for line in outputs[2:5]] == ["CTR", "CVR", "CTCVR"]
    assert text.count("mmoe_esmm over ") == len([g for g in metrics_of(run)["gains"] if g["metric"] == "mean/auc"])


def test_evaluating_gives_the_figures_of_the_first_seed_again(run, tmp_path):
    found = evaluate.run(run, output=tmp_path / "again", device="cpu")
    wanted = metrics_of(run)["results"][0]["metrics"]
    assert found["metric"] == "mean/auc"
    own = found["results"][0]["metrics"]
    for name in ("ctr/auc", "cvr/log_loss", "ctcvr/pcoc", "ctr/gauc", "mean/log_loss"):
        assert own[name]["value"] == pytest.approx(wanted[name]["per_seed"][0], abs=1e-6)
    assert "test rows of the split" in found["protocol"]
    assert (tmp_path / "again" / "report.html").is_file()


def test_evaluating_on_other_impressions(run, data, world_log, encoder_folder, tmp_path):
    rows = raw_rows(world_log, first=900, number=300)
    other = prepare(world_log, tmp_path / "other", rows=rows, encoder=encoder_folder)
    found = evaluate.run(run, data=other, output=tmp_path / "figures", device="cpu")
    assert found["protocol"].startswith("300 impressions of other: all rows.")
    figures = found["results"][0]["metrics"]
    rate = np.mean([int(row["click"]) for row in rows])
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert figures["ctr/log_loss"]["value"] / figures["ctr/ne"]["value"] == pytest.approx(entropy)


@pytest.mark.parametrize(
    ("changes", "told", "kind"),
    [
        ({"fields": ("item", "position", "device", "dice:numeric", "gender")}, "--field tags:multi", DataError),
        ({"labels": ("click", "like")}, "label 'conversion'", DataError),
        ({"labels": ("seen=click", "conversion")}, "label 'click'", DataError),
        ({"encoder": None}, "prepared without histories", RefusedError),
    ],
)
def test_impressions_that_do_not_fit_are_refused(run, world_log, encoder_folder, changes, told, kind, tmp_path):
    given = {"encoder": encoder_folder, **changes}
    other = prepare(world_log, tmp_path / "other", rows=raw_rows(world_log), **given)
    with pytest.raises(kind, match=told):
        evaluate.run(run, data=other, output=tmp_path / "figures", device="cpu")


def test_a_split_that_is_damaged_is_refused(run, tmp_path):
    moved = run.with_name("moved")
    shutil.copytree(run, moved)
    table = pq.read_table(moved / "split.parquet")
    for part, told in (
        (table.slice(1), "its rows are not those of"),
        (table.set_column(1, "part", [["train"] * len(table)]), "no test rows"),
        (table.set_column(1, "part", [["tests"] * len(table)]), "a part 'tests'"),
        (table.drop_columns(["part"]), "not readable"),
    ):
        pq.write_table(part, moved / "split.parquet")
        with pytest.raises(RefusedError, match=told):
            evaluate.run(moved, output=tmp_path / "figures", device="cpu")


def test_what_does_not_fit_is_refused_before_anything_is_written(data, world_log, encoder_folder, tmp_path):
    plain = prepare(world_log, tmp_path / "plain", rows=raw_rows(world_log))
    with pytest.raises(SettingsError, match="holds no histories"):
        tune("mmoe_esmm", plain, tmp_path / "out", encoder=encoder_folder)
    with pytest.raises(SettingsError, match="goes inside an encoder"):
        tune("mmoe_esmm", plain, tmp_path / "out", adapter_name="serial")
    with pytest.raises(SettingsError, match="name impressions with --data"):
        tune("mmoe_esmm", None, tmp_path / "out")
    with pytest.raises(SettingsError, match="which the data do not have"):
        tune("esm2", data, tmp_path / "out")
    with pytest.raises(SettingsError, match="--labels"):
        tune("esmm", data, tmp_path / "out", labels=5)
    assert not (tmp_path / "out").exists()
