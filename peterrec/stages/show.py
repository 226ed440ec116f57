"""`peterrec show`: a recipe, a finished run, or the settings of a stage, as text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from peterrec.catalogue import KINDS, adapter, any_task, find, names
from peterrec.errors import RefusedError, SettingsError, did_you_mean
from peterrec.report.outputs import SHOWN, columns, lines, measured_against, measured_domains, measured_outputs
from peterrec.report.reading import estimate, label_of, parameters
from peterrec.run_record import read_run
from peterrec.settings import read_toml, settings_table, to_toml

READ = {"adapters": adapter, "tasks": any_task}


def run(name: str, *, settings: type[BaseModel] | None = None) -> str:
    """The text of a recipe (`serial`, `tasks/gender`, `./mine.toml`) or of a finished run (its folder).

    With `settings`, the table of that model, under the title `name`. Raises SettingsError where there is no
    such thing, and for a recipe that is not valid.
    """
    if settings is not None:
        return show_settings(name, settings)
    if name.endswith(".toml"):
        return _recipe(_kind_of(Path(name)), name)
    kind, slash, recipe = name.rpartition("/")
    if slash and kind in KINDS and not (Path(name) / "run.json").is_file():
        return _recipe(kind, recipe)
    if Path(name).is_dir():
        return show_run(Path(name))
    kinds = [kind for kind in KINDS if name in names(kind)]
    if len(kinds) > 1:
        raise SettingsError(f"{name!r} is in several catalogues: show {' or '.join(f'{k}/{name}' for k in kinds)}.")
    if not kinds:
        known = [recipe for kind in KINDS for recipe in names(kind)]
        raise SettingsError(f"no recipe and no folder of a run is called {name!r}. {did_you_mean(name, known)}")
    return _recipe(kinds[0], name)


def show_settings(title: str, model: type[BaseModel]) -> str:
    """The settings of a model, one a row: key, type, default, description."""
    rows = [(row.key, row.type, row.default, row.description) for row in settings_table(model)]
    return f"Settings of {title} (--set key=value, or a TOML file):\n\n" + _columns(
        [("key", "type", "default", "description"), *rows]
    )


def show_run(path: Path) -> str:
    """What a finished run was made of, and its results."""
    run = read_run(path)
    facts = {key: value for key, value in run.items() if key not in ("settings", "format_version")}
    parts = [f"{path}: peterrec {run.get('stage', '?')}", to_toml(facts).strip()]
    if run.get("settings"):
        parts.append(to_toml({"settings": run["settings"]}).strip())
    metrics = path / "metrics.json"
    if metrics.is_file():
        try:
            parts.append(_results(json.loads(metrics.read_text(encoding="utf-8"))))
        except ValueError as error:
            raise RefusedError(f"{metrics}: damaged ({error}); make the run again.") from None
    return "\n\n".join(parts) + "\n"


def _recipe(kind: str, name: str) -> str:
    file = find(kind, name)
    READ[kind](name)  # what is shown is valid
    return f"{KINDS[kind]} {file.stem} ({file})\n\n{file.read_text(encoding='utf-8').strip()}\n"


def _kind_of(file: Path) -> str:
    if not file.is_file():
        raise SettingsError(f"{file}: there is no such file.")
    keys = read_toml(file).keys()
    found = {kind for kind, key in (("adapters", "tuner"), ("tasks", "column"), ("tasks", "kind")) if key in keys}
    if len(found) != 1:
        raise SettingsError(f"{file}: neither an adapter (which has the key tuner) nor a task (column or kind).")
    return found.pop()


def _results(metrics: dict[str, Any]) -> str:
    """Results and gains; of impressions, whose figures are very many, a line an output on all rows, and main gains."""
    by_output = bool(measured_outputs(metrics))
    gains = [gain for gain in metrics.get("gains", []) if not by_output or gain["metric"] == metrics.get("metric")]
    told = [
        f"{gain['of']} over {gain['over']}: {label_of(gain['metric'])} {estimate(gain, signed=True)}" for gain in gains
    ]
    parts = [_columns(_output_rows(metrics) if by_output else _rows(metrics)), "\n".join(told)]
    if by_output:
        more = "domains, measures and gains" if measured_domains(metrics) else "measures and gains"
        parts.append("\n".join([*measured_against(metrics), f"More {more}: metrics.json and report.html."]))
    return "\n\n".join(part for part in parts if part)


def _rows(metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    results = metrics.get("results", [])
    figures = list(dict.fromkeys(name for result in results for name in result.get("metrics", {})))
    return [
        ("result", "role", *map(label_of, figures), "trained", "seconds"),
        *(
            (
                *_named(result),
                *(estimate(result.get("metrics", {}).get(name, {})) for name in figures),
                *_costs(result),
            )
            for result in results
        ),
    ]


def _output_rows(metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    measures = columns(metrics, shown=SHOWN)
    rows = [("result", "role", "output", *map(label_of, measures), "trained", "seconds")]
    for result in metrics.get("results", []):
        found = lines(metrics, result, measures)
        for place, line in enumerate(found):
            cells = (f"{cell.value} {cell.interval}".strip() for cell in line.cells)
            named, costs = (_named(result), _costs(result)) if not place else (("", ""), ("", ""))
            rows.append((*named, line.output, *cells, *costs))
        if not found:
            rows.append((*_named(result), "not measured", *("" for _ in measures), *_costs(result)))
    return rows


def _named(result: dict[str, Any]) -> tuple[str, str]:
    return str(result.get("name", "")), str(result.get("role", ""))


def _costs(result: dict[str, Any]) -> tuple[str, str]:
    seconds = result.get("seconds")
    told = f"{seconds:.1f}" if isinstance(seconds, int | float) else ""
    return parameters(result.get("trained_parameters")), told


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
