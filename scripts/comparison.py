"""A `peterrec compare` on prepared impressions that goes on where it was interrupted, as several scripts need it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peterrec.stages import compare


def compared(
    recipes: tuple[str, ...],
    data: Path,
    *,
    encoder: Path | None,
    output: Path,
    seeds: int,
    overrides: Iterable[str] = (),
    balancers: Iterable[str] = (),
    controls: tuple[str, ...] | None = (),
) -> dict[str, Any]:
    """metrics.json of `recipes` on `data`, each at its own learning rate; a run that stands in `output` is kept.
    `controls`: None for those that `peterrec compare` takes."""
    if not (output / "run.json").is_file():
        compare.run(
            recipes[0],
            more_tasks=recipes[1:],
            balancers=tuple(balancers),
            encoder=encoder,
            data=data,
            output=output,
            controls=controls,
            learning_rates=None,
            seeds=range(seeds),
            overrides=tuple(overrides),
        )
    return json.loads((output / "metrics.json").read_text(encoding="utf-8"))
