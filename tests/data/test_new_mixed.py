"""Mixed histories of new users, against a plain loop over the rows, and against paired logs."""

import numpy as np
import pyarrow as pa

from peterrec.data.cross_domain import TwoLogs, write_pairs
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.new_mixed import open_mixed_histories
from peterrec.data.vocabulary import Vocabulary

SOURCE, TARGET = LogColumns(), LogColumns(user="who", item="what", time="at")


def logs():
    """Both domains call their items i0, i1, …; times have ties, in and between the logs."""
    random = np.random.default_rng(0)
    made = []
    for users, events in ((range(12), 300), (range(6, 18), 200)):
        made.append(
            {
                "user": [f"u{n:02}" for n in random.choice(users, events)],
                "item": [f"i{n}" for n in random.integers(0, 14, events)],
                "time": (1_600_000_000 + random.integers(0, 40, events)).tolist(),
            }
        )
    return made


def test_all_events_in_one_order():
    source, target = logs()
    known = Vocabulary.build([f"i{n}" for n in range(10)], counts=range(10))
    catalogue = Vocabulary.build([f"i{n}" for n in range(3, 14)], counts=range(11))
    users = [f"u{n:02}" for n in range(20)]
    two = TwoLogs(pa.table(source), pa.table(target).rename_columns(["who", "what", "at"]), SOURCE, TARGET)
    wanted = {user: [] for user in users}
    events = [(t, 0, n, u, i) for n, (u, i, t) in enumerate(zip(*target.values(), strict=True))]
    events += [(t, 1, n, u, i) for n, (u, i, t) in enumerate(zip(*source.values(), strict=True))]
    for _, late, _, user, item in sorted(events):
        row = int((known if late else catalogue).rows([item])[0])
        if row >= 0:
            wanted[user].append(row if late else len(known) + row - 3)
    with open_mixed_histories(two, known=known, catalogue=catalogue, users=pa.chunked_array([users])) as found:
        assert list(found.sequences.users) == users
        for row, user in enumerate(users):
            assert found.sequences.items_of(row).tolist() == wanted[user], user


def test_they_are_those_of_training(tmp_path):
    source, target = logs()
    known = Vocabulary.build([f"i{n}" for n in range(10)], counts=range(10))
    two = TwoLogs(pa.table(source), pa.table(target).rename_columns(["who", "what", "at"]), SOURCE, TARGET)
    pairs = write_pairs(two, folder=tmp_path / "pairs", vocabulary=known)
    with open_mixed_histories(two, known=known, catalogue=pairs.target_vocabulary, users=pairs.users.array) as found:
        for row in range(len(pairs)):
            assert found.sequences.items_of(row).tolist() == pairs.mixed.items_of(row).tolist()
