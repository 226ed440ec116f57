"""How predictions become one score: a weighted sum, or a product of powers."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from peterrec.errors import DataError, SettingsError, did_you_mean

Form = Literal["product", "sum"]
FORMAT, FORMAT_VERSION = "peterrec.fusion", 1
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fusion:
    """`Σ w p` (`sum`) or `Π p^w` (`product`) over predictions p by name; only ratios of weights change the order."""

    form: Form
    weights: dict[str, float]

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise SettingsError(f"--form {self.form}: {did_you_mean(self.form, get_args(Form))}")
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise SettingsError(f"--weights {name}={weight}: not a finite number.")
        if not any(self.weights.values()):
            raise SettingsError("--weights: all weights are 0, so that every row would have one score; name one above.")

    def scores(self, predicted: Mapping[str, Floats]) -> Floats:
        """The score `(N,)` of predictions `(N,)` each; of a product its logarithm, which has the same order.

        A prediction of 0 makes a product 0: the score is -inf. Weights of 0 leave a prediction out, whatever it holds.
        Raises SettingsError for a prediction that is not there, DataError for one that is not a finite number, and in
        a product below 0, or 0 under a weight below 0.
        """
        total: Floats | None = None
        for name, weight in self.weights.items():
            if name not in predicted:
                raise SettingsError(f"There is no prediction {name!r} to fuse. {did_you_mean(name, predicted)}")
            if weight:
                term = weight * term_of(self.form, name, predicted[name], weight=weight)
                total = term if total is None else total + term
        assert total is not None
        return total

    def told(self) -> str:
        """As a formula: "ctr^1 · cvr^0.5"."""
        pairs = [(name, f"{weight:.4g}") for name, weight in self.weights.items() if weight]
        if self.form == "sum":
            return " + ".join(f"{weight} · {name}" for name, weight in pairs)
        return " · ".join(f"{name}^{weight}" for name, weight in pairs)

    def to_json(self, facts: Mapping[str, object] | None = None) -> str:
        """The text of a file of weights; `facts` say where they come from."""
        told = {"format": FORMAT, "format_version": FORMAT_VERSION, "form": self.form, "weights": self.weights}
        return json.dumps({**told, **(facts or {})}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def term_of(form: Form, name: str, values: Floats, *, weight: float = 1.0) -> Floats:
    """What a prediction `(N,)` adds under a weight of 1: itself, or its logarithm; raises as `Fusion.scores`."""
    _refuse(~np.isfinite(values), name, values, "not a finite number; predict again")
    if form == "sum":
        return values
    _refuse(values < 0, name, values, "below 0, and a product of powers needs more: take `--form sum`")
    if weight < 0:
        _refuse(values == 0, name, values, "0, which has no power below 0: give it a weight above 0")
    with np.errstate(divide="ignore"):
        return np.log(values)


def parse_weights(text: str, *, form: Form | None = None) -> Fusion:
    """A fusion from "ctr=1,cvr=0.5", or from a file of weights, whose form holds unless another one is asked for.

    Raises SettingsError.
    """
    if "=" not in text:
        return read_weights(Path(text), form=form)
    found: dict[str, float] = {}
    for pair in text.split(","):
        name, sign, number = (part.strip() for part in pair.partition("="))
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not sign or math.isnan(weight):
            raise SettingsError(f"--weights {text}: {pair.strip()!r} is not NAME=NUMBER, such as ctr=1,cvr=0.5.")
        if name in found:
            raise SettingsError(f"--weights {text}: {name} stands there twice.")
        found[name] = weight
    return Fusion(form or "product", found)


def read_weights(path: Path, *, form: Form | None = None) -> Fusion:
    """The fusion in a file that `Fusion.to_json` wrote, or in a run's folder. Raises SettingsError."""
    file = path / "weights.json" if path.is_dir() else path
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if (held["format"], held["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"not of the format {FORMAT}, version {FORMAT_VERSION}")
        return Fusion(form or held["form"], {str(name): float(one) for name, one in held["weights"].items()})
    except OSError as problem:
        raise SettingsError(
            f"--weights {path}: {problem.strerror}; give NAME=NUMBER pairs, such as ctr=1,cvr=0.5, or the weights.json "
            "of an earlier `peterrec fuse`."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise SettingsError(f"--weights {path}: no file of weights ({problem}).") from None


def noted_metrics(text: str) -> list[str]:
    """The metrics by which the weights in a file were tuned, as `--metric` takes them; none of weights by hand."""
    if "=" in text:
        return []
    read_weights(Path(text))  # refuses what is no such file
    file = Path(text) / "weights.json" if Path(text).is_dir() else Path(text)
    noted = json.loads(file.read_text(encoding="utf-8")).get("metrics")
    return [f"{name}={weight}" for name, weight in noted.items()] if isinstance(noted, dict) else []


def single(form: Form, name: str, names: Sequence[str]) -> Fusion:
    """The order of one prediction alone."""
    return Fusion(form, {each: float(each == name) for each in names})


def _refuse(bad: NDArray[np.bool_], name: str, values: Floats, reason: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"prediction {name!r} of row {row + 1:,} is {values[row]:g} ({int(bad.sum()):,} such): {reason}."
        )
