"""The ceiling of a task on the embedded world's impressions, whose oracle is known."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from peterrec.data.impressions.impressions import Impressions
from peterrec.data.synthetic import Histories, ImpressionProbabilities, World
from peterrec.evaluation.impression_arena import ImpressionArena
from peterrec.evaluation.impression_measures import counted_rows, label_of, measures_of
from peterrec.evaluation.world import raw_folders, read_note
from peterrec.impression_design import Design
from peterrec.run_record import read_run

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_FILE = "impressions.csv"
_ALL, _CLICKED, _CARTED, _CLICKED_ALONE = "all", "clicked", "carted", "clicked, not carted"
# what the oracle calls the expectation of a column of that file, by the rows among which it is taken
_KNOWN = {
    ("click", _ALL): "click",
    ("like", _ALL): "like",
    ("cart", _ALL): "cart",
    ("cart", _CLICKED): "cart_of_clicks",
    ("conversion", _ALL): "conversion",
    ("conversion", _CLICKED): "conversion_of_clicks",
    ("conversion", _CARTED): "conversion_of_carts",
    ("conversion", _CLICKED_ALONE): "conversion_of_others",
    ("dwell", _CLICKED): "dwell",
    ("completion", _CLICKED): "completion",
}


@dataclass(frozen=True)
class ImpressionCeiling:
    """What the oracle predicts for the test rows `(n,)` of each seed, by measure, and the seconds that it took."""

    predicted: dict[int, dict[str, Floats]]
    seconds: float


def ceiling(arena: ImpressionArena, plan: Design) -> ImpressionCeiling | None:
    """The oracle of the embedded world; None for rows of real users, and where it knows nothing that is measured.

    It is told all that a user did before, the item, the domain, the position and the device, and predicts the exact
    expectation of a measure's label among the rows of the measure's space. What a label holds and which rows count
    decide, not the names of outputs; a measure that it does not know is left out.
    """
    started = time.perf_counter()
    impressions = arena.impressions
    world = impression_world_of(impressions)
    if world is None:
        return None
    asked = _asked(world, impressions, plan)
    if not asked:
        return None
    tested = np.unique(np.concatenate([split.test for split in arena.splits.values()]))
    told = _oracle(world, impressions.position[tested])
    found = {
        seed: {name: getattr(told, known)[np.searchsorted(tested, split.test)] for name, known in asked.items()}
        for seed, split in arena.splits.items()
    }
    return ImpressionCeiling(found, time.perf_counter() - started)


def impression_world_of(impressions: Impressions) -> World | None:
    """The world whose `impressions.csv` was prepared, generated again; None for rows of real users.

    The file is looked for where it was when `prepare` ran, and where it is if it moved with the prepared folder. A
    world counts only if each row has its user and item, and at least one label holds a column of the world's.
    """
    if not (impressions.folder / "run.json").is_file():
        return None
    inputs = read_run(impressions.folder, stage="prepare").get("inputs")
    given = inputs.get("rows") if isinstance(inputs, dict) else None
    if not isinstance(given, list) or len(given) != 1 or Path(str(given[0])).name != _FILE:
        return None
    for folder in raw_folders(Path(str(given[0])).parent, prepared=impressions.folder.resolve()):
        note = read_note(folder)
        if note is not None and _FILE in note.files:
            world = World.generate(note.settings)
            if _is_of(world, impressions):
                return world
    return None


def _oracle(world: World, rows: Ints) -> ImpressionProbabilities:
    """What can be known of the world's impressions `rows` `(n,)` before they are shown."""
    shown = world.impressions.shown
    users, row = np.unique(world.impressions.user[rows], return_inverse=True)
    events = [world.histories[int(user)] for user in users]
    return world.oracle_impressions(
        Histories.of_lengths(np.concatenate(events), np.array([len(one) for one in events])),
        items=shown.item[rows],
        domains=shown.domain[rows],
        positions=shown.position[rows],
        devices=shown.device[rows],
        rows=row,
    )


def _asked(world: World, impressions: Impressions, plan: Design) -> dict[str, str]:
    """What the oracle calls that which each measure asks for, by measure; measures that it does not know are left out.

    A space is told by its rows: `click == 1` and `click > 0` are one.
    """
    columns = _columns(world, impressions)
    click, cart = (each[impressions.position] for each in (world.impressions.click, world.impressions.cart))
    spaces: Mapping[str, Bools] = {
        _ALL: np.ones_like(click),
        _CLICKED: click,
        _CARTED: cart,
        _CLICKED_ALONE: click & ~cart,
    }
    found: dict[str, str] = {}
    for name, measure in measures_of(plan).items():
        if measure.weight_by is not None:  # of all rows; the oracle knows the time of clicks
            continue
        counts = counted_rows(impressions, measure) & np.isfinite(label_of(impressions, measure))
        for space, rows in spaces.items():
            known = _KNOWN.get((columns.get(measure.label, ""), space))
            if known is not None and np.array_equal(counts, rows):
                found[name] = known
    return found


def _is_of(world: World, impressions: Impressions) -> bool:
    position, drawn = impressions.position, world.impressions
    if not len(position) or int(position.max()) >= len(drawn):
        return False
    whose = (impressions.user, impressions.user_ids.array, drawn.user, world.users)
    what = (impressions.item, impressions.item_ids.array, drawn.shown.item, world.target_items)
    for given, ids, true, names in (whose, what):
        if len(ids) and not _are(given, ids, true[position], pa.array(names, pa.string())):
            return False
    return bool(_columns(world, impressions))


def _are(given: Ints, ids: pa.ChunkedArray, true: Ints, names: pa.Array) -> bool:
    """Whether the places `given` `(N,)` in `ids` are those `true` `(N,)` in `names`; -1 is nobody."""
    places: Any = pc.call_function("index_in", [ids], pc.SetLookupOptions(value_set=names))
    there = given >= 0
    number = pc.call_function("coalesce", [places, pa.scalar(-1, pa.int32())]).to_numpy()
    return bool(np.array_equal(number[given[there]], true[there]))


def _columns(world: World, impressions: Impressions) -> dict[str, str]:
    """The column of the world's that each label, or numeric field, holds as it stands."""
    table = world.impression_table()
    named = {name: name for name in impressions.schema.of_kind("numeric")}
    named |= {rule.name: rule.column for rule in impressions.schema.rules}
    found = {}
    for name, column in named.items():
        if column in {known for known, _ in _KNOWN}:
            given = impressions.labels.get(name)
            given = impressions.numeric_field(name) if given is None else given
            true = table[column].cast(pa.float32()).to_numpy()[impressions.position]
            if np.array_equal(given, true, equal_nan=True):
                found[name] = column
    return found
