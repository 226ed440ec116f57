"""The results of impressions as lines of text: what each model reaches by output, and by domain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peterrec.metrics.measure_name import MEAN, PROBABILITY_MEASURES, VALUE_MEASURES, MeasureName, ndcg_depth
from peterrec.report import reading
from peterrec.report.reading import Metrics
from peterrec.report.tables import Cell

SHOWN = ("auc", "log_loss", "ne", "pcoc", "gauc")  # where there is not room for all
ORDER = "AUC and GAUC: more is better."
LEVEL = "Log loss, NE: less is better (NE 1: the base rate alone). PCOC: 1 is right, above it too much is claimed."
USERS = "GAUC weighs users by their impressions."


@dataclass(frozen=True)
class Line:
    """One output of one result, on all its rows or on those of a domain; `cells` are in the order of the columns."""

    output: str
    domain: str | None
    cells: tuple[Cell, ...]


def measured_outputs(metrics: Metrics) -> list[str]:
    """The outputs of impressions that were measured, in the order of the file; none in other runs."""
    return list(dict.fromkeys(name.output for name in _names(metrics)))


def measured_domains(metrics: Metrics) -> list[str]:
    """The domains that were measured, in the order of the file."""
    return list(dict.fromkeys(name.domain for name in _names(metrics) if name.domain is not None))


def meaning(metrics: Metrics) -> str:
    """What the measures mean, and which way they go: those of levels where the run has some."""
    found = {name.measure for name in _names(metrics)}
    of_levels = found & {"log_loss", "ne", "pcoc"} or not found & {"auc"}
    return " ".join((ORDER, LEVEL, USERS) if of_levels else (ORDER, USERS))


def columns(metrics: Metrics, *, shown: Sequence[str] = PROBABILITY_MEASURES) -> list[str]:
    """The measures of probabilities and lists that there is a column for; those of values, where there is no other."""
    found = dict.fromkeys(name.measure for name in _names(metrics))
    lists = [name for name in found if ndcg_depth(name) is not None]
    return [*(name for name in shown if name in found), *lists] or [name for name in VALUE_MEASURES if name in found]


def lines(metrics: Metrics, result: Metrics, measures: Sequence[str], *, by_domain: bool = False) -> list[Line]:
    """The lines of one result: its outputs, with `by_domain` each one's domains below it."""
    found = []
    for output in measured_outputs(metrics):
        for domain in (None, *(measured_domains(metrics) if by_domain else ())):
            cells = _cells(metrics, result, output, domain, measures)
            if any(cell.value != reading.ABSENT for cell in cells):
                found.append(Line(reading.label_of(output), domain, cells))
    return found


def cell_of(metrics: Metrics, result: Metrics, name: MeasureName) -> Cell:
    """The figure of that name; a dash where it was not measured."""
    figure = reading.figure_of(result, str(name))
    model = result.get("role", "model") == "model"
    proven = model and bool(figure) and reading.proven(metrics, result.get("name"), str(name))
    return Cell(reading.number(figure.get("value")), reading.interval(figure), proven)


def measured_against(metrics: Metrics) -> list[str]:
    """What each output was measured against, such as "CVR: conversion, where click == 1", if the run says it."""
    told = ["mean: over the outputs that are probabilities."] if MEAN in measured_outputs(metrics) else []
    for measure in metrics.get("measures") or ():
        if isinstance(measure, dict) and measure.get("of") is not None:
            space = f"where {reading.plain(measure['space'])}" if measure.get("space") else "on all rows"
            told.append(f"{reading.label_of(measure['of'])}: {reading.plain(_held_against(measure))}, {space}.")
    return told


def _cells(
    metrics: Metrics, result: Metrics, output: str, domain: str | None, measures: Sequence[str]
) -> tuple[Cell, ...]:
    cells = [cell_of(metrics, result, MeasureName(output, measure, domain)) for measure in measures]
    for (
        measure
    ) in VALUE_MEASURES:  # a value has no column of its own: its measure stands in the first one, with its name
        cell = cell_of(metrics, result, MeasureName(output, measure, domain))
        if measure not in measures and cell.value != reading.ABSENT:
            cells[0] = Cell(f"{reading.label_of(measure)} {cell.value}", cell.interval, cell.proven)
    return tuple(cells)


def _names(metrics: Metrics) -> list[MeasureName]:
    found: list[Any] = [MeasureName.parse(name) for name in reading.metric_names({**metrics, "metric": None})]
    return [name for name in found if name is not None]


def _held_against(measure: dict[str, Any]) -> object:
    """The label of a measure; of odds as an expectation what rows with the label weigh."""
    by = measure.get("weight_by")
    return measure.get("label") if by is None else f"{by}, 0 without {measure.get('label')}"
