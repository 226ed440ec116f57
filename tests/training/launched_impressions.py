"""What two processes do together for test_impression_processes.py, started by torchrun: `… FOLDER ENCODER`."""

import sys
from pathlib import Path

from peterrec.stages import finetune

# no dropout: how it falls depends on the rows of a piece
KINDS = {
    "fields": ("star", None, None),
    "frozen": ("esmm", "none", None),
    "serial": ("esmm", "serial", None),
    "metabalance": ("esmm", "serial", "metabalance"),
    "pcgrad": ("esmm", None, "pcgrad"),
    "uncertainty": ("esmm", None, "uncertainty"),
}
RECIPES = {
    "star": '[domains]\nstar = "full"\nnorm = false\n[[biases]]\ndomain = true\nhidden = [4]\n',
    "esmm": "[tower]\nhidden = [8]\n",
}
BODY = 'kind = "impressions"\n[[body]]\nrouter = "softmax"\nexperts = 2\nhidden = [16]\n'


def runs(folder: Path, name: str, *, encoder: Path) -> None:
    """One run of each kind, to `<kind>-<name>`."""
    for kind, (recipe, adapter, balancer) in KINDS.items():
        finetune.run(
            folder / f"{recipe}.toml",
            encoder=None if adapter is None else encoder,
            data=folder / "data",
            output=folder / f"{kind}-{name}",
            adapter_name=adapter,
            balancer=balancer,
            seeds=[0, 1] if kind == "frozen" else [0],
            overrides=["epochs=2", "rows=256", "device=cpu", "warmup=2", "learning_rate=0.01", "patience=0"],
            progress="silent",
        )


if __name__ == "__main__":
    runs(Path(sys.argv[1]), "two", encoder=Path(sys.argv[2]))
