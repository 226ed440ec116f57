"""Which update a table gets, in words too; and what training a large table row by row comes to."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from peterrec.data.prepared import open_prepared
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.errors import SettingsError
from peterrec.heads.classification import ClassificationHead
from peterrec.model import TaskModel
from peterrec.training.loop import train
from peterrec.training.optimizer import Updater
from peterrec.training.pretraining import ObjectiveSettings, PretrainingProgram, PretrainingSettings
from peterrec.training.progress import Progress
from peterrec.training.settings import TrainingSettings
from peterrec.training.table_update import MOST_DENSE_ROWS, describe_table_update, row_updates, update_read_rows
from peterrec.training.tracking import Tracker

torch.set_num_threads(1)
LARGE = MOST_DENSE_ROWS + 1


def settings(**values):
    return TrainingSettings.model_validate({"device": "cpu", **values})


@pytest.mark.parametrize(
    ("asked", "rows", "sampled", "chosen", "told"),
    [
        ("auto", 100, True, None, "dense AdamW (up to 100,000 a dense update is cheap)"),
        ("auto", MOST_DENSE_ROWS, True, None, "dense AdamW (up to"),
        ("auto", LARGE, True, "lazy_adam", "lazy Adam (of more than 100,000, only those"),
        ("auto", LARGE, False, None, "dense AdamW (each step touches all of them)"),
        ("dense", LARGE, True, None, "dense AdamW (as table_update says)"),
        ("dense", LARGE, False, None, "dense AdamW (as table_update says)"),
        ("lazy_adam", 100, True, "lazy_adam", "Item table of 100 rows: lazy Adam (as table_update says)."),
        ("rowwise_adagrad", LARGE, True, "rowwise_adagrad", "row-wise Adagrad (as table_update says)"),
    ],
)
def test_the_choice_and_its_reason(asked, rows, sampled, chosen, told):
    given = settings(table_update=asked)
    assert row_updates(given, rows=rows, sampled=sampled) == chosen
    assert told in describe_table_update(given, rows=rows, sampled=sampled)


@pytest.mark.parametrize("asked", ["lazy_adam", "rowwise_adagrad"])
def test_an_exact_softmax_touches_all_rows(asked):
    for ask in (row_updates, describe_table_update):
        with pytest.raises(SettingsError, match=r"an exact softmax touches all 5,000; use a sampled one"):
            ask(settings(table_update=asked), rows=5000, sampled=False)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("asked", ["auto", "dense", "lazy_adam"])
def test_fine_tuning_reads_rows_and_scores_none(frozen, asked):
    encoder = NextItNet(NextItNetConfig(vocab_size=50, hidden_size=4, dilations=(1, 2)))
    encoder.sparse_rows = True  # what pretraining left behind
    encoder.requires_grad_(not frozen)
    told = update_read_rows(encoder, settings(table_update=asked))
    assert encoder.sparse_rows == (asked == "lazy_adam" and not frozen)
    if asked != "lazy_adam":
        assert told is None
    elif frozen:
        assert told == 'table_update = "lazy_adam" changes nothing: the item table stands still.'
    else:
        assert told.startswith("Item table of 50 rows: lazy Adam")


@pytest.mark.parametrize("asked", ["auto", "dense", "rowwise_adagrad"])
def test_a_wrapped_table_is_updated_densely_and_who_asked_for_more_is_told(asked):
    encoder = NextItNet(NextItNetConfig(vocab_size=50, hidden_size=4, dilations=(1, 2)))
    encoder.embed_tokens = nn.Sequential(encoder.embed_tokens)
    told = update_read_rows(encoder, settings(table_update=asked))
    assert (told is not None) == (asked == "rowwise_adagrad")
    if told:
        assert "a tuner wraps the item table" in told


def test_full_fine_tuning_moves_the_rows_of_its_users_alone():
    torch.manual_seed(0)
    encoder = NextItNet(NextItNetConfig(vocab_size=50, hidden_size=8, dilations=(1, 2)))
    model = TaskModel(encoder, ClassificationHead(8, 3), readout="mean").train()
    given = settings(table_update="lazy_adam")
    update_read_rows(encoder, given)
    before = encoder.embed_tokens.weight.detach().clone()
    updater = Updater(model, settings=given, accelerator=Accelerator(cpu=True))
    for step in range(3):
        loss = model(torch.tensor([[4, 9, 4], [30, 0, 0]]), labels=torch.tensor([0, 2])).loss
        updater.add(loss)
        updater.update(loss.detach(), step=step, rate=0.01)
    moved = (encoder.embed_tokens.weight != before).any(1).nonzero()[:, 0]
    assert moved.tolist() == [4, 9, 30]


@pytest.mark.parametrize("update", ["lazy_adam", "dense"])
def test_the_encoder_is_given_back_with_dense_gradients(prepared_folder, update):
    prepared = open_prepared(prepared_folder)
    config = NextItNetConfig(vocab_size=len(prepared.vocabulary), hidden_size=4, dilations=(1, 2), max_length=20)
    given = PretrainingSettings(device="cpu", epochs=1, table_update=update, positions=2000, validation_users=5)
    program = PretrainingProgram(
        NextItNet(config),
        train=prepared.sequences("train"),
        validation=prepared.sequences("validation"),
        objective=ObjectiveSettings(softmax="sampled", negatives=20),
        settings=given,
    )
    assert program.model.sparse_rows == (update == "lazy_adam")
    train(program, given, checkpoints=None, tracker=Tracker(), progress=Progress("silent"))
    assert not program.model.sparse_rows


ITEMS, CLASSES, CHANNELS = 600, 12, 12


class Readings(nn.Module):
    """Guesses the class of an item from its row."""

    def __init__(self, *, sparse):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(ITEMS, CHANNELS, padding_idx=0, sparse=sparse)
        nn.init.normal_(self.table.weight, std=0.02)
        self.hidden = nn.Linear(CHANNELS, CHANNELS)
        self.out = nn.Linear(CHANNELS, CLASSES)

    def forward(self, ids):
        return self.out(torch.relu(self.hidden(self.table(ids))))


def held_out_loss(kind, *, planted, rate, steps=500):
    """Mean loss on new users of a task in which an item's class shows in 70 % of its events, or in none."""
    random = np.random.default_rng(4)
    popularity = 1 / np.arange(1, ITEMS)
    popularity /= popularity.sum()
    classes = random.integers(0, CLASSES, ITEMS)

    def draw(count):
        ids = random.choice(ITEMS - 1, size=count, p=popularity) + 1
        shown = random.random(count) < (0.7 if planted else 0.0)
        return torch.from_numpy(ids), torch.from_numpy(
            np.where(shown, classes[ids], random.integers(0, CLASSES, count))
        )

    model = Readings(sparse=kind != "dense")
    given = settings(table_update=kind, learning_rate=rate)
    updater = Updater(model, settings=given, accelerator=Accelerator(cpu=True))
    for step in range(steps):
        ids, labels = draw(128)
        loss = F.cross_entropy(model(ids), labels)
        updater.add(loss)
        updater.update(loss.detach(), step=step, rate=rate * 0.5 * (1 + math.cos(math.pi * step / steps)))
    with torch.no_grad():
        ids, labels = draw(20_000)
        return F.cross_entropy(model(ids), labels).item()


@pytest.fixture(scope="module")
def dense():
    return held_out_loss("dense", planted=True, rate=0.01)


@pytest.mark.parametrize("kind", ["lazy_adam", "rowwise_adagrad"])
def test_a_planted_structure_is_learnt_about_as_well_as_by_dense_adam(dense, kind):
    chance = math.log(CLASSES)
    assert chance - dense > 0.8
    assert held_out_loss(kind, planted=True, rate=0.01) < dense + 0.1 * (chance - dense)


@pytest.mark.parametrize("kind", ["lazy_adam", "rowwise_adagrad"])
def test_where_there_is_nothing_to_learn_nothing_is(kind):
    found = held_out_loss(kind, planted=False, rate=0.003)
    assert math.log(CLASSES) - 0.01 < found < math.log(CLASSES) + 0.1
