"""Fine-tuning and comparing on impressions: interrupted runs go on, recipes that differ are told apart."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from impression_files import QUICK, prepare, raw_rows

from peterrec.data.impressions.impressions import open_impressions
from peterrec.stages import compare, finetune
from peterrec.training.impressions import ImpressionProgram


@pytest.fixture(scope="module")
def data(world_log, encoder_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("impressions")
    return prepare(world_log, folder / "data", rows=raw_rows(world_log), encoder=encoder_folder)


def same_but_for_cost(value):
    if isinstance(value, dict):
        cost = ("seconds", "search_seconds", "peak_memory_bytes", "targets_per_second")
        return {key: same_but_for_cost(part) for key, part in value.items() if key not in cost}
    return [same_but_for_cost(part) for part in value] if isinstance(value, list) else value


def interrupting(monkeypatch, *, after):
    """Makes the loss raise once, at call number `after`; counts the calls."""
    loss, calls = ImpressionProgram.loss, []

    def once(self, piece, device):
        calls.append(1)
        if len(calls) == after:
            raise KeyboardInterrupt
        return loss(self, piece, device)

    monkeypatch.setattr(ImpressionProgram, "loss", once)
    return calls


@pytest.mark.parametrize("adapter", [pytest.param("none", marks=pytest.mark.slow), "serial"])
def test_an_interrupted_finetune_goes_on_and_ends_the_same(adapter, data, encoder_folder, tmp_path, monkeypatch):
    def start(output):
        return finetune.run(
            "mmoe_esmm",
            encoder=encoder_folder,
            data=data,
            output=output,
            adapter_name=adapter,
            seeds=[0, 1],
            overrides=[*QUICK, "micro_batch=0"],
            progress="silent",
        )

    whole = start(tmp_path / "whole")
    train = len(open_impressions(data).split(0).train)
    steps = whole["curves"][0]["step"]
    assert steps >= train // 256
    calls = interrupting(monkeypatch, after=2 * steps + steps + 2)  # the second seed's second epoch
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "broken")
    assert not (tmp_path / "broken" / "run.json").exists()
    again = start(tmp_path / "broken")
    assert len(calls) == 4 * steps + 2, "only what was lost since the last checkpoint is done again"
    assert same_but_for_cost(again) == same_but_for_cost(whole)
    for file in ("adapter_model.safetensors", "predictions.parquet", "fields.json", "split.parquet"):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.fixture
def likes(tmp_path):
    """A recipe with an output that the others lack, and conversions measured otherwise."""
    path = tmp_path / "likes.toml"
    path.write_text("""
kind = "impressions"
[[body]]
experts = 1
hidden = [8]
[tower]
hidden = []
[[heads]]
name = "ctr"
[[heads]]
name = "cvr"
[[heads]]
name = "like"
[[objectives]]
of = "ctr"
label = "click"
[[objectives]]
of = "cvr"
label = "conversion"
[[objectives]]
of = "like"
label = "like"
[training]
epochs = 1
""")
    return path


def test_a_comparison_of_recipes_with_a_control_goes_on_and_ends_the_same(
    likes, world_log, encoder_folder, tmp_path, monkeypatch
):
    rows = raw_rows(world_log)
    data = prepare(
        world_log, tmp_path / "data", rows=rows, encoder=encoder_folder, labels=("click", "conversion", "like")
    )

    def start(output):
        return compare.run(
            "esmm",
            more_tasks=[str(likes)],
            encoder=encoder_folder,
            data=data,
            output=output,
            learning_rates=None,
            seeds=[0, 1],
            overrides=["epochs=1", "rows=256", "device=cpu"],
            progress="silent",
        )

    whole = start(tmp_path / "whole")
    calls = interrupting(monkeypatch, after=8)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "broken")
    steps = whole["curves"][0]["step"]
    again = start(tmp_path / "broken")
    assert len(calls) <= 4 * 2 * steps + steps
    assert same_but_for_cost(again) == same_but_for_cost(whole)
    assert [(one["name"], one["role"]) for one in whole["results"]] == [
        ("esmm", "model"),
        ("likes", "model"),
        ("esmm-no_encoder", "control"),
        ("likes-no_encoder", "control"),
        ("logistic_regression", "baseline"),
        ("base_rate_of_domain", "baseline"),
        ("base_rate", "baseline"),
    ]
    # the outputs differ, so neither their mean nor conversions on other rows are set against each other
    assert whole["metric"] == "ctr/auc"
    assert "Measured otherwise than esmm: likes, likes-no_encoder" in whole["protocol"]
    told = {(one["metric"], one["of"], one["over"]) for one in whole["gains"]}
    assert ("ctr/auc", "esmm", "likes") in told
    assert ("cvr/auc", "esmm", "esmm-no_encoder") in told
    assert ("cvr/auc", "esmm", "likes") not in told
    table = pq.read_table(tmp_path / "whole" / "predictions.parquet")
    likes_of = table.filter(pa.compute.equal(table["model"], "likes"))
    assert likes_of["p_like"].null_count == 0
    assert likes_of["p_ctcvr"].null_count == len(likes_of)
