"""A server's answers against those of the stages, alone and mixed; its memory; tasks that come and go."""

import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from peterrec.data.logs.interactions import LogColumns
from peterrec.encoders.loading import load_encoder, read_config, save_encoder
from peterrec.errors import DataError, RefusedError, SettingsError
from peterrec.serving import family
from peterrec.serving.requests import Encode, Predict, Recommend
from peterrec.serving.server import Server, UnknownTaskError
from peterrec.stages import encode, predict, recommend

COLUMNS = LogColumns(user="user", item="item", time="time")
CLASSES = [
    "head",
    "head_last",
    "head_short",
    "head_too",
    "serial",
    "serial_too",
    "serial_tcl",
    "parallel",
    "lora",
    "lora_too",
    "ln",
    "full",
    "windows",
    "serial_windows",
    "serial_windows_too",
]
RANKINGS = ["cold", "cold_serial", "cold_one", "cold_mixed"]


@pytest.fixture(scope="module")
def users(wanted_users, tmp_path_factory):
    path = tmp_path_factory.mktemp("users") / "users.csv"
    path.write_text("\n".join(["user", *wanted_users.to_pylist()]) + "\n")
    return path


@pytest.fixture(scope="module")
def predicted(runs, log, users, tmp_path_factory):
    """What `peterrec predict` says of each task, made once."""
    made = {}

    def of(name):
        if name not in made:
            out = tmp_path_factory.mktemp("predicted") / "out.parquet"
            predict.run([log], model=runs / name, output=out, columns=COLUMNS, users=users, device="cpu")
            made[name] = pq.read_table(out).sort_by("user")
        return made[name]

    return of


@pytest.fixture(scope="module")
def recommended(runs, encoder_folder, log, users):
    """What `peterrec recommend` says: for each user (items, scores, reason)."""

    def of(name, **more):
        model = encoder_folder if name is None else runs / name
        counts = recommend.run(
            [log], model=model, output=None, columns=COLUMNS, users=users, device="cpu", k=7, shown=99, **more
        )
        rows = counts["recommendations"].to_pylist()
        return {
            user: [row for row in rows if row["user"] == user]
            for user in pq.read_table(_ids(users)).column("user").to_pylist()
        }

    return of


def _ids(users):
    import pyarrow.csv

    path = users.with_suffix(".parquet")
    pq.write_table(pyarrow.csv.read_csv(users), path)
    return path


@pytest.fixture
def server(encoder_folder):
    return Server(encoder_folder, device="cpu")


@pytest.fixture(scope="module")
def full_server(encoder_folder, runs):
    made = Server(encoder_folder, device="cpu")
    for name in [*CLASSES, *RANKINGS]:
        made.add(name, runs / name)
    return made


def told(table):
    return np.stack([table[name].to_numpy() for name in table.column_names if name.startswith("p_")], axis=1)


@pytest.mark.parametrize("name", CLASSES)
def test_alone_a_task_says_what_predict_says_to_the_bit(server, name, runs, histories, predicted):
    server.add(name, runs / name)
    found = server.predict(histories, tasks=[name])[name]
    table = predicted(name)
    np.testing.assert_array_equal(found.probabilities, told(table))
    assert found.predicted == table["predicted"].to_pylist()
    assert found.read.events.tolist() == table["events"].to_pylist()
    assert found.read.used.tolist() == table["events_used"].to_pylist()
    assert found.read.unknown.tolist() == [0, 0, 1, 0, 1, 0, 0, 0, 0, 2, 0, 0]


def test_all_at_once_they_say_the_same_in_few_passes(full_server, histories, predicted, recommended):
    requests = [Predict(histories, CLASSES), Encode(histories)]
    requests += [Recommend(histories, task=name, k=7) for name in [None, *RANKINGS]]
    jobs = [full_server.job(request) for request in requests]
    ran = full_server.run(jobs)
    for name in CLASSES:
        np.testing.assert_allclose(ran.answers[0][name].probabilities, told(predicted(name)), atol=1e-5)
    for number, name in enumerate([None, *RANKINGS]):
        answer = ran.answers[2 + number]
        for items, scores, known, rows in zip(
            answer.items, answer.scores, ~answer.by_popularity, recommended(name).values(), strict=True
        ):
            assert [row["item"] for row in rows] == items, name
            np.testing.assert_allclose(scores, [row["score"] for row in rows], rtol=1e-4, atol=1e-5)
            assert {row["reason"] for row in rows} == {"history" if known else "popularity"}
    assert ran.passes < len(CLASSES) + len(RANKINGS) + 2


def test_heads_share_a_pass_and_adapters_a_batch(full_server, histories):
    def ran(*names):
        return full_server.run([full_server.job(Predict(histories, [name])) for name in names])

    known = sum(1 for items in histories if set(items) - {"nobody", "knows", "never seen"})
    one = ran("head")
    assert (one.passes, one.rows) == (1, known)
    heads = full_server.run([full_server.job(Predict(histories, ["head", "head_too"]))])
    assert (heads.passes, heads.rows) == (1, known), "a history is encoded once for both"
    both = ran("serial", "serial_too")
    assert (both.passes, both.rows) == (1, 2 * known), "a row for each adapter, in one batch"
    assert ran("lora", "lora_too").passes == 1
    assert ran("ln", "head").passes == 2
    mixed = full_server.run(
        [full_server.job(Predict(histories, ["head", "head_too", "serial", "serial_too", "lora", "lora_too"]))]
    )
    assert (mixed.passes, mixed.rows) == (3, 5 * known)


def test_what_is_said_of_tasks(full_server):
    notes = {note.name: note for note in full_server.tasks}
    assert list(notes) == sorted([*CLASSES, *RANKINGS])
    assert notes["head"].shares == "pass"
    assert notes["head"].outputs == ("f", "m", "x")
    assert notes["cold"].shares == "pass"
    assert notes["serial"].shares == "batch"
    assert "serial_too" in notes["serial"].with_tasks
    assert "cold_serial" in notes["serial"].with_tasks
    assert notes["lora"].with_tasks == ("lora_too",)
    assert notes["ln"].shares == "weights"
    assert notes["cold_mixed"].shares == "weights"
    assert notes["full"].shares == "nothing"
    assert notes["full"].bytes > full_server.shared.bytes
    small = [note for note in notes.values() if note.kind == "classification" and note.name != "full"]
    assert all(note.bytes < full_server.shared.bytes for note in small)


def test_the_encoder_is_in_memory_once_and_stays_as_it_was(full_server, encoder_folder):
    shared = full_server.shared.encoder
    own = load_encoder(encoder_folder).state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in shared.state_dict().items())
    table = shared.embed_tokens.weight.data_ptr()
    for name, task in full_server._placement.tasks.items():
        if name in ("full", "cold_mixed"):
            continue
        found = [p for key, p in task.route.engine.encoder.named_parameters() if "embed_tokens" in key]
        assert table in {p.data_ptr() for p in found}, name


def test_encode_says_what_the_stage_says(server, encoder_folder, log, users, histories, tmp_path):
    encode.run([log], encoder=encoder_folder, output=tmp_path / "v.parquet", columns=COLUMNS, users=users, device="cpu")
    table = pq.read_table(tmp_path / "v.parquet").sort_by("user")
    found = server.encode(histories)
    np.testing.assert_array_equal(found.vectors, np.stack(table["vector"].to_pylist()))
    assert found.read.used.tolist() == table["events_used"].to_pylist()


@pytest.mark.parametrize("name", [None, *RANKINGS])
@pytest.mark.parametrize("remove_seen", [None, False])
def test_recommendations_are_those_of_the_stage(server, name, remove_seen, runs, histories, recommended):
    if name is not None:
        server.add(name, runs / name)
    found = server.answer([Recommend(histories, task=name, k=7, remove_seen=remove_seen)])[0]
    for items, scores, rows in zip(
        found.items, found.scores, recommended(name, remove_seen=remove_seen).values(), strict=True
    ):
        assert [row["item"] for row in rows] == items
        assert [row["score"] for row in rows] == scores


def test_lists_of_what_may_be_recommended(server, histories, encoder_folder):
    best = server.recommend(histories, k=5)
    first = best.items[3][0]
    (without,) = server.answer([Recommend(histories, k=4, block=[first, "unknown"])])
    assert without.items[3] == best.items[3][1:]
    (only,) = server.answer([Recommend(histories, k=9, allow=best.items[3][:2])])
    assert only.items[3] == best.items[3][:2]
    (seen,) = server.answer([Recommend(histories, k=4, seen=[[items[0]] for items in best.items])])
    assert seen.items == [items[1:] for items in best.items]
    with pytest.raises(DataError, match="allow: none of its 1 items"):
        server.answer([Recommend(histories, allow=["unknown"])])


def test_tasks_come_and_go_and_others_stay_as_they_were(server, runs, histories):
    server.add("serial", runs / "serial")
    before = server.predict(histories, tasks=["serial"])["serial"].probabilities
    held = server.job(Predict(histories, ["serial"]))
    server.add("two", runs / "serial_too")
    server.add("three", runs / "serial_tcl")
    both = server.job(Predict(histories, ["serial", "two"]))
    np.testing.assert_allclose(server.predict(histories, tasks=["serial"])["serial"].probabilities, before, atol=1e-6)
    wanted = server.predict(histories, tasks=["two"])["two"].probabilities
    server.remove("serial")
    with pytest.raises(UnknownTaskError, match="serial"):
        server.predict(histories, tasks=["serial"])
    np.testing.assert_array_equal(server.run([held]).answers[0]["serial"].probabilities, before)
    np.testing.assert_allclose(server.run([both]).answers[0]["serial"].probabilities, before, atol=1e-6)
    np.testing.assert_allclose(server.predict(histories, tasks=["two"])["two"].probabilities, wanted, atol=1e-6)
    server.remove("two")
    server.remove("three")
    assert server.tasks == []
    server.add("serial", runs / "serial")
    np.testing.assert_array_equal(server.predict(histories, tasks=["serial"])["serial"].probabilities, before)


def test_requests_and_changes_from_many_threads(server, runs, histories):
    for name in ("head", "serial", "serial_too"):
        server.add(name, runs / name)
    wanted = {name: server.predict(histories, tasks=[name])[name].probabilities for name in ("head", "serial")}
    faults = []

    def ask():
        for _ in range(6):
            found = server.predict(histories, tasks=["head", "serial"])
            faults.extend(
                name for name, want in wanted.items() if not np.allclose(found[name].probabilities, want, atol=1e-5)
            )

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(4):
        server.add(f"more{number}", runs / ["serial_tcl", "lora", "head_short", "parallel"][number])
        server.remove("serial_too" if number == 0 else f"more{number - 1}")
    for thread in threads:
        thread.join()
    assert faults == []


def test_adapters_of_a_batch_are_copied_and_tried_while_nothing_is_computed(server, runs, histories, monkeypatch):
    free = []

    def heard(function):
        def first_look(*given, **more):
            free.append(server._computing.locked())
            return function(*given, **more)

        return first_look

    for name in ("user_vectors", "twin_of"):
        monkeypatch.setattr(family, name, heard(getattr(family, name)))
    for name in ("serial", "serial_too", "serial_tcl"):
        server.add(name, runs / name)
    tried = len(free)
    assert tried >= 2 * 4  # a copy and, apart and together, at least three trials for each that joined
    server.remove("serial")
    assert len(free) > tried
    assert all(free)
    assert not server._computing.locked()
    server.predict(histories, tasks=["serial_too", "serial_tcl"])


def test_names_that_cannot_be(server, runs):
    server.add("a", runs / "head")
    with pytest.raises(SettingsError, match="served already"):
        server.add("a", runs / "head")
    for name in ("", "a/b", "../x", "-a", "a" * 65, "ä b"):
        with pytest.raises(SettingsError, match="cannot be the name"):
            server.add(name, runs / "head")
    with pytest.raises(UnknownTaskError, match="No task 'b'"):
        server.remove("b")


def test_another_encoder_is_refused(encoder_folder, runs, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(encoder_folder, other)
    torch.manual_seed(9)
    encoder = type(load_encoder(encoder_folder))(read_config(encoder_folder))
    save_encoder(encoder, config_path=other / "config.json", weights_path=other / "model.safetensors")
    server = Server(other, device="cpu")
    for name in ("head", "serial", "full", "cold"):
        with pytest.raises(RefusedError, match="another encoder"):
            server.add(name, runs / name)
    assert server.tasks == []


def test_requests_that_cannot_be_answered(server, runs, histories):
    server.add("head", runs / "head")
    server.add("cold", runs / "cold")
    for request, problem, text in [
        (Predict(histories, ["hed"]), UnknownTaskError, "Did you mean 'head'"),
        (Predict(histories, []), SettingsError, "name at least one"),
        (Predict(histories, ["cold"]), SettingsError, "ask for recommend"),
        (Recommend(histories, task="head"), SettingsError, "ask for predict"),
        (Predict([[1, 2]], ["head"]), DataError, "item ids are text"),
        (Predict(["abc"], ["head"]), DataError, "item ids are text"),
        (Recommend(histories, k=0), SettingsError, "k is 0"),
        (Recommend(histories, task="cold", remove_seen=True), SettingsError, "seen"),
        (Recommend(histories, seen=[[]]), DataError, "one for each"),
        (Recommend(histories, seen=[[]] * 12, remove_seen=False), SettingsError, "removes none"),
    ]:
        with pytest.raises(problem, match=text):
            server.answer([request])
