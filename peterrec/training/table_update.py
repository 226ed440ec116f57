"""Which update an item table gets: a dense one, or one of the rows that a step looked up."""

from typing import Literal

from torch import nn

from peterrec.encoders.base import UserEncoder
from peterrec.errors import SettingsError
from peterrec.training.settings import TrainingSettings

RowUpdates = Literal["lazy_adam", "rowwise_adagrad"]

MOST_DENSE_ROWS = 100_000  # dense gradient and update of more cost more than a tenth of a step

NAMES = {"lazy_adam": "lazy Adam", "rowwise_adagrad": "row-wise Adagrad"}


def row_updates(settings: TrainingSettings, *, rows: int, sampled: bool) -> RowUpdates | None:
    """How a table of `rows` rows is updated where a step touches few of them; None: by dense AdamW.

    `sampled`: a step touches the rows that it looks up and no others, as under a sampled softmax, or in fine-tuning,
    where items are read and not scored. The caller then sets `UserEncoder.sparse_rows`. Raises SettingsError where
    row-sparse updates are asked for and every step touches all rows.
    """
    chosen = settings.table_update
    if chosen == "dense":
        return None
    if chosen == "auto":
        return "lazy_adam" if sampled and rows > MOST_DENSE_ROWS else None
    if not sampled:
        raise SettingsError(
            f'table_update = "{chosen}" updates the rows that a step looks up, but an exact softmax touches all '
            f'{rows:,}; use a sampled one (objective.softmax = "sampled"), or table_update = "dense".'
        )
    return chosen


def describe_table_update(settings: TrainingSettings, *, rows: int, sampled: bool) -> str:
    """The choice of `row_updates` and its reason, as a line for the log; raises what it raises."""
    chosen = row_updates(settings, rows=rows, sampled=sampled)
    if settings.table_update != "auto":
        reason = "as table_update says"
    elif not sampled:
        reason = "each step touches all of them"
    elif chosen is None:
        reason = f"up to {MOST_DENSE_ROWS:,} a dense update is cheap"
    else:
        reason = f"of more than {MOST_DENSE_ROWS:,}, only those that a step looks up are updated"
    return f"Item table of {rows:,} rows: {NAMES.get(chosen or '', 'dense AdamW')} ({reason})."


def update_read_rows(encoder: UserEncoder, settings: TrainingSettings) -> str | None:
    """Sets `encoder.sparse_rows` for a training that reads items and scores none, as fine-tuning does.

    A line for the log where the rows are updated one by one, or where the settings ask for that and it cannot be: the
    table stands still, or is wrapped by a tuner. None where nothing need be said.
    """
    table, asked = encoder.embed_tokens, settings.table_update not in ("auto", "dense")
    if not isinstance(table, nn.Embedding):
        why = "a tuner wraps the item table, and what it trains there is updated densely"
        return f'table_update = "{settings.table_update}" changes nothing: {why}.' if asked else None
    if not table.weight.requires_grad:
        encoder.sparse_rows = False
        why = "the item table stands still"
        return f'table_update = "{settings.table_update}" changes nothing: {why}.' if asked else None
    choice = {"rows": table.num_embeddings, "sampled": True}
    encoder.sparse_rows = row_updates(settings, **choice) is not None
    return describe_table_update(settings, **choice) if encoder.sparse_rows else None


def end_row_updates(model: nn.Module) -> None:
    """Makes what encoders in `model` look up have dense gradients again, as before the training."""
    for module in model.modules():
        if isinstance(module, UserEncoder):
            module.sparse_rows = False
