"""What is computed once in fine-tuning changes nothing: the same losses, gradients, weights and figures as without."""

import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import LNTuningConfig, LoraConfig, get_peft_model

from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.readout import Readout
from peterrec.errors import DataError
from peterrec.heads.classification import ClassificationHead
from peterrec.heads.logistic import Logistic
from peterrec.model import TaskModel
from peterrec.training import finetuning
from peterrec.training.finetuning import ClassificationProgram, FinetuningSettings, LabelledUsers, predict
from peterrec.training.loop import InterruptedRun, train
from peterrec.training.progress import Progress
from peterrec.training.standing_states import StandingStates
from peterrec.training.tracking import Tracker
from peterrec.tuners import PatchConfig

CPU = torch.device("cpu")
USERS, ITEMS, LENGTH = 40, 30, 24


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    random = np.random.default_rng(0)
    lengths = random.integers(0, 40, USERS)
    lengths[:3] = 0, 1, 39
    folder = tmp_path_factory.mktemp("part") / "histories"
    with SequenceWriter(folder) as writer:
        flat = random.integers(3, 3 + ITEMS, lengths.sum()).astype(np.int32)
        writer.write(pa.array([f"u{i}" for i in range(USERS)]), flat, lengths)
    return Sequences(folder)


def make(
    tuner: str,
    *,
    readout: str,
    causal: bool = True,
    dropout: float = 0.3,
    layers: tuple[int, ...] = (-1,),
    window: int | None = None,
    newton: bool = False,
) -> TaskModel:
    """Four blocks; the tuner sits in the top two (`head`: nowhere, `full`: everything trains)."""
    torch.manual_seed(0)
    config = NextItNetConfig(
        vocab_size=3 + ITEMS,
        hidden_size=8,
        dilations=(1, 2, 1, 2, 1, 1, 1, 2),
        causal=causal,
        dropout=dropout,
        initializer_range=0.5,
    )
    encoder = NextItNet(config).double()
    reader = Readout(
        readout, channels=8, depth=4, layers=layers, item_weights=readout == "attention", vocab_size=3 + ITEMS
    )
    head = ClassificationHead(8, 3, common_scale=newton).double()
    model = TaskModel(encoder, head, readout=reader.double(), window=window)
    if tuner == "full":
        return model
    model.freeze_encoder()
    top = [2, 3]
    if tuner == "patch":
        model.encoder = get_peft_model(encoder, PatchConfig(bottleneck=2, dropout=0.2, layers_to_transform=top))
    elif tuner == "lora":
        wrapped = [f"blocks.{block}.unit{unit}.conv.linear" for block in top for unit in (1, 2)]
        model.encoder = get_peft_model(encoder, LoraConfig(r=2, target_modules=wrapped, lora_dropout=0.2))
    elif tuner == "blocks_by_peft":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unsupported layer type")  # peft copies the blocks whole
            model.encoder = get_peft_model(encoder, LNTuningConfig(target_modules=["blocks.2", "blocks.3"]))
    elif tuner == "blocks":
        for block in top:
            encoder.blocks[block].requires_grad_(True)
    return model.double()


def program(model: TaskModel, histories: Sequences, *, note=None, **changes) -> ClassificationProgram:
    labels = np.arange(USERS) % 3
    learn, watch = np.arange(0, USERS, 2), np.arange(1, USERS, 2)
    return ClassificationProgram(
        model,
        histories=histories,
        train=LabelledUsers(learn, labels[learn]),
        validation=LabelledUsers(watch, labels[watch]),
        metric="accuracy",
        max_length=LENGTH,
        settings=FinetuningSettings.model_validate(
            {
                "users": 6,
                "epochs": 3,
                "warmup": 2,
                "learning_rate": 0.02,
                "device": "cpu",
                "precision": "fp32",
                **changes,
            }
        ),
        note=note,
    )


def trained(model: TaskModel, histories: Sequences, **changes):
    made = program(model, histories, **changes)
    result = train(made, made._settings, checkpoints=None, tracker=Tracker(), progress=Progress("silent"))
    state = dict(model.state_dict())
    figures = [(record["loss"], record["validation"]) for record in result.history]
    return state, figures, predict(model, histories, max_length=LENGTH, device=CPU)


def assert_equal_runs(one, other):
    for name, tensor in one[0].items():
        torch.testing.assert_close(other[0][name], tensor, atol=1e-9, rtol=0, msg=name)
    for (loss, found), (wanted_loss, wanted) in zip(one[1], other[1], strict=True):
        assert loss == pytest.approx(wanted_loss, abs=1e-9)
        assert found == pytest.approx(wanted, abs=1e-9)
    np.testing.assert_allclose(one[2], other[2], atol=1e-9)


@pytest.mark.parametrize("readout", ["mean", "last", "tcl"])
@pytest.mark.parametrize("tuner", ["patch", "lora", "blocks_by_peft", "blocks"])
def test_training_on_states_computed_once_ends_the_same(tuner, readout, histories):
    notes = []
    kept = trained(make(tuner, readout=readout), histories, note=notes.append)
    again = trained(make(tuner, readout=readout), histories, note=notes.append, cache_mb=0)
    assert "2 of 4 blocks" in notes[0]
    assert "computed once" in notes[0]
    assert "2 of 4 blocks" in notes[1]
    assert "cache_mb = 0" in notes[1]
    assert_equal_runs(kept, again)
    start = make(tuner, readout=readout).state_dict()
    moved = [name for name, tensor in kept[0].items() if not torch.equal(tensor, start[name])]
    assert moved
    assert not any(f"blocks.{block}." in name for name in moved for block in (0, 1))


def test_a_two_sided_encoder_keeps_whole_histories(histories):
    for readout in ("mean", "last"):
        kept = trained(make("patch", readout=readout, causal=False), histories)
        again = trained(make("patch", readout=readout, causal=False), histories, cache_mb=0)
        assert_equal_runs(kept, again)


@pytest.mark.parametrize("readout", ["mean", "last", "tcl"])
def test_training_on_user_vectors_computed_once_ends_the_same(readout, histories, monkeypatch):
    notes = []
    kept = trained(make("head", readout=readout), histories, note=notes.append)
    assert notes == ["Nothing in the encoder trains: user vectors are computed once."]
    again = make("head", readout=readout)
    made = program(again, histories)
    made.keeps_vectors = False
    monkeypatch.setitem(globals(), "program", lambda *_, **__: made)
    assert_equal_runs(kept, trained(again, histories))


@pytest.mark.parametrize("readout", ["mean", "last"])
def test_loss_and_gradients_of_a_step_are_the_uncached_ones(readout, histories):
    gradients = []
    for cache in (64, 0):
        model = make("patch", readout=readout)
        for name, p in model.named_parameters():
            if p.requires_grad:
                torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(len(name)))
        made = program(model.eval(), histories, cache_mb=cache)
        loss, users = made.loss(made.steps(1)[1], CPU)
        loss.backward()
        assert users == 6
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None} | {"loss": loss})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-12, rtol=1e-10, msg=name)


def test_the_blocks_that_stand_run_once_a_user(histories, monkeypatch):
    monkeypatch.setattr(finetuning, "POSITIONS", {"cpu": 10**6})
    model = make("patch", readout="mean")
    made = program(model, histories)
    base = model.base_encoder
    rows = [0] * 4
    for number, block in enumerate(base.blocks):
        block.register_forward_hook(lambda _, args, out, n=number: rows.__setitem__(n, rows[n] + len(out)))
    train(made, made._settings, checkpoints=None, tracker=Tracker(), progress=Progress("silent"))
    assert rows[:2] == [USERS] * 2, "training and validation users, once"
    assert rows[2:] == [3 * USERS] * 2, "in every epoch"


def test_full_fine_tuning_and_dropout_below_keep_nothing(histories):
    notes = []
    made = program(make("full", readout="mean"), histories, note=notes.append)
    assert not made.keeps_states
    assert not made.keeps_vectors
    assert "lowest block" in notes[0]
    encoder = NextItNet(NextItNetConfig(vocab_size=3 + ITEMS, hidden_size=8, dilations=(1, 2, 1, 2), dropout=0.3))
    model = TaskModel(encoder, ClassificationHead(8, 3), readout="mean")
    encoder.requires_grad_(False)  # but not made quiet: its dropout is on in training
    encoder.blocks[1].requires_grad_(True)
    assert model.standing_blocks == 0


@pytest.mark.parametrize("readout", ["mean", "last", "tcl"])
def test_the_cap_counts_the_positions_that_are_kept(readout, histories):
    model = make("patch", readout=readout)
    made = program(model, histories)
    reach = 1 + 2 * (1 + 1 + 1 + 2)
    lengths = np.minimum(histories.lengths, LENGTH) + (readout == "tcl")
    if readout != "mean":
        lengths = np.minimum(lengths, reach)
    assert made.standing.bytes == lengths.sum() * 8 * 8
    kept = StandingStates(model, histories, rows=np.arange(USERS), max_length=LENGTH, blocks=2, device=CPU)
    assert kept._flat.numel() * 8 == made.standing.bytes
    assert kept.lengths.tolist() == lengths.tolist()


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize(
    ("tuner", "readout", "layers", "told"),
    [
        ("head", "attention", (-1,), "the readout does: the states that it reads are computed once"),
        ("head", "attention", (0, 2), "the readout does: the states that it reads are computed once"),
        ("head", "attention", (0,), "item vectors, which each step looks up"),
        ("head", "mean", (0, 2, -1), "user vectors are computed once"),
        ("head", "first_last", (0, -1), "user vectors are computed once"),
        ("patch", "attention", (-1,), "2 of 4 blocks stand still: the states above them are computed once"),
        ("patch", "mean", (2, -1), "2 of 4 blocks stand still: the states above them are computed once"),
        ("patch", "mean", (0, -1), "the readout reads layers below"),
    ],
)
def test_a_readout_that_trains_ends_the_same_on_what_is_computed_once(
    tuner, readout, layers, told, window, histories, monkeypatch
):
    notes = []
    shape = {"readout": readout, "layers": layers, "window": window}
    kept = trained(make(tuner, **shape), histories, note=notes.append)
    assert told in notes[0]
    start = make(tuner, **shape).state_dict()
    moved = {name for name, tensor in kept[0].items() if not torch.equal(tensor, start[name])}
    assert {name for name in start if name.startswith("reader.")} <= moved
    if tuner == "head":
        assert not any(name.startswith("encoder.") for name in moved)
    monkeypatch.setattr(Readout, "stands", property(lambda self: False))  # no vectors are kept
    assert_equal_runs(kept, trained(make(tuner, **shape), histories, cache_mb=0))


def test_a_frozen_readout_gives_vectors_that_are_computed_once(histories):
    model = make("head", readout="attention", layers=(0, -1))
    torch.nn.init.normal_(model.reader.query)
    model.reader.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.reader.state_dict().items()}
    notes = []
    state, *_ = trained(model, histories, note=notes.append)
    assert "user vectors are computed once" in notes[0]
    assert all(torch.equal(state[f"reader.{name}"], tensor) for name, tensor in before.items())


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def test_a_head_by_newton_is_the_logistic_regression_on_scaled_vectors(histories):
    model = make("head", readout="mean", newton=True)
    made = program(model, histories)
    assert made.fits_all
    result = train(
        made,
        made._settings,
        checkpoints=None,
        tracker=Tracker(),
        progress=Progress("silent"),
        start=made.fit_head,
        start_alone=True,
    )
    (record,) = result.history
    assert (record["epoch"], record["step"], record["loss"], result.best_epoch, result.epochs) == (0, 0, None, 0, 0)
    vectors = user_vectors(model, histories)
    learn, labels = np.arange(0, USERS, 2), np.arange(USERS) % 3
    scaled = vectors - vectors[learn].mean(axis=0)
    scaled /= np.sqrt((scaled[learn] ** 2).sum(axis=1).mean())
    regression = Logistic(seed=0).fit(scaled[learn], labels[learn], num_classes=3)
    assert record["head_C"] == regression.chosen_C
    found = predict(model, histories, max_length=LENGTH, device=CPU)
    np.testing.assert_allclose(found, regression.predict(scaled), atol=1e-6)
    watch = np.arange(1, USERS, 2)
    assert record["validation"]["accuracy"] == pytest.approx((found[watch].argmax(1) == labels[watch]).mean())
    again = made.fit_head(CPU, with_validation=True)
    everyone = vectors - vectors[[*learn, *watch]].mean(axis=0)
    everyone /= np.sqrt((everyone**2).sum(axis=1).mean())
    order = [*learn, *watch]
    regression = Logistic(seed=0).fit(everyone[order], labels[order], num_classes=3)
    assert again == {"head_C": regression.chosen_C}
    found = predict(model, histories, max_length=LENGTH, device=CPU)
    np.testing.assert_allclose(found, regression.predict(everyone), atol=1e-6)


def user_vectors(model: TaskModel, histories: Sequences) -> np.ndarray:
    with torch.no_grad():
        rows = [histories.items_of(user)[-LENGTH:].astype(np.int64) for user in range(USERS)]
        return np.stack(
            [
                model.eval().user_vectors(torch.from_numpy(row if len(row) else np.zeros(1, np.int64))[None])[0].numpy()
                for row in rows
            ]
        )


def test_what_follows_a_head_by_newton_is_kept_only_where_it_is_better(histories):
    """Steps that can only harm: what is kept is epoch 0, to the bit."""
    model = make("patch", readout="mean", newton=True)
    made = program(model, histories, learning_rate=5.0, warmup=0, patience=0)
    assert made.fits_head
    assert not made.fits_all
    result = train(
        made,
        made._settings,
        checkpoints=None,
        tracker=Tracker(),
        progress=Progress("silent"),
        start=made.fit_head,
    )
    assert [record["epoch"] for record in result.history] == [0, 1, 2, 3]
    figures = [record["validation"]["accuracy"] for record in result.history]
    assert result.best_metric == max(figures)
    assert result.best_epoch == figures.index(max(figures))
    other = make("patch", readout="mean", newton=True)
    start = program(other, histories)
    start.fit_head(CPU)
    assert start.validate()["accuracy"] == pytest.approx(figures[0])
    if result.best_epoch == 0:
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in other.state_dict().items())


def test_steps_after_a_start_go_on_after_a_kill_with_the_same_bits(histories, tmp_path):
    def run(folder, epochs_of_first=None):
        made = program(make("patch", readout="attention", newton=True), histories, epochs=4, warmup=0, patience=0)
        settings = made._settings
        if epochs_of_first is not None:
            seen = []

            def stop(record):
                seen.append(record)
                if len(seen) == epochs_of_first:
                    raise RuntimeError

            with pytest.raises(RuntimeError):
                train(
                    made,
                    settings,
                    checkpoints=folder,
                    tracker=Tracker(),
                    progress=Progress("silent"),
                    start=made.fit_head,
                    on_epoch=stop,
                )
            made = program(make("patch", readout="attention", newton=True), histories, epochs=4, warmup=0, patience=0)
        result = train(
            made, settings, checkpoints=folder, tracker=Tracker(), progress=Progress("silent"), start=made.fit_head
        )
        figures = [(r["epoch"], r["loss"], r["validation"], r.get("head_C")) for r in result.history]
        return figures, result.best_epoch, made.model.state_dict()

    whole, resumed = run(tmp_path / "whole"), run(tmp_path / "resumed", epochs_of_first=3)
    assert whole[:2] == resumed[:2]
    assert all(torch.equal(resumed[2][name], tensor) for name, tensor in whole[2].items())


def test_validation_users_of_one_class_are_no_reason_against_a_head_without_steps(histories):
    labels = np.arange(USERS) % 2
    parts = {"train": np.arange(0, 20), "validation": np.arange(21, 30, 2)}
    users = {name: LabelledUsers(rows, labels[rows]) for name, rows in parts.items()}

    def made(newton):
        return ClassificationProgram(
            make("head", readout="mean", newton=newton),
            histories=histories,
            metric="roc_auc",
            max_length=LENGTH,
            settings=FinetuningSettings.model_validate({"device": "cpu"}),
            **users,
        )

    with pytest.raises(DataError, match="of one class"):
        made(newton=False)
    fitting = made(newton=True)
    result = train(
        fitting,
        fitting._settings,
        checkpoints=None,
        tracker=Tracker(),
        progress=Progress("silent"),
        start=fitting.fit_head,
        start_alone=True,
    )
    assert result.best_epoch is None
    assert result.history[0]["validation"]["roc_auc"] is None
    assert fitting.model.head.output.weight.abs().sum() > 0


def test_a_start_that_was_interrupted_in_its_validation_is_made_again(histories, tmp_path, monkeypatch):
    def begin():
        made = program(make("patch", readout="mean", newton=True), histories, epochs=1)
        return made, lambda: train(
            made,
            made._settings,
            checkpoints=tmp_path,
            tracker=Tracker(),
            progress=Progress("silent"),
            start=made.fit_head,
        )

    def interrupted():
        raise KeyboardInterrupt

    made, run = begin()
    monkeypatch.setattr(made, "validate", interrupted)
    with pytest.raises(InterruptedRun):
        run()
    assert [record["epoch"] for record in begin()[1]().history] == [0, 1]
