"""The oracle beside tasks on impressions: what it predicts for which measure, and of which data."""

import csv
import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from peterrec.catalogue import impression_task
from peterrec.data.domain_logs import BadRows
from peterrec.data.impressions.impressions import open_impressions
from peterrec.data.impressions.preparation import Sources
from peterrec.data.impressions.wanted import Wanted, parse_field, parse_label, split_rule
from peterrec.data.synthetic import World, WorldSettings
from peterrec.evaluation.impression_ceiling import ceiling, impression_world_of
from peterrec.impression_design import binary_labels, design
from peterrec.objective_recipe import Measure
from peterrec.stages import finetune, prepare_impressions
from peterrec.stages.world import write_world

SETTINGS = WorldSettings(users=60, items=40, target_items=20, mean_length=12, seed=5)
LABELS = ("click", "cart", "conversion", "like", "dwell", "completion")


def prepared(path, output, *, labels=LABELS, ids=True, bad_rows: BadRows = "fail"):
    wanted = Wanted(
        labels=tuple(map(parse_label, labels)),
        fields=(parse_field("device:categorical"), parse_field("position:categorical")),
        domain="domain",
        time="timestamp",
        split=split_rule("rows", fractions=None, user=True, time=True),
        user="user" if ids else None,
        item="item" if ids else None,
    )
    prepare_impressions.run(Sources([str(path)], {}), wanted=wanted, output=output, bad_rows=bad_rows)
    return open_impressions(output)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write_world(folder / "raw", settings=SETTINGS)
    prepared(folder / "raw" / "impressions.csv", folder / "data")
    return folder


@pytest.fixture(scope="module")
def impressions(home):
    return open_impressions(home / "data")


def told(impressions, task="shared_bottom", *, seeds=(0, 1), measures=None):
    """Arena, design and ceiling of a task; `measures` in the place of its own."""
    plan = design(
        impression_task(task),
        fields=[one.name for one in impressions.schema.fields],
        labels=binary_labels(impressions),
        domains=len(impressions.schema.domains),
    )
    if measures is not None:
        plan = dataclasses.replace(plan, measures=tuple(measures))
    arena = SimpleNamespace(impressions=impressions, splits={seed: impressions.split(seed) for seed in seeds})
    return arena, plan, ceiling(arena, plan)  # pyright: ignore[reportArgumentType]


def by_hand(home, rows):
    """The oracle's answers for rows of the file, from the text in it, and from nothing that was prepared."""
    world = World.generate(SETTINGS)
    lines = list(csv.DictReader((home / "raw" / "impressions.csv").read_text().splitlines()))
    shown = [lines[row] for row in rows]
    histories = [[world.items[item] for item in world.histories[world.users.index(one["user"])]] for one in shown]
    return world.oracle_impressions(
        histories,
        items=[one["item"] for one in shown],
        domains=[one["domain"] for one in shown],
        positions=[int(one["position"]) for one in shown],
        devices=[one["device"] for one in shown],
    )


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("esm2", {"ctr": "click", "ctavr": "cart", "cvr": "conversion_of_clicks", "ctcvr": "conversion"}),
        ("engagement", {"ctr": "click", "dwell": "dwell", "completion": "completion"}),
        (
            "shared_bottom",
            {
                "ctr": "click",
                "cart": "cart",
                "cvr": "conversion_of_clicks",
                "ctcvr": "conversion",
                "like": "like",
                "dwell": "dwell",
                "completion": "completion",
            },
        ),
    ],
)
def test_each_measure_has_the_expectation_of_its_label_in_its_space(home, impressions, task, expected):
    arena, _, found = told(impressions, task)
    assert found is not None
    assert not np.array_equal(arena.splits[0].test, arena.splits[1].test)
    for seed, split in arena.splits.items():
        answers = by_hand(home, impressions.position[split.test])
        assert set(found.predicted[seed]) == set(expected)
        for name, known in expected.items():
            np.testing.assert_allclose(found.predicted[seed][name], getattr(answers, known), rtol=1e-9)


def test_rows_tell_a_space_and_what_nobody_knows_is_left_out(home, impressions):
    measures = [
        Measure(of="ctr", label="like", space="click == 1"),  # not among the oracle's answers
        Measure(of="ctr", label="click", space="click >= 0"),
        Measure(of="cart", label="cart", space="click > 0"),
        Measure(of="ctcvr", label="conversion", space="cart == 1"),
        Measure(of="cvr", label="conversion", space="click == 1 and cart != 1"),
    ]
    arena, _, found = told(impressions, measures=measures, seeds=(3,))
    assert found is not None
    answers = by_hand(home, impressions.position[arena.splits[3].test])
    expected = {
        "ctr:click": answers.click,
        "cart": answers.cart_of_clicks,
        "ctcvr": answers.conversion_of_carts,
        "cvr": answers.conversion_of_others,
    }
    assert set(found.predicted[3]) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found.predicted[3][name], values, rtol=1e-9)
    assert told(impressions, measures=measures[:1])[2] is None


def test_labels_count_by_what_they_hold(home, tmp_path):
    path = home / "raw" / "impressions.csv"
    found = prepared(path, tmp_path / "a", labels=("tap=click>=1", "conversion=conversion", "long=dwell>=20"))
    arena, _, oracle = told(found)
    assert oracle is not None
    assert set(oracle.predicted[0]) == {"tap", "conversion"}
    answers = by_hand(home, found.position[arena.splits[0].test])
    np.testing.assert_allclose(oracle.predicted[0]["tap"], answers.click, rtol=1e-9)
    # a label of a world's name that holds something else
    assert told(prepared(path, tmp_path / "b", labels=("click=dwell>=20",)))[2] is None
    # without ids the labels alone tell that it is the world's
    assert told(prepared(path, tmp_path / "c", labels=("click",), ids=False))[2] is not None


def test_rows_that_were_dropped_move_no_other(home, tmp_path):
    shutil.copytree(home / "raw", tmp_path / "raw")
    path = tmp_path / "raw" / "impressions.csv"
    lines = path.read_text().splitlines()
    lines[4] = lines[4].replace(lines[4].split(",")[0], "", 1)  # a row without its user
    path.write_text("\n".join(lines) + "\n")
    found = prepared(path, tmp_path / "data", bad_rows="drop")
    assert len(found) == len(lines) - 2
    arena, _, oracle = told(found)
    assert oracle is not None
    answers = by_hand(home, found.position[arena.splits[0].test])
    np.testing.assert_allclose(oracle.predicted[0]["like"], answers.like, rtol=1e-9)


def test_the_world_is_found_where_both_moved_to(home, tmp_path):
    for name in ("raw", "data"):
        shutil.copytree(home / name, tmp_path / name)
    moved = open_impressions(tmp_path / "data")
    assert impression_world_of(moved) is not None
    write_world(tmp_path / "raw", settings=dataclasses.replace(SETTINGS, seed=6))
    note = tmp_path / "data" / "run.json"
    note.write_text(note.read_text().replace(str(home), str(tmp_path)))
    assert impression_world_of(moved) is None  # another world stands there by now
    shutil.rmtree(tmp_path / "raw")
    assert impression_world_of(moved) is None


@pytest.mark.parametrize("column", [0, 1, 6])
def test_changed_rows_are_not_of_the_world(home, tmp_path, column):
    """Another user, another item, another click in a single row."""
    shutil.copytree(home / "raw", tmp_path / "raw")
    path = tmp_path / "raw" / "impressions.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    assert [lines[0][k] for k in (0, 1, 6)] == ["user", "item", "click"]
    lines[9][column] = next(line[column] for line in lines[1:] if line[column] != lines[9][column])
    path.write_text("\n".join(",".join(line) for line in lines) + "\n")
    changed = prepared(path, tmp_path / "data", labels=("click",))
    assert impression_world_of(changed) is None


def test_other_files_and_tables_have_no_world(home, tmp_path):
    shutil.copytree(home / "raw", tmp_path / "raw")
    mine = shutil.copy(tmp_path / "raw" / "impressions.csv", tmp_path / "raw" / "mine.csv")
    assert impression_world_of(prepared(mine, tmp_path / "data")) is None
    (tmp_path / "raw" / "world.json").unlink()
    found = prepared(tmp_path / "raw" / "impressions.csv", tmp_path / "unnoted")
    assert impression_world_of(found) is None
    assert impression_world_of(dataclasses.replace(found, folder=tmp_path / "memory")) is None


def test_results_hold_the_ceiling_and_compare_with_it(home, tmp_path):
    prepared(home / "raw" / "impressions.csv", tmp_path / "data", labels=("click",))
    small = ["epochs=1", "rows=4096"]
    results = finetune.run(
        "shared_bottom", encoder=None, output=tmp_path / "run", data=tmp_path / "data", overrides=small, seeds=[2]
    )
    rows = {one["name"]: one for one in results["results"]}
    oracle = rows["oracle"]
    assert oracle["role"] == "ceiling"
    assert oracle["metrics"]["ctr/auc"]["value"] > max(0.7, rows["logistic_regression"]["metrics"]["ctr/auc"]["value"])
    assert oracle["metrics"]["ctr/pcoc"]["value"] == pytest.approx(1, abs=0.25)
    assert {"ctr/auc", "ctr/log_loss"} <= {one["metric"] for one in results["gains"] if one["over"] == "oracle"}
