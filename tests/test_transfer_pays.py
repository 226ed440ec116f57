"""The product's claim, on a world of a fresh seed: transfer helps where there is something to transfer, only there."""

import pytest

from peterrec.data.synthetic import WorldSettings
from peterrec.settings import load_settings
from peterrec.stages import compare, prepare, pretrain
from peterrec.stages.world import COLUMNS, log_files, write_world

SEED, USERS, LABELS = 7, 3000, 400


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A world, its negative control (the same behaviour, unrelated labels), and an encoder pretrained on the log."""
    folder = tmp_path_factory.mktemp("road")
    for name, related in (("world", True), ("control", False)):
        raw = folder / f"{name}-raw"
        write_world(raw, settings=WorldSettings(users=USERS, items=500, seed=SEED, related=related))
        prepare.run(
            log_files(raw),
            output=folder / name,
            columns=COLUMNS,
            users=raw / "users.csv",
            split="leave_one_out",
            encoder=None if related else folder / "encoder",
        )
        if related:
            settings = load_settings(
                pretrain.PretrainSettings,
                overrides=[
                    "encoder.hidden_size=48",
                    "encoder.kind=nextitnet",
                    "encoder.dilations=[1,2,4,8]",
                    "encoder.max_length=128",
                    "training.epochs=10",
                    "training.learning_rate=4e-3",
                    "training.positions=2400",
                    "training.validation_users=300",
                    "training.warmup=20",
                    "training.device=cpu",
                ],
            )
            pretrain.run(folder / name, output=folder / "encoder", settings=settings, progress="silent")
    return folder


def gains(road, data, controls):
    metrics = compare.run(
        "gender",
        encoder=road / "encoder",
        data=road / data,
        output=road / f"compare-{data}",
        labels=LABELS,
        seeds=[0, 1],
        adapters=["serial"],
        controls=controls,
        learning_rates=[2e-3, 8e-3] if data == "world" else [2e-3],
        overrides=["device=cpu"],
        progress="silent",
    )
    found = {(gain["metric"], gain["over"]): gain for gain in metrics["gains"] if gain["of"] == "serial"}
    for metric in ("roc_auc", "accuracy"):
        assert (metric, "random+serial") in found
    return found


def test_the_adapter_beats_random_weights_and_scratch_and_stays_below_the_oracle(road):
    found = gains(road, "world", ["scratch", "random"])
    for metric in ("roc_auc", "accuracy"):
        assert found[metric, "random+serial"]["low"] > 0
        assert found[metric, "scratch"]["low"] > 0
        assert found[metric, "majority"]["low"] > 0
        assert found[metric, "oracle"]["high"] < 0


def test_the_encoder_itself_beats_the_baselines_and_stays_below_the_oracle(road):
    import json

    results = json.loads((road / "encoder" / "metrics.json").read_text())["results"]
    ndcg = {result["name"]: result["metrics"]["ndcg@10"] for result in results}
    assert ndcg["encoder"]["low"] > max(ndcg[name]["high"] for name in ("markov", "item_knn", "popularity"))
    if "oracle" in ndcg:
        assert ndcg["encoder"]["value"] < ndcg["oracle"]["value"]


def test_nothing_is_gained_where_labels_have_nothing_to_do_with_behaviour(road):
    found = gains(road, "control", ["random"])
    gain = found["roc_auc", "random+serial"]
    assert gain["low"] <= 0 <= gain["high"]
