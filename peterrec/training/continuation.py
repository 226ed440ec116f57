"""Pretraining that goes on from an encoder: which one, and what becomes of it on another log."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from peterrec.data.prepared import PreparedLog
from peterrec.data.surroundings import surroundings
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.growth import grow, item_tensors, stands_in, train_new_rows_alone
from peterrec.encoders.loading import encoder_revision, open_encoder
from peterrec.encoders.settings import EncoderSettings
from peterrec.errors import RefusedError, SettingsError
from peterrec.run_record import read_run
from peterrec.settings import dump, read_toml, validate
from peterrec.training.pretraining_settings import PretrainingSettings


def settings_layer(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """What an encoder was pretrained with and where that stands, as a layer for `load_settings`."""
    read_run(folder, stage="pretrain")
    path = Path(folder) / "settings.toml"
    return str(path), read_toml(path)


@dataclass(frozen=True)
class Continuation:
    """An encoder to go on from; with `new_items_only` nothing but the rows of new items trains."""

    folder: Path
    encoder: UserEncoder
    vocabulary: Vocabulary
    revision: str
    new_items_only: bool = False

    @classmethod
    def open(cls, folder: Path, *, output: Path | None = None, new_items_only: bool = False) -> "Continuation":
        """The encoder in `folder`. Raises SettingsError where there is none, or `output` is the same folder, and
        RefusedError where it is damaged."""
        folder = Path(folder)
        if output is not None and Path(output).resolve() == folder.resolve():
            raise SettingsError(f"--output {output} is the encoder that --from names; choose another folder.")
        read_run(folder, stage="pretrain")
        encoder, vocabulary = open_encoder(folder)
        return cls(folder, encoder, vocabulary, encoder_revision(folder), new_items_only)

    @classmethod
    def of_job(cls, told: Mapping[str, Any]) -> "Continuation":
        """That of the main process, which made `job` of it. Raises RefusedError where it is another one here."""
        found = cls.open(Path(told["folder"]), new_items_only=told["new_items_only"])
        if found.revision != told["revision"]:
            raise RefusedError(f"{found.folder}: not the encoder that the main process goes on from; copy that one.")
        return found

    @property
    def job(self) -> dict[str, Any]:
        """What other processes must know of it."""
        return {"folder": str(self.folder.absolute()), **self.resolved}

    @property
    def resolved(self) -> dict[str, Any]:
        """What another run must have in common to go on where this one was interrupted."""
        return {"revision": self.revision, "new_items_only": self.new_items_only}

    def check_settings(self, asked: EncoderSettings, training: PretrainingSettings) -> PretrainingSettings:
        """The settings of the training that hold, as asked, but that nothing decays where all but new items stand
        still. Raises SettingsError where another shape than the encoder's is asked for, or tables that are shared out
        while they stand still."""
        origin, values = settings_layer(self.folder)
        self._check_shape(dump(asked), dump(validate(EncoderSettings, values.get("encoder", {}), origin=origin)))
        if not self.new_items_only:
            return training
        if training.shard_tables:
            raise SettingsError(
                "training.shard_tables shares out tables that train as a whole; with --new-items-only add "
                "--set training.shard_tables=false."
            )
        return training.model_copy(update={"weight_decay": 0.0})

    def _check_shape(self, asked: Mapping[str, Any], have: Mapping[str, Any]) -> None:
        changed = [name for name in asked if asked[name] != have[name]]
        if changed:
            told = "; ".join(
                f"encoder.{name} = {json.dumps(asked[name])}, but it has {json.dumps(have[name])}" for name in changed
            )
            raise SettingsError(
                f"The shape of an encoder that --from names is its own: {told}. Leave the setting out, or pretrain a "
                "new encoder without --from."
            )

    def check_data(self, prepared: PreparedLog) -> None:
        """Raises RefusedError where the data's vocabulary does not begin with the encoder's, SettingsError where new
        items alone shall train and there are none."""
        where, new = prepared.folder, len(prepared.vocabulary) - len(self.vocabulary)
        if not prepared.vocabulary.begins_with(self.vocabulary):
            raise RefusedError(
                f"{where} was prepared with the item vocabulary {prepared.vocabulary.fingerprint[:16]}, whose first "
                f"rows are not those of {self.folder}. Prepare the log again with --vocabulary-of {self.folder}."
            )
        if self.new_items_only and not new:
            raise SettingsError(
                f"--new-items-only: {where} has no item that {self.folder} does not know, so nothing would train. "
                "Leave the option out."
            )

    def grown(self, prepared: PreparedLog) -> UserEncoder:
        """The encoder with a row for each item of the data, those of new items by what stands around them there."""
        known, rows = len(self.vocabulary), len(prepared.vocabulary)
        around = surroundings(prepared.sequences("train"), known=known, rows=rows)
        found = grow(
            self.encoder,
            vocab_size=rows,
            fingerprint=prepared.vocabulary.fingerprint,
            revision=self.revision,
            around=around,
        )
        if self.new_items_only:
            train_new_rows_alone(found, known=known)
        return found

    def settle(self, encoder: UserEncoder) -> None:
        """Once trained, `encoder` says whether its ancestors' weights still stand in it."""
        state: dict[str, Tensor] = self.encoder.state_dict()
        same = stands_in(state, encoder)
        assert same or not self.new_items_only, "frozen weights have moved"
        if not same:
            encoder.config.preserved = ()

    def trained_parameters(self, encoder: UserEncoder) -> int:
        """How many numbers of `encoder` train."""
        if not self.new_items_only:
            return sum(p.numel() for p in encoder.parameters() if p.requires_grad)
        known = len(self.vocabulary)
        return sum(tensor[known:].numel() for tensor in item_tensors(encoder).values())

    def told(self, prepared: PreparedLog) -> str:
        """In words: what is continued, and what is new."""
        known, new = self.vocabulary.num_items, len(prepared.vocabulary) - len(self.vocabulary)
        line = f"Goes on from {self.folder} ({self.revision}): {known:,} items keep their rows, {new:,} are new"
        return f"{line}; only those train." if self.new_items_only else f"{line}."
