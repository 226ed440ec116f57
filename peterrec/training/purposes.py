"""What an encoder is pretrained for: the settings that won for each purpose (docs/next_item.md, docs/transfer.md)."""

from collections.abc import Mapping
from typing import Any

PURPOSES: dict[str, Mapping[str, Any]] = {
    # the defaults themselves: SASRec by next item
    "next_items": {},
    # item embeddings, pooled over whole histories, that learn to predict one half of a history from the other
    "attributes": {
        "encoder": {"kind": "pooled", "hidden_size": 512, "dropout": 0.0, "readout": "sqrtn"},
        "objective": {"next_item": 0.0, "bag": 1.0},
        "training": {"epochs": 40, "keep": "last", "validation_users": 200, "learning_rate": 3e-3},
    },
}


def purpose_layer(name: str) -> tuple[str, Mapping[str, Any]]:
    """The settings of a purpose (one of `PURPOSES`) as the weakest layer for `load_settings`."""
    return f"--for {name}", PURPOSES[name]
