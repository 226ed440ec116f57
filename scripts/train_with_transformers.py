"""An adapter for one task, trained by the stock `transformers.Trainer` instead of `peterrec finetune`.

    peterrec prepare … --output data && peterrec pretrain data --output encoder
    python scripts/train_with_transformers.py encoder data gender gender-adapter

It is for whoever has a Trainer loop already and wants our encoder in it. peft puts the adapter around the frozen
encoder, `TaskModel` adds readout and head, and the Trainer sees a model that returns a loss. What is written is an
adapter folder: load it with `peterrec.load_adapter("gender-adapter")`, or with plain peft; `load_head` in
`peterrec.adapter_file` puts the head's weights into a head of the same shape.

The Trainer's own checkpoints are switched off: they would hold the whole encoder, and pickles beside it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainingArguments

from peterrec import PatchConfig, TaskModel, load_encoder, open_prepared
from peterrec.adapter_file import save_adapter
from peterrec.data.attribute import Attribute, read_attribute, split_users
from peterrec.data.batches import pad
from peterrec.data.prepared import PreparedLog
from peterrec.data.sequences import Sequences
from peterrec.encoders.loading import encoder_revision
from peterrec.errors import PeterrecError, RefusedError, SettingsError
from peterrec.heads.classification import ClassificationHead

FRACTIONS = (0.70, 0.10, 0.20)  # training, validation and test users


class LabelledHistories(Dataset):
    """One example a user: the last `max_length` item rows of its history, and its class."""

    def __init__(self, histories: Sequences, attribute: Attribute, places: NDArray[np.int64], *, max_length: int):
        self.histories = histories
        self.rows, self.labels = attribute.rows[places], attribute.labels[places]
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], int]:
        return self.histories.items_of(int(self.rows[index]))[-self.max_length :], int(self.labels[index])


def collate(examples: Sequence[tuple[NDArray[np.int32], int]]) -> dict[str, Tensor]:
    """Examples to item rows `(B, L)`, padded on the right, and labels `(B,)`."""
    lengths = np.array([len(items) for items, _ in examples])
    ids = pad(np.concatenate([items for items, _ in examples]), lengths)
    return {"input_ids": torch.from_numpy(ids), "labels": torch.tensor([label for _, label in examples])}


def first_output(outputs: tuple[Tensor, ...] | Tensor, labels: Tensor) -> Tensor:
    """The logits `(B, C)` alone, so that evaluation does not gather user vectors as well."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of users whose likeliest class is theirs."""
    assert isinstance(prediction.predictions, np.ndarray)
    return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}


def train(
    encoder: Path,
    prepared: PreparedLog,
    *,
    column: str,
    output: Path,
    bottleneck: int = 8,
    epochs: float = 10,
    learning_rate: float = 2e-3,
    users: int = 64,
    seed: int = 0,
) -> tuple[TaskModel, dict[str, float]]:
    """Trains patches and a head to tell `column` from histories, and writes them to `output`.

    Returns the model and the figures on the test users. Raises PeterrecError where data or encoder cannot be used.
    """
    if (output / "run.json").exists():
        raise SettingsError(f"{output} holds a run of peterrec; choose another folder for the adapter.")
    torch.manual_seed(seed)
    bare = load_encoder(encoder)
    if bare.config.vocabulary_fingerprint != prepared.vocabulary.fingerprint:
        raise RefusedError(
            f"{prepared.folder} has another item vocabulary than {encoder}; prepare the log with --encoder {encoder}."
        )
    attribute = read_attribute(prepared, column=column)
    split = split_users(attribute, fractions=FRACTIONS, stratified=True, seed=seed)
    histories = prepared.sequences("histories")

    head = ClassificationHead(bare.config.hidden_size, len(attribute.classes))
    model = TaskModel(bare, head, readout="mean")
    model.freeze_encoder()  # first, so that the dropout of the encoder stays off and that of the patches does not
    adapted = get_peft_model(bare, PatchConfig(bottleneck=bottleneck))
    model.encoder = adapted

    def part(places: NDArray[np.int64]) -> LabelledHistories:
        return LabelledHistories(histories, attribute, places, max_length=bare.config.max_length)

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output),
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            per_device_train_batch_size=users,
            per_device_eval_batch_size=users,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,  # examples are pairs, which the collator names
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
        train_dataset=part(split.train),
        data_collator=collate,
        compute_metrics=accuracy,
        preprocess_logits_for_metrics=first_output,
    )
    trainer.remove_callback(PrinterCallback)  # it prints dictionaries; main() prints the figures
    trainer.train()
    figures = trainer.evaluate(part(split.test), metric_key_prefix="test")
    save_adapter(
        adapted,
        output,
        encoder_revision=encoder_revision(encoder),
        vocabulary_fingerprint=prepared.vocabulary.fingerprint,
        head=model.head,
        base_model=str(encoder),
    )
    return model.eval(), figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, trains, and prints what was found."""
    parser = argparse.ArgumentParser(description="Train an adapter with transformers.Trainer.")
    parser.add_argument("encoder", type=Path, help="folder that `peterrec pretrain` wrote")
    parser.add_argument("data", type=Path, help="folder that `peterrec prepare --users TABLE` wrote")
    parser.add_argument("column", help="label column of the users table")
    parser.add_argument("output", type=Path, help="folder for the adapter")
    parser.add_argument("--bottleneck", type=int, default=8, help="inner width of the patches (%(default)s)")
    parser.add_argument("--epochs", type=float, default=10, help="passes over the training users (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="at the start (%(default)s)")
    parser.add_argument("--users", type=int, default=64, help="users of a batch (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of split, head and batches (%(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        model, figures = train(
            chosen.encoder,
            open_prepared(chosen.data),
            column=chosen.column,
            output=chosen.output,
            bottleneck=chosen.bottleneck,
            epochs=chosen.epochs,
            learning_rate=chosen.learning_rate,
            users=chosen.users,
            seed=chosen.seed,
        )
    except PeterrecError as error:
        raise SystemExit(f"error: {error}") from None
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    print(f"test accuracy {figures['test_accuracy']:.3f}, loss {figures['test_loss']:.3f}")
    print(f"trained {trained:,} of {everything:,} parameters; adapter in {chosen.output}")


if __name__ == "__main__":
    main()
