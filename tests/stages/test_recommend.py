"""Recommendations of a log's users, against encoding each user alone and sorting the whole catalogue."""

import csv
import gzip
import json
import shutil
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from peterrec.data.logs.interactions import LogColumns
from peterrec.encoders.loading import open_encoder
from peterrec.errors import DataError, PeterrecError, SettingsError
from peterrec.stages import recommend, recommended_rows
from peterrec.stages.world import COLUMNS, log_files

K = 7


def read_rows(path):
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return list(csv.DictReader(text.splitlines()))


@pytest.fixture(scope="module")
def histories(world_log):
    """Each user's items in order of time, ties in file order, by plain Python."""
    events = [row for path in log_files(world_log) for row in read_rows(path)]
    found = defaultdict(list)
    for row in sorted(events, key=lambda row: int(row["timestamp"])):
        found[row["user"]].append(row["item"])
    return dict(found)


@pytest.fixture(scope="module")
def scored(encoder_folder, histories):
    """A function from a history to {item: score}, one user at a time."""
    encoder, vocabulary = open_encoder(encoder_folder)
    rows = {item: row for row, item in enumerate(vocabulary.items.to_pylist(), start=3)}
    table = encoder.embed_tokens.weight if encoder.output is None else encoder.output.weight
    length = encoder.config.max_length

    @torch.no_grad()
    def scores(items):
        known = [rows[item] for item in items if item in rows][-length:]
        state = encoder(input_ids=torch.tensor([known])).last_hidden_state[0, -1]
        found = (table @ state).tolist()
        return {item: found[row] for item, row in rows.items()}

    return scores


@pytest.fixture(scope="module")
def popular(encoder_folder):
    """Items by falling count, then row, with their counts."""
    table = pq.read_table(encoder_folder / "vocabulary.parquet").to_pydict()
    return sorted(zip(table["item"], table["count"], strict=True), key=lambda pair: -pair[1])


@pytest.fixture
def ask(encoder_folder, world_log, tmp_path):
    """Recommends to the world's users, or those of another log; gives {user: rows} and the counts."""

    def call(source=None, *, columns=COLUMNS, output=None, k=K, **options):
        output = output or tmp_path / "out.parquet"
        source = log_files(world_log) if source is None else source
        counts = recommend.run(
            source,
            model=encoder_folder,
            output=output,
            k=k,
            columns=columns,
            device="cpu",
            overwrite=True,
            **options,
        )
        return by_user(pq.read_table(output)), counts

    return call


def by_user(table):
    found = defaultdict(list)
    for row in table.to_pylist():
        found[row["user"]].append(row)
    return dict(found)


def check(rows, scores, candidates, *, k=K, reason="history"):
    """`rows` are the k best `candidates` by `scores`, which may differ in the last bits."""
    best = sorted((scores[item] for item in candidates), reverse=True)[:k]
    assert [row["rank"] for row in rows] == list(range(1, len(best) + 1))
    items = [row["item"] for row in rows]
    assert len(set(items)) == len(items)
    assert set(items) <= set(candidates)
    assert [row["score"] for row in rows] == pytest.approx(best, abs=1e-5)
    assert [scores[item] for item in items] == pytest.approx(best, abs=1e-5)
    assert {row["reason"] for row in rows} <= {reason}


def log_of(histories):
    """A log in Arrow, each user's events in the order given."""
    rows = [(user, item, n) for user, items in histories.items() for n, item in enumerate(items)]
    users, items, times = zip(*rows, strict=True)
    return pa.table({"user": users, "item": items, "timestamp": pa.array([1_700_000_000 + n for n in times])})


@pytest.mark.parametrize("remove_seen", [None, True, False])
def test_the_best_items_of_every_user(ask, histories, scored, remove_seen):
    found, counts = ask(remove_seen=remove_seen)
    assert list(found) == sorted(histories)
    for user in list(found)[::9]:
        scores = scored(histories[user])
        check(found[user], scores, set(scores) - (set() if remove_seen is False else set(histories[user])))
    assert counts["users"] == len(histories)
    assert counts["recommendations"] == sum(map(len, found.values()))


def test_an_item_seen_long_ago_is_removed_too(ask, histories, scored, popular):
    long = [item for item, _ in popular[:60]] + [popular[0][0]] * 60  # the encoder reads the last 50 events
    found, _ = ask(log_of({"ann": long}), k=100)
    check(found["ann"], scored(long), {item for item, _ in popular} - set(long), k=100)
    assert not {row["item"] for row in found["ann"]} & set(long)


def test_unseen_items_are_ignored_and_counted(ask, histories, scored):
    user, items = max(histories.items(), key=lambda pair: len(pair[1]))
    odd = ["nothing", *items[:4], "neither", *items[4:], "nor this"]
    found, counts = ask(log_of({user: odd}))
    assert (counts["events"], counts["unseen_events"]) == (len(odd), 3)
    scores = scored(items)
    check(found[user], scores, set(scores) - set(items))


def test_users_without_known_items_get_the_popular_ones(ask, histories, scored, popular, tmp_path):
    user = min(histories)
    people = tmp_path / "people.csv"
    people.write_text(f"user\n{user}\nnobody\nstranger\n")
    log = pa.concat_tables([log_of({user: histories[user]}), log_of({"stranger": ["unheard", "of"]})])
    found, counts = ask(log, users=people)
    assert sorted(found) == sorted([user, "nobody", "stranger"])
    for other in ("nobody", "stranger"):
        assert [(row["item"], row["score"]) for row in found[other]] == popular[:K]
        assert {row["reason"] for row in found[other]} == {"popularity"}
    assert {row["reason"] for row in found[user]} == {"history"}
    assert counts["users_without_known_items"] == 2
    only, _ = ask(log_of({"stranger": ["unheard"]}))
    assert [row["item"] for row in only["stranger"]] == [item for item, _ in popular[:K]]


def test_lists_of_items(ask, histories, scored, popular, tmp_path):
    names = [item for item, _ in popular]
    allowed, blocked = names[10:40], names[30:60]
    (tmp_path / "allow.txt").write_text("\ufeff" + "\r\n".join([*allowed, "", "unknown", allowed[0]]), "utf-8")
    pq.write_table(pa.table({"item": blocked, "why": ["x"] * 30}), tmp_path / "block.parquet")
    users = sorted(histories)[:40]
    log = pa.concat_tables([log_of({user: histories[user]}) for user in users] + [log_of({"zoe": ["unheard"]})])
    for lists, kept in (
        ({"allow": tmp_path / "allow.txt"}, set(allowed)),
        ({"block": tmp_path / "block.parquet"}, set(names) - set(blocked)),
        ({"allow": tmp_path / "allow.txt", "block": tmp_path / "block.parquet"}, set(allowed) - set(blocked)),
    ):
        found, counts = ask(log, k=25, **lists)
        for user in users[::4]:
            check(found.get(user, []), scored(histories[user]), kept - set(histories[user]), k=25)
        assert [row["item"] for row in found["zoe"]] == [item for item in names if item in kept][:25]
        if "allow" in lists:
            assert (counts["allowed_items"], counts["unknown_allowed_items"]) == (30, 1)
        if "block" in lists:
            assert (counts["blocked_items"], counts["unknown_blocked_items"]) == (30, 0)


@pytest.fixture
def other_catalogue(encoder_folder, monkeypatch):
    """The encoder as a recommender of a catalogue of its own: its items under other names, by the same table."""
    from peterrec.data.vocabulary import Vocabulary
    from peterrec.recommender import load_recommender

    def make(*, one_log=False):
        def load(*given, **options):
            found = load_recommender(*given, **options)
            names = [f"t-{item}" for item in found.known.items.to_pylist()]
            other = Vocabulary(pa.array(names, pa.string()), found.known.counts)
            return replace(found, catalogue=other, one_log=one_log)

        monkeypatch.setattr(recommend, "load_recommender", load)

    return make


def of_target(scores):
    return {f"t-{item}": score for item, score in scores.items()}


def test_what_users_have_had_of_another_catalogue_stands_in_another_log(
    ask, histories, scored, popular, other_catalogue
):
    other_catalogue()
    users = sorted(histories)[:12]
    log = log_of({user: histories[user] for user in users} | {"zoe": ["unheard"]})
    had = {user: [f"t-{popular[(n + step) % 90][0]}" for step in range(30)] for n, user in enumerate([*users, "zoe"])}
    names = {f"t-{item}" for item, _ in popular}
    free, counts = ask(log, k=100)
    assert "target_events" not in counts
    target = log_of({**had, "not asked for": ["t-x"], users[0]: [*had[users[0]], "t-unknown"]})
    found, counts = ask(log, k=100, target=target)
    for user in users:
        scores = of_target(scored(histories[user]))
        check(free[user], scores, names, k=100)
        check(found[user], scores, names - set(had[user]), k=100)
    assert [r["item"] for r in found["zoe"]] == [f"t-{i}" for i, _ in popular if f"t-{i}" not in had["zoe"]]
    assert (counts["target_events"], counts["unseen_target_events"]) == (13 * 30 + 1, 1)
    with pytest.raises(SettingsError, match="--target"):
        ask(log, remove_seen=True)
    with pytest.raises(SettingsError, match="--keep-seen"):
        ask(log, remove_seen=False, target=target)


def test_a_model_made_from_one_log_finds_both_catalogues_in_it(ask, histories, scored, other_catalogue):
    other_catalogue(one_log=True)
    user = min(histories)
    items = histories[user]
    log = log_of({user: [name for item in items for name in (item, f"t-{item}", "unheard")]})
    found, counts = ask(log, k=100)
    assert (counts["events"], counts["target_events"], counts["unseen_events"]) == tuple(
        len(items) * n for n in (3, 1, 1)
    )
    scores = of_target(scored(items))
    check(found[user], scores, scores.keys() - {f"t-{item}" for item in items}, k=100)
    found, _ = ask(log, k=100, remove_seen=False)
    check(found[user], scores, scores, k=100)


@pytest.mark.parametrize("one_log", [True, False])
def test_a_model_of_mixed_histories_reads_both(
    encoder_folder, one_log, histories, other_catalogue, monkeypatch, tmp_path
):
    read = []

    def load(*given, **options):
        def vectors(sequences, rows):
            read.extend(sequences.items_of(row).tolist() for row in rows)
            return torch.zeros(len(rows), 16)

        return replace(found(*given, **options), vectors=vectors, mixed=True)

    other_catalogue(one_log=one_log)
    found = recommend.load_recommender
    monkeypatch.setattr(recommend, "load_recommender", load)
    items = ["i0001", "t-i0002", "i0003", "t-i0001", "unheard"]
    both = pa.table({"user": ["ann"] * 5, "item": items, "timestamp": [1_700_000_000 + n for n in range(5)]})
    logs = {"source": both} if one_log else {"source": both.take([0, 2, 4]), "target": both.take([1, 3])}
    rows = open_encoder(encoder_folder)[1].rows(["i0001", "i0002", "i0003"]).tolist()
    size = len(open_encoder(encoder_folder)[1])
    counts = recommend.run(
        logs.pop("source"), model=encoder_folder, output=None, k=100, columns=COLUMNS, device="cpu", **logs
    )
    assert read == [[rows[0], size + rows[1] - 3, rows[2], size + rows[0] - 3]]
    assert counts["target_events"] == 2
    assert not {"t-i0001", "t-i0002"} & set(counts["recommendations"]["item"].to_pylist())


def test_too_few_candidates_give_fewer_rows(ask, histories, popular, tmp_path):
    allow = tmp_path / "allow.csv"
    user = min(histories)
    mine = histories[user][0]
    others = [item for item, _ in popular if item not in histories[user]][:2]
    allow.write_text("item\n" + "\n".join([mine, *others]) + "\n")
    log = log_of({user: histories[user], "zoe": ["unheard"]})
    found, counts = ask(log, allow=allow)
    assert {row["item"] for row in found[user]} == set(others)
    assert len(found["zoe"]) == 3
    assert counts["users_with_fewer_items"] == 2
    assert counts["recommendations"] == 5
    allow.write_text(f"item\n{mine}\n")
    found, counts = ask(log, allow=allow)
    assert list(found) == ["zoe"]


def test_blocks_and_batches_change_nothing(ask, histories, scored, monkeypatch, tmp_path):
    whole, counts = ask()
    monkeypatch.setattr(recommended_rows, "BLOCK_USERS", 37)
    monkeypatch.setattr(recommended_rows, "BLOCK_EVENTS", 500)
    cut, again = ask(output=tmp_path / "cut.parquet")
    assert pq.ParquetFile(tmp_path / "cut.parquet").num_row_groups > 400 // 37
    assert {**again, "output": ""} == {**counts, "output": ""}
    assert list(cut) == list(whole)
    for user, rows in whole.items():
        assert [row["score"] for row in cut[user]] == pytest.approx([row["score"] for row in rows], abs=1e-5)
    user = sorted(histories)[5]
    alone, _ = ask(log_of({user: histories[user]}))
    assert [row["item"] for row in alone[user]] == [row["item"] for row in whole[user]]


def test_the_same_twice(ask, tmp_path):
    ask(output=tmp_path / "a.parquet")
    ask(output=tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_of_equal_scores_the_more_frequent_item_comes_first(encoder_folder, world_log, popular, tmp_path):
    from safetensors.torch import load_file, save_file

    flat = shutil.copytree(encoder_folder, tmp_path / "flat")
    weights = load_file(flat / "model.safetensors")
    table = "output.weight" if "output.weight" in weights else "embed_tokens.weight"
    weights[table][3:] = weights[table][3]
    save_file(weights, flat / "model.safetensors", metadata={"format": "pt"})
    output = tmp_path / "flat.parquet"
    recommend.run(
        log_files(world_log), model=flat, output=output, k=5, columns=COLUMNS, remove_seen=False, device="cpu"
    )
    for rows in by_user(pq.read_table(output)).values():
        assert [row["item"] for row in rows] == [item for item, _ in popular[:5]]


def test_without_an_output_the_first_users_are_returned(encoder_folder, world_log, histories, ask, tmp_path):
    found, _ = ask()
    counts = recommend.run(
        log_files(world_log), model=encoder_folder, output=None, k=K, columns=COLUMNS, device="cpu", shown=4
    )
    shown = by_user(counts.pop("recommendations"))
    assert list(shown) == sorted(histories)[:4]
    for user, rows in shown.items():
        assert [row["item"] for row in rows] == [row["item"] for row in found[user]]
    assert counts["users"] == len(histories)


def test_the_file_is_whole_or_absent(ask, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(recommended_rows, "_table", broken)
    output = tmp_path / "new" / "out.parquet"
    with pytest.raises(RuntimeError, match="in the middle"):
        ask(output=output)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"k": 0}, SettingsError, ["k is 0"]),
        ({"allow": "none.txt"}, SettingsError, ["--allow", "none.txt", "no such file"]),
        ({"block": "none.parquet"}, SettingsError, ["--block", "none.parquet"]),
        ({"allow": "strange.txt"}, DataError, ["--allow", "strange.txt", "none of its 2 items", "'zzz'"]),
        ({"allow": "empty.txt"}, DataError, ["empty.txt"]),
        ({"block": "latin.txt"}, DataError, ["latin.txt", "line 2", "UTF-8"]),
        ({"block": "wide.csv"}, DataError, ["wide.csv", "'item'", "name"]),
        ({"block": "holes.csv"}, DataError, ["holes.csv", "row 3"]),
        ({"target": ["log.csv"]}, SettingsError, ["--target", "cold-start"]),
        ({"encoder": "elsewhere"}, SettingsError, ["--encoder"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict | list) else value.__name__,
)
def test_mistakes_are_told_and_leave_nothing(ask, tmp_path, options, error, words):
    files = {
        "strange.txt": b"zzz\nyyy\n",
        "empty.txt": b"\n\n",
        "latin.txt": b"a\ncaf\xe9\n",
        "wide.csv": b"name,why\na,b\n",
        "holes.csv": b"item,why\na,b\n,c\nb,d\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    given = {
        name: tmp_path / value if name in ("allow", "block", "encoder") else value for name, value in options.items()
    }
    with pytest.raises(error) as caught:
        ask(**given)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "out.parquet").exists()


def test_runs_that_recommend_nothing_are_refused(encoder_folder, world_log, prepared_folder, tmp_path):
    run = json.loads((encoder_folder / "run.json").read_text())
    of_users = run["settings"]["objective"] | {"next_item": 0.0, "contrast": 1.0}
    for name, change in (("users", {"settings": {"objective": of_users}}), ("task", {"stage": "finetune"})):
        shutil.copytree(encoder_folder, tmp_path / name)
        (tmp_path / name / "run.json").write_text(json.dumps({**run, **change}))
    for model, words in (
        (tmp_path / "users", "contrast"),
        (tmp_path / "task", "peterrec predict"),
        (prepared_folder, "prepare"),
    ):
        with pytest.raises(PeterrecError, match=words) as caught:
            recommend.run(log_files(world_log), model=model, output=tmp_path / "o.parquet", columns=COLUMNS)
        assert caught.value.exit_code == 2
    assert not (tmp_path / "o.parquet").exists()


def test_a_two_sided_encoder_recommends_what_a_mask_hides(prepared_folder, small_settings, histories, tmp_path):
    from peterrec.settings import load_settings
    from peterrec.stages import pretrain
    from peterrec.stages.pretrain import PretrainSettings

    settings = load_settings(
        PretrainSettings,
        overrides=[
            *(
                "encoder.kind=nextitnet",
                "encoder.hidden_size=8",
                "encoder.dilations=[1,2]",
                "encoder.max_length=20",
                "encoder.causal=false",
            ),
            *("objective.next_item=0", "objective.masked_item=1", "training.epochs=1", "training.device=cpu"),
        ],
    )
    model = tmp_path / "encoder"
    pretrain.run(prepared_folder, output=model, settings=settings, progress="silent")
    user = min(histories)
    log = log_of({user: histories[user]})
    recommend.run(log, model=model, output=tmp_path / "o.parquet", k=3, columns=COLUMNS, device="cpu")
    encoder, vocabulary = open_encoder(model)
    rows = vocabulary.rows(histories[user])
    ids = np.concatenate([rows[rows >= 0][-20:], [1]])  # MASK behind
    with torch.no_grad():
        state = encoder(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0, -1]
        scores = encoder.score_table() @ state
    scores[:3] = scores[rows[rows >= 0]] = -torch.inf
    best = vocabulary.ids(scores.topk(3).indices)
    assert pq.read_table(tmp_path / "o.parquet")["item"].to_pylist() == best


def test_the_columns_of_another_log(ask, histories, scored):
    user = min(histories)
    log = log_of({user: histories[user]}).rename_columns(["who", "what", "at"])
    found, _ = ask(log, columns=LogColumns(user="who", item="what", time="at"))
    scores = scored(histories[user])
    check(found[user], scores, set(scores) - set(histories[user]))
