"""Training with row-sparse tables: what moves, what is kept, and that it goes on to the bit after a kill."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from peterrec.data.vocabulary import PAD
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.errors import DivergedError, RefusedError, SettingsError
from peterrec.training.loop import train
from peterrec.training.optimizer import NotFiniteError, Updater, looked_up_tables
from peterrec.training.progress import Progress
from peterrec.training.settings import TrainingSettings
from peterrec.training.tracking import Tracker

torch.set_num_threads(1)
ROW_UPDATES = ("lazy_adam", "rowwise_adagrad")
STATES = {
    "lazy_adam": {"step": (), "lazy_exp_avg": (40, 8), "lazy_exp_avg_sq": (40, 8)},
    "rowwise_adagrad": {"sum": (40, 1)},
}


def encoder(*, sparse, tied=True):
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "hidden_size": 8, "dilations": (1, 2), "dropout": 0.0, "tie_output": tied}
    model = NextItNet(NextItNetConfig.from_dict(shape))
    model.sparse_rows = sparse
    return model.train()


def settings(**values):
    return TrainingSettings.model_validate({"device": "cpu", "patience": 0, "warmup": 0, **values})


def updater_of(model, **values):
    return Updater(model, settings=settings(**values), accelerator=Accelerator(cpu=True))


def loss_of(model, ids, *, targets):
    """Of states and rows alone: no row but those of `ids` and `targets` is touched."""
    hidden = model(ids).last_hidden_state
    return (hidden * model.item_rows(targets.reshape(-1)).view(*targets.shape, -1)).sum(-1).square().mean() * 1e4


IDS, TARGETS = torch.tensor([[5, 6, 5, 9, PAD], [7, 5, PAD, PAD, PAD]]), torch.tensor([[6, 5, 9, 30, 31]] * 2)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("pieces", [1, 2])
def test_the_first_step_is_that_of_dense_adam(tied, clip, pieces):
    """Then nothing stands in the moments yet, so that lazy and dense Adam are the same in every row."""
    models = [encoder(sparse=sparse, tied=tied) for sparse in (True, False)]
    for model, update in zip(models, ("lazy_adam", "dense"), strict=True):
        updater = updater_of(model, table_update=update, clip=clip, weight_decay=0.0)
        for _ in range(pieces):
            updater.add(loss_of(model, IDS, targets=TARGETS))
        updater.update(torch.tensor(1.0), step=0, rate=0.01)
    start = encoder(sparse=False, tied=tied)
    compared = zip(models[0].named_parameters(), models[1].parameters(), start.parameters(), strict=True)
    for (name, ours), wanted, before in compared:
        torch.testing.assert_close(ours, wanted, msg=name, rtol=1e-4, atol=1e-6)
        assert not torch.equal(ours, before), name


@pytest.mark.parametrize("update", ROW_UPDATES)
@pytest.mark.parametrize("tied", [True, False])
def test_only_touched_rows_move_and_pad_never_does(update, tied):
    model, start = encoder(sparse=True, tied=tied), encoder(sparse=True, tied=tied)
    updater = updater_of(model, table_update=update)
    for step in range(4):
        loss = loss_of(model, IDS, targets=TARGETS if step else torch.zeros_like(TARGETS))  # PAD among the targets
        updater.add(loss)
        updater.update(loss.detach(), step=step, rate=0.01)
    read, scored = {5, 6, 7, 9}, {5, 6, 9, 30}  # 31 stands where there is padding
    moved = (model.embed_tokens.weight != start.embed_tokens.weight).any(1).nonzero()[:, 0].tolist()
    assert set(moved) == (read | scored if tied else read)
    if not tied:
        moved = (model.output.weight != start.output.weight).any(1).nonzero()[:, 0].tolist()
        assert set(moved) == scored
    # a moment as large as the table is what fused AdamW would have made of it
    tables = {id(p) for p in updater.tables.values()}
    assert len(tables) == (1 if tied else 2)
    assert not tables & {id(p) for p in updater.optimizer.state}
    assert {id(p) for p in looked_up_tables(model)} == tables
    kept = {
        key.rpartition("/")[2]: tuple(value.shape)
        for key, value in updater.state().items()
        if key.startswith("embed_tokens.weight/")
    }
    assert kept == STATES[update]


@pytest.mark.parametrize("update", ROW_UPDATES)
@pytest.mark.parametrize("where", ["loss", "rows"])
@pytest.mark.parametrize("deferred", [False, True])
def test_numbers_that_are_not_finite_leave_everything_as_it_is(update, where, deferred):
    model = encoder(sparse=True)
    updater = updater_of(model, table_update=update)
    if deferred:  # the way of a CUDA device, on which nothing waits for the numbers
        updater._deferred, updater._bad_step = True, torch.tensor(-1)
    kept = {}
    for step in range(4):
        loss = loss_of(model, IDS, targets=TARGETS)
        if step == 2:
            kept = {k: v.detach().clone() for k, v in (dict(model.named_parameters()) | updater.state()).items()}
            loss = loss + (math.nan if where == "loss" else model.item_rows(torch.tensor([33])).mul(math.inf).sum())
        updater.add(loss)
        value = torch.tensor(math.nan if (step, where) == (2, "loss") else 1.0)
        if step == 2 and not deferred:
            with pytest.raises(NotFiniteError):
                updater.update(value, step=step, rate=0.01)
            break
        updater.update(value, step=step, rate=0.01)
    if deferred:
        with pytest.raises(NotFiniteError) as problem:
            updater.check()
        assert problem.value.step == 2
    now = dict(model.named_parameters()) | updater.state()
    counts = {"embed_tokens.weight/step"}  # of the table's steps: it goes on where nobody looks
    assert all(torch.equal(now[name], value) for name, value in kept.items() if name not in counts)
    assert all(p.grad is None for p in model.parameters())


def test_tables_with_row_sparse_gradients_are_not_updated_densely():
    with pytest.raises(SettingsError, match="row-sparse gradients; turn those off"):
        updater_of(encoder(sparse=True), table_update="dense")


def test_another_updates_state_is_refused():
    states = {}
    for update in ROW_UPDATES:
        model = encoder(sparse=True)
        updater = updater_of(model, table_update=update)
        updater.add(loss_of(model, IDS, targets=TARGETS))
        updater.update(torch.tensor(1.0), step=0, rate=0.01)
        states[update] = updater.state()
    for update, other in zip(ROW_UPDATES, reversed(ROW_UPDATES), strict=True):
        with pytest.raises(RefusedError, match=r"embed_tokens\.weight"):
            updater_of(encoder(sparse=True), table_update=update).load_state(states[other])
        with pytest.raises(RefusedError, match=r"embed_tokens\.weight"):
            updater_of(encoder(sparse=False)).load_state(states[update])
    larger = NextItNet(NextItNetConfig(vocab_size=41, hidden_size=8, dilations=(1, 2)))
    larger.sparse_rows = True
    with pytest.raises(RefusedError, match=r"embed_tokens\.weight"):
        updater_of(larger, table_update="lazy_adam").load_state(states["lazy_adam"])


class Killed(Exception):
    pass


class Rows:
    """Users whose items predict a number; dies before the steps `kills`."""

    metric = "fit"

    def __init__(self, *, kills=(), poison=None):
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Embedding(40, 8, sparse=True), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 1))
        random = np.random.default_rng(2)
        self.ids = torch.from_numpy(random.integers(1, 25, (60, 4)))  # rows that no step touches stand behind
        self.y = torch.from_numpy(random.normal(size=25)).float()[self.ids].sum(1)
        self.kills, self.poison, self.made = set(kills), poison, 0

    def steps(self, epoch):
        return np.array_split(np.random.default_rng((3, epoch)).permutation(48), 5)

    def num_targets(self, step):
        return len(step)

    weight = num_targets

    def pieces(self, step, *, part, parts):
        return np.array_split(step[part::parts], 2)

    def loss(self, piece, device):
        self.made += 1
        if self.made in self.kills:
            raise Killed
        loss = (self.model(self.ids[piece])[:, 0] - self.y[piece]).square().mean()
        return loss * (math.nan if self.made == self.poison else 1.0), len(piece)

    def validate(self):
        return {"fit": -(self.model(self.ids[48:])[:, 0] - self.y[48:]).square().mean().item()}


def run(program, folder, *, update):
    given = settings(epochs=3, learning_rate=0.02, checkpoint_every=2, seed=5, table_update=update)
    return train(program, given, checkpoints=folder, tracker=Tracker(), progress=Progress("silent"))


@pytest.mark.parametrize("update", ROW_UPDATES)
def test_it_goes_on_to_the_bit_after_kills(tmp_path, update):
    wanted = Rows()
    whole = run(wanted, None, update=update)
    for kill in (8, 6, 5):  # in the first epoch, within a step, and in the second
        with pytest.raises(Killed):
            run(Rows(kills=[kill]), tmp_path, update=update)
    resumed = Rows()
    again = run(resumed, tmp_path, update=update)
    assert resumed.made < wanted.made
    assert [record["loss"] for record in again.history] == [record["loss"] for record in whole.history]
    assert whole.history[0]["loss"] > 1.2 * whole.history[-1]["loss"]
    for name, value in wanted.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_run_that_diverges_says_so(tmp_path):
    with pytest.raises(DivergedError, match="step 3 "):
        run(Rows(poison=6), tmp_path, update="lazy_adam")
