"""Examples that share the pass over a window: what each reads, that it is nothing later, and that it learns."""

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
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders import NextItNet, NextItNetConfig, SASRec, SASRecConfig
from peterrec.errors import SettingsError
from peterrec.training.finetuning import FinetuningSettings
from peterrec.training.loop import train
from peterrec.training.own_histories import OwnHistories
from peterrec.training.progress import Progress
from peterrec.training.ranking import RankingProgram
from peterrec.training.shared_windows import SharedWindows
from peterrec.training.tracking import Tracker

CPU = torch.device("cpu")
USERS, ITEMS, TARGETS = 90, 12, 6


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Each target item is that of the last source item before it (half as many); times interleave."""
    random = np.random.default_rng(1)
    source, target = [], []
    for user in range(USERS):
        for time in range(int(random.integers(4, 15))):
            item = int(random.integers(ITEMS))
            source.append((f"u{user}", f"s{item}", 10 * time))
            if random.random() < 0.6:
                target.append((f"u{user}", f"t{item // 2}", 10 * time + 5))
        target.append((f"u{user}", f"t{item // 2}", 10 * time + 7))
    tables = [
        pa.table(dict(zip(("user", "item", "time"), map(list, zip(*rows, strict=True)), strict=True)))
        for rows in (source, target)
    ]
    vocabulary = Vocabulary.build([f"s{n}" for n in range(ITEMS)], counts=np.ones(ITEMS))
    logs = TwoLogs(*tables, source_columns=LogColumns(), target_columns=LogColumns())
    return write_pairs(logs, folder=tmp_path_factory.mktemp("pairs") / "pairs", vocabulary=vocabulary)


def make_program(pairs, *, encoder=None, adapter="none", max_length=20, settings=None, note=None, **task):
    torch.manual_seed(3)
    if encoder is None:
        encoder = NextItNet(NextItNetConfig(vocab_size=3 + ITEMS, hidden_size=16, dilations=(1, 2), dropout=0.0))
    recipe = RankingTask.model_validate({"name": "test", "kind": "ranking", "readout": "last", "positives": 4} | task)
    users = np.random.default_rng(7).permutation(USERS)
    trained, watched = np.sort(users[:60]), np.sort(users[60:])
    model = build_ranking(
        encoder, adapter=catalogue.adapter(adapter), task=recipe, rows=len(pairs.target_vocabulary), counts=None
    )
    values = {"users": 16, "epochs": 3, "warmup": 2, "learning_rate": 0.03, "device": "cpu", "precision": "fp32"}
    return RankingProgram(
        model,
        pairs=pairs,
        task=recipe,
        train=trained,
        validation=Examples(choose_events(pairs, watched, which="last", fewest_source=recipe.fewest_source)),
        max_length=max_length,
        settings=FinetuningSettings.model_validate(values | (settings or {})),
        note=note,
    )


def run(program, **options):
    return train(
        program, program._settings, checkpoints=None, tracker=Tracker(), progress=Progress("silent"), **options
    )


@pytest.mark.parametrize("history", ["source", "mixed"])
@pytest.mark.parametrize("max_length", [30, 5])
def test_an_example_reads_what_came_before_it_in_its_window(pairs, history, max_length):
    """Against each example's own stretch of events, encoded alone."""
    program = make_program(pairs, history=history, max_length=max_length, adapter="serial")
    model, seen = program.model.eval(), 0
    whole, before = (pairs.sources, pairs.before) if history == "source" else (pairs.mixed, pairs.place)
    for step in program.steps(1):
        for piece in program.pieces(step, part=0, parts=1):
            windows = piece.reads
            found = program.reads.vectors(windows, CPU)
            assert len(found) == len(piece.events)
            for vector, event, row in zip(found, piece.events, windows.rows, strict=True):
                owner, stop = int(pairs.owner[event]), int(before[event])
                start = int(windows.start[row])
                assert owner == windows.users[row]
                assert max(stop - max_length, 0) <= start < stop <= windows.stop[row] <= start + max_length
                alone = torch.from_numpy(whole.items_of(owner)[start:stop].astype(np.int64)).unsqueeze(0)
                with torch.no_grad():
                    torch.testing.assert_close(vector, model.user_vectors(alone)[0], atol=1e-5, rtol=1e-5)
                seen += 1
    assert seen > 100
    if max_length == 30:  # no history is longer: every window begins with it
        assert all(not step.start.any() for step in program.steps(1))


def test_an_epoch_draws_each_user_once_and_all_events_in_the_end(pairs):
    program = make_program(pairs, positives=2, max_length=5)
    epochs = []
    for epoch in range(1, 41):
        steps = program.steps(epoch)
        users = np.concatenate([step.users for step in steps])
        events = np.concatenate([step.events for step in steps])
        assert len(np.unique(users)) == len(users) == len(np.unique(pairs.owner[program.reads.events]))
        assert np.unique(pairs.owner[events], return_counts=True)[1].max() == 2
        assert len(np.unique(events)) == len(events)
        for step in steps:
            np.testing.assert_array_equal(step.users[step.rows], pairs.owner[step.events])
        epochs.append(events)
    assert set(np.concatenate(epochs)) == set(program.reads.events)
    assert not np.array_equal(np.sort(epochs[0]), np.sort(epochs[1]))
    again = np.concatenate([step.events for step in make_program(pairs, positives=2, max_length=5).steps(7)])
    np.testing.assert_array_equal(again, epochs[6])


@pytest.mark.parametrize("loss", ["softmax", "sampled", "bpr", "bce"])
def test_losses_do_not_depend_on_how_a_step_is_cut(pairs, loss):
    whole = make_program(pairs, loss=loss, adapter="serial")
    small = make_program(pairs, loss=loss, adapter="serial", settings={"micro_batch": 20})
    for each in (whole, small):
        with torch.no_grad():
            each.model.head.items.copy_(torch.randn(each.model.head.items.shape, generator=torch.manual_seed(1)))
        each.model.eval()
    step = whole.steps(1)[1]
    (piece,) = whole.pieces(step, part=0, parts=1)
    pieces = [piece for part in range(3) for piece in small.pieces(step, part=part, parts=3)]
    assert len(pieces) > 3
    losses = [small.loss(piece, CPU) for piece in pieces]
    assert sum(weight for _, weight in losses) == whole.weight(step) == len(step.events)
    mean = sum(value.item() * weight for value, weight in losses) / len(step.events)
    assert mean == pytest.approx(whole.loss(piece, CPU)[0].item(), abs=1e-5)


def test_it_learns_what_the_last_event_says(pairs):
    encoder = SASRec(SASRecConfig(vocab_size=3 + ITEMS, hidden_size=16, max_length=20, dropout=0.0))
    program = make_program(pairs, encoder=encoder, adapter="full", settings={"epochs": 25}, metric="mrr")
    assert run(program).best_metric > 0.9, "one of six items"


def test_a_step_reads_nothing_back_from_the_device(pairs, monkeypatch):
    """`meta` tensors have no values: reading one raises."""
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device="cpu": device != "meta" and enabled(device))
    program = make_program(pairs, adapter="serial")
    (piece,) = program.pieces(program.steps(1)[0], part=0, parts=1)
    program.model.to("meta").train()
    value, _ = program.loss(piece, torch.device("meta"))
    value.backward()
    assert program.model.head.items.grad is not None


def test_a_batch_of_one(pairs):
    program = make_program(pairs, settings={"users": 1, "epochs": 1}, positives=1)
    assert all(len(step.users) == 1 for step in program.steps(1))
    assert np.isfinite(run(program).history[-1]["loss"])


def test_where_windows_fit(pairs):
    """By default where they do; asked for where they do not, that is said."""
    notes = []
    assert isinstance(make_program(pairs, note=notes.append).reads, SharedWindows)
    assert "share one pass" in notes[0]
    assert isinstance(make_program(pairs, windows=False).reads, OwnHistories)
    assert isinstance(make_program(pairs, readout="mean").reads, OwnHistories)
    with pytest.raises(SettingsError, match=r"windows = true .* nextitnet encoder with the readout mean"):
        make_program(pairs, readout="mean", windows=True)
    two_sided = NextItNet(NextItNetConfig(vocab_size=3 + ITEMS, hidden_size=16, dilations=(1, 2), causal=False))
    assert isinstance(make_program(pairs, encoder=two_sided).reads, OwnHistories)


def test_windows_are_no_longer_than_the_encoder_takes(pairs):
    encoder = SASRec(SASRecConfig(vocab_size=3 + ITEMS, hidden_size=16, max_length=6))
    program = make_program(pairs, encoder=encoder, max_length=50)
    assert program.reads.max_length == 6
    assert max((step.stop - step.start).max() for step in program.steps(1)) <= 7
