"""Training a ranking model: what it learns, what it may see, and that resuming and caching change nothing."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from peterrec import catalogue
from peterrec.adaptation import build_ranking
from peterrec.catalogue import RankingTask
from peterrec.data.cross_domain import TwoLogs, write_pairs
from peterrec.data.examples import Examples, choose_events
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.target_events import earlier_targets
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.errors import DataError, SettingsError
from peterrec.training.finetuning import FinetuningSettings
from peterrec.training.loop import train
from peterrec.training.progress import Progress
from peterrec.training.ranking import RankingProgram, RankingStep, queries
from peterrec.training.ranking_loss import OwnNegatives, RankingLoss
from peterrec.training.tracking import Tracker

CPU = torch.device("cpu")
USERS, ITEMS, TASTES, TARGETS = 120, 24, 4, 12


def logs(*, planted: bool, seed=0):
    """Users of one taste of four, who take source and (planted) target items of that taste; times interleave."""
    random = np.random.default_rng(seed)
    source, target = [], []
    for user in range(USERS):
        taste = user % TASTES
        for time in range(int(random.integers(6, 12))):
            source.append((f"u{user}", f"s{taste + TASTES * int(random.integers(ITEMS // TASTES))}", 10 * time))
        mine = taste if planted else int(random.integers(TASTES))
        for time in range(int(random.integers(1, 6))):
            item = mine + TASTES * int(random.integers(TARGETS // TASTES))
            target.append((f"u{user}", f"t{item}", 35 + 10 * time))
    return [
        pa.table(dict(zip(("user", "item", "time"), map(list, zip(*rows, strict=True)), strict=True)))
        for rows in (source, target)
    ]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The paired logs with a relation between the domains, and without."""
    vocabulary = Vocabulary.build([f"s{n}" for n in range(ITEMS)], counts=np.ones(ITEMS))
    found = {}
    for planted in (True, False):
        tables = TwoLogs(*logs(planted=planted), source_columns=LogColumns(), target_columns=LogColumns())
        folder = tmp_path_factory.mktemp("pairs") / "pairs"
        found[planted] = write_pairs(tables, folder=folder, vocabulary=vocabulary)
    return found


@pytest.fixture(scope="module")
def pairs(worlds):
    return worlds[True]


def make_encoder(*, dropout=0.0, **changes):
    torch.manual_seed(3)
    config = NextItNetConfig(
        vocab_size=3 + ITEMS, hidden_size=16, dilations=(1, 2, 1, 2), dropout=dropout, initializer_range=0.4, **changes
    )
    return NextItNet(config)


def task_of(**changes) -> RankingTask:
    return RankingTask.model_validate({"name": "test", "kind": "ranking", "readout": "mean", "positives": 3, **changes})


def settings_of(**changes) -> FinetuningSettings:
    values = {"users": 16, "epochs": 3, "warmup": 2, "learning_rate": 0.02, "device": "cpu", "precision": "fp32"}
    return FinetuningSettings.model_validate(values | changes)


def split():
    order = np.random.default_rng(7).permutation(USERS)
    return tuple(np.sort(part) for part in np.split(order, [70, 95]))


def make_program(pairs, task, *, adapter="none", settings=None, encoder=None, note=None, counts=True):
    train_users, watched, _ = split()
    torch.manual_seed(0)
    encoder = make_encoder() if encoder is None else encoder
    events = np.isin(pairs.owner, train_users)
    number = np.bincount(pairs.item[events], minlength=len(pairs.target_vocabulary))
    model = build_ranking(
        encoder,
        adapter=catalogue.adapter(adapter),
        task=task,
        rows=len(pairs.target_vocabulary),
        counts=number if counts else None,
    )
    return RankingProgram(
        model,
        pairs=pairs,
        task=task,
        train=train_users,
        validation=Examples(choose_events(pairs, watched, which=task.predict, fewest_source=task.fewest_source)),
        max_length=20,
        settings=settings or settings_of(),
        note=note,
    )


def run(program, *, checkpoints=None, on_epoch=None):
    return train(
        program,
        program._settings,
        checkpoints=checkpoints,
        tracker=Tracker(),
        progress=Progress("silent"),
        on_epoch=on_epoch,
    )


def hits(program, pairs, task):
    """HR@3 of the last target event of the test users, by the model's own scores and a plain count."""
    events = choose_events(pairs, split()[2], which="last")
    model = program.model
    found = queries(model, pairs, Examples(events), history=task.history, max_length=20, device=CPU)
    with torch.no_grad():
        scores = model.head.scores(found)
    own = scores[torch.arange(len(events)), torch.from_numpy(pairs.item[events].astype(np.int64))]
    return ((scores > own[:, None]).sum(dim=1) < 3).float().mean().item()


@pytest.mark.parametrize("loss", ["softmax", "sampled", "bpr", "bce"])
def test_it_learns_a_planted_relation(pairs, loss):
    changes = {} if loss == "softmax" else {"negatives": 6}
    task = task_of(loss=loss, **changes)
    program = make_program(pairs, task, settings=settings_of(epochs=15))
    before = hits(program, pairs, task)
    result = run(program)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert hits(program, pairs, task) > 0.55 > before + 0.2


def test_it_learns_nothing_from_noise(worlds):
    task = task_of()
    program = make_program(worlds[False], task, settings=settings_of(epochs=15))
    run(program)
    assert hits(program, worlds[False], task) < 0.5, "3 of 12 items by chance"


def test_validation_is_that_of_a_plain_loop(pairs):
    task = task_of(predict="all")
    program = make_program(pairs, task, settings=settings_of(epochs=2))
    run(program)
    model, events = program.model, program._checked.events
    figures = program.validate()
    of_users = {}
    table, bias = model.head.score_table().detach().numpy(), model.head.bias.detach().numpy()
    for event in events:
        owner, before = int(pairs.owner[event]), int(pairs.before[event])
        seen = torch.from_numpy(pairs.sources.items_of(owner)[:before][-20:].astype(np.int64))
        with torch.no_grad():
            query = model.head.query(model.user_vectors(seen.unsqueeze(0)))[0].numpy()
        scores = (table @ query + bias)[3:]
        place = int((scores > scores[pairs.item[event] - 3]).sum())
        of_users.setdefault(owner, []).append((place < 10, (place < 10) / np.log2(place + 2), 1 / (place + 1)))
    wanted = np.mean([np.mean(rows, axis=0) for rows in of_users.values()], axis=0)
    assert [figures[name] for name in ("hr@10", "ndcg@10", "mrr")] == pytest.approx(wanted, abs=1e-6)


ADAPTERS = ["none", "serial", "parallel", "lora", "ln_tuning", "full", "star", "last_1"]


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("history", ["source", "mixed"])
def test_every_kind_of_adapter_trains_and_leaves_the_encoder_alone(pairs, adapter, history):
    encoder = make_encoder(dropout=0.1)
    frozen = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    tensors = dict(encoder.state_dict(keep_vars=True))
    task = task_of(history=history)
    settings = settings_of(users=64, epochs=2, warmup=0)
    program = make_program(pairs, task, adapter=adapter, encoder=encoder, settings=settings)
    start = {name: tensor.clone() for name, tensor in program.model.state_dict().items()}
    run(program)
    same = [torch.equal(frozen[name], tensor) for name, tensor in tensors.items() if not name.startswith("reader")]
    assert all(same) == (adapter != "full")
    moved = {name for name, tensor in program.model.state_dict().items() if not torch.equal(tensor, start[name])}
    assert "head.items" in moved
    assert any(name.startswith("encoder.") for name in moved) == (adapter != "none")
    assert ("head.history.marks" in moved) == (history == "mixed")


@pytest.mark.parametrize("adapter", ["none", "last_1"])
def test_what_is_computed_once_changes_nothing(pairs, adapter):
    notes, states = [], []
    for cache_mb in (64, 0):
        settings = settings_of(cache_mb=cache_mb)
        program = make_program(pairs, task_of(), adapter=adapter, settings=settings, note=notes.append)
        result = run(program)
        states.append((program.model.state_dict(), result.best_metric))
        assert program.reads.keeps_vectors == (cache_mb > 0 and adapter == "none")
        assert program.reads.keeps_states == (cache_mb > 0 and adapter == "last_1")
    assert "computed once" in notes[0]
    assert "cache_mb = 0" in notes[1]
    for name, tensor in states[0][0].items():
        torch.testing.assert_close(states[1][0][name], tensor, atol=1e-4, rtol=1e-3, msg=name)
    assert states[0][1] == pytest.approx(states[1][1], abs=1e-6)


@pytest.mark.parametrize(("adapter", "loss"), [("none", "sampled"), ("serial", "bpr"), ("serial", "softmax")])
def test_a_resumed_training_ends_with_the_same_bits(pairs, adapter, loss, tmp_path):
    def program():
        return make_program(pairs, task_of(loss=loss), adapter=adapter, settings=settings_of(users=48))

    whole = program()
    run(whole)

    class Cut(Exception):
        pass

    def stop(record):
        if record["epoch"] == 2:
            raise Cut

    with pytest.raises(Cut):
        run(program(), checkpoints=tmp_path / "checkpoints", on_epoch=stop)
    again = program()
    run(again, checkpoints=tmp_path / "checkpoints")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name


def test_losses_do_not_depend_on_how_a_step_is_cut(pairs):
    for loss in ("softmax", "sampled", "bpr", "bce"):
        program = make_program(pairs, task_of(loss=loss), adapter="serial", settings=settings_of(micro_batch=20))
        program.model.eval()
        step = program.steps(1)[1]
        whole = make_program(pairs, task_of(loss=loss), adapter="serial", settings=settings_of(micro_batch=10**6))
        whole.model.eval()
        for each in (program, whole):
            with torch.no_grad():
                each.model.head.items.copy_(torch.randn(each.model.head.items.shape, generator=torch.manual_seed(1)))
        (piece,) = whole.pieces(step, part=0, parts=1)
        wanted = whole.loss(piece, CPU)[0].item()
        pieces = [piece for part in range(3) for piece in program.pieces(step, part=part, parts=3)]
        assert len(pieces) > 3
        losses = [program.loss(piece, CPU) for piece in pieces]
        assert sum(weight for _, weight in losses) == program.weight(step) == len(step.events)
        assert sum(mean.item() * weight for mean, weight in losses) / len(step.events) == pytest.approx(
            wanted, abs=1e-5
        )


@pytest.mark.parametrize("loss", ["softmax", "sampled", "bpr", "bce"])
@pytest.mark.parametrize("history", ["source", "mixed"])
def test_a_step_reads_nothing_back_from_the_device(pairs, loss, history, monkeypatch):
    """`meta` tensors have no values: reading one raises. Autocast, which does not know the device, is told of it."""
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device="cpu": device != "meta" and enabled(device))
    task = task_of(loss=loss, history=history)
    program = make_program(pairs, task, adapter="serial", settings=settings_of(micro_batch=10**6))
    pieces = program.pieces(program.steps(1)[0], part=0, parts=1)
    program.model.to("meta").train()
    value, weight = program.loss(pieces[0], torch.device("meta"))
    value.backward()
    assert weight == len(pieces[0].events)
    assert program.model.head.items.grad is not None


@pytest.mark.parametrize("loss", ["softmax", "sampled", "bpr", "bce"])
def test_losses_in_half_precision_are_nearly_those_in_full(pairs, loss):
    program = make_program(pairs, task_of(loss=loss), adapter="serial")
    program.model.eval()
    with torch.no_grad():
        program.model.head.items.copy_(torch.randn(program.model.head.items.shape, generator=torch.manual_seed(1)))
    piece = program.pieces(program.steps(1)[0], part=0, parts=1)[0]
    wanted = program.loss(piece, CPU)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = program.loss(piece, CPU)[0]
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=0.03)


def test_a_batch_of_one(pairs):
    for history in ("source", "mixed"):
        settings = settings_of(users=1, epochs=1)
        program = make_program(pairs, task_of(history=history, positives=1), adapter="serial", settings=settings)
        assert np.isfinite(run(program).history[-1]["loss"])


def test_a_history_ends_before_its_target(pairs, monkeypatch):
    """What comes later, in whichever log, changes neither losses nor figures; what came before does."""
    for history in ("source", "mixed"):
        program = make_program(pairs, task_of(history=history))
        shown, events = program.reads.targets.histories, program.reads.targets.events
        rows = program.reads.targets.history_of(events)
        stops = pairs.before[events] if history == "source" else pairs.place[events]
        whole = pairs.sources if history == "source" else pairs.mixed
        for row, event, stop in zip(rows, events, stops, strict=True):
            np.testing.assert_array_equal(shown.items_of(int(row)), whole.items_of(int(pairs.owner[event]))[:stop])
        if history == "mixed":
            hidden = [whole.items_of(int(pairs.owner[e]))[s] for e, s in zip(events, stops, strict=True)]
            np.testing.assert_array_equal(np.array(hidden) - len(pairs.source_vocabulary) + 3, pairs.item[events])


def test_few_positives_an_epoch_need_few_histories(pairs):
    program = make_program(pairs, task_of(positives=1), settings=settings_of(epochs=2))
    drawn = [program.reads.targets.draw(epoch) for epoch in (1, 2)]
    assert sorted({*drawn[0], *drawn[1]}) == program.reads.targets.events.tolist()
    for events in drawn:
        assert np.all(np.unique(pairs.owner[events], return_counts=True)[1] == 1)
    assert not np.array_equal(*drawn)
    assert sum(len(step.events) for step in program.steps(2)) == len(drawn[1])


def test_mixed_histories_start_as_source_histories(pairs):
    """Without target items they are the same to the bit; a target item before the target then counts, once learned."""
    for name, readout in (("none", "mean"), ("serial", "last"), ("none", "tcl")):
        plain = make_program(pairs, task_of(readout=readout), adapter=name).model.eval()
        mixed = make_program(pairs, task_of(readout=readout, history="mixed"), adapter=name).model.eval()
        ids = torch.tensor([[3, 9, 14, 0, 0], [5, 6, 7, 8, 4]])
        assert torch.equal(plain.user_vectors(ids), mixed.user_vectors(ids))
    program = make_program(pairs, task_of(history="mixed"), settings=settings_of(epochs=4))
    model, first = program.model.eval(), len(pairs.source_vocabulary)
    ids = torch.tensor([[3, first, 14], [3, first + 1, 14]])
    with torch.no_grad():
        start = model.user_vectors(ids)
        assert torch.equal(start[0], start[1])
    run(program)
    with torch.no_grad():
        after = model.eval().user_vectors(ids)
    assert not torch.allclose(after[0], after[1])
    assert not torch.allclose(after[0], start[0])


def test_mixed_validation_leaves_out_what_is_shown(pairs):
    events = choose_events(pairs, np.arange(USERS), which="last")
    flat, counts = earlier_targets(pairs, events)
    places = np.cumsum(counts) - counts
    for event, place, count in zip(events, places, counts, strict=True):
        mine = np.flatnonzero(pairs.owner == pairs.owner[event])
        assert flat[place : place + count].tolist() == pairs.item[mine[mine < event]].tolist()


def test_negatives_are_none_of_the_users_positives(pairs):
    users = split()[0]
    program = make_program(pairs, task_of(loss="bpr", negatives=50))
    held = {user: set(pairs.item[pairs.owner == user].tolist()) for user in users.tolist()}
    for step in program.steps(1):
        for piece in program.pieces(step, part=0, parts=1):
            assert isinstance(piece.drawn, OwnNegatives)
            rows = program._loss.rows[piece.drawn.items]
            for event, mine in zip(piece.events, rows, strict=True):
                assert not held[int(pairs.owner[event])] & set(mine.tolist())


@pytest.mark.parametrize("loss", ["sampled", "bce"])
def test_negatives_are_drawn_anew_for_each_step_and_epoch(pairs, loss):
    program = make_program(pairs, task_of(loss=loss, negatives=4))
    events = program.steps(1)[0].events

    def drawn(epoch, number):
        found = program.pieces(RankingStep(epoch, number, events), part=0, parts=1)[0].drawn
        return (found.items if isinstance(found, OwnNegatives) else found.rows.numpy()).tolist()

    assert drawn(1, 0) == drawn(1, 0)
    several = [drawn(epoch, number) for epoch in (1, 2, 3) for number in (0, 1, 2)]
    assert len({str(each) for each in several}) > 6


@pytest.mark.parametrize("kind", ["softmax", "sampled", "bpr", "bce"])
def test_items_that_no_training_user_had_are_not_taught(pairs, kind):
    users = split()[0]
    counts = np.bincount(pairs.item[np.isin(pairs.owner, users)], minlength=len(pairs.target_vocabulary))
    gone = int(np.argmax(counts))
    users = np.setdiff1d(users, pairs.owner[pairs.item == gone])
    counts = np.bincount(pairs.item[np.isin(pairs.owner, users)], minlength=len(counts))
    assert counts[gone] == 0
    loss = RankingLoss(pairs, users, counts=counts, kind=kind, negatives=6)
    model = make_program(pairs, task_of()).model
    head = model.head
    owners = np.repeat(users, 3)[:12]
    target = loss.candidates(np.flatnonzero(counts)[np.arange(12) % 4])
    value = loss(head, torch.randn(12, 16), target, loss.draw(np.random.default_rng(0), owners))
    value.backward()
    assert head.items.grad is not None
    assert head.item_bias is not None
    assert head.items.grad.abs().sum() > 0
    assert torch.equal(head.items.grad[[0, 1, 2, gone]], torch.zeros(4, 16))
    assert torch.equal(head.item_bias.grad[[0, 1, 2, gone]], torch.zeros(4))


def test_what_cannot_be_trained_is_said(pairs):
    with pytest.raises(DataError, match="no training user has a target event with 99 or more source"):
        make_program(pairs, task_of(fewest_source=99))
    task = task_of(history="mixed", readout="attention", item_weights=True)
    with pytest.raises(SettingsError, match="readout without item_weights"):
        make_program(pairs, task)
