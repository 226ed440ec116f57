"""Features of impressions, and what rankers make of them a pair at a time, in numpy; not a test module."""

import numpy as np
from impression_columns import CATEGORICAL, MULTI, NUMERIC, TRAIN, Columns, _row

Array = np.ndarray
State = dict[str, Array]
Feature = tuple[int, Array]  # its field, and x_i · v_i


def features(
    columns: Columns, s: State, prefix: str, row: int, *, domain: int | None = None, vectors: tuple[Array, ...] = ()
) -> list[Feature]:
    """All features of a row by the embeddings under `prefix`; `domain` as a field behind the categorical ones, and
    what an encoder's `vectors` come to, a field each, at the end."""
    found: list[Feature] = []
    start, field = 0, 0
    table = s[f"{prefix}.table.weight"]
    for name in CATEGORICAL:
        places = columns._places(columns.values[name])
        found.append((field, table[start + _row(columns.values[name][row], places)]))
        start += 2 + len(places)
        field += 1
    if domain is not None:
        found.append((field, table[start + (2 + domain if domain >= 0 else 1)]))
        field += 1
    for number, name in enumerate(NUMERIC):
        slope, offset, missing = s[f"{prefix}.numeric"][:, number]
        column = columns.values[name]
        seen = column[:TRAIN][~np.isnan(column[:TRAIN])]
        x = (column[row] - seen.mean()) / seen.std()
        found.append((field, missing if np.isnan(x) else x * slope + offset))
        field += 1
    for number, name in enumerate(MULTI):
        weight = s[f"{prefix}.multi.{number}.weight"]
        places = columns._places([tag for tags in columns.values[name][:TRAIN] for tag in tags], cut=False)
        tags = columns.values[name][row]
        found += [(field, weight[_row(tag, places)] / len(tags)) for tag in tags] or [(field, weight[0])]
        field += 1
    return found + [(field + number, vector) for number, vector in enumerate(vectors)]


def fm_products(given: list[Feature]) -> Array:
    """Σ_{i<j} v_i ⊙ v_j x_i x_j, by two loops."""
    total = np.zeros_like(given[0][1])
    for i, (_, one) in enumerate(given):
        for _, other in given[i + 1 :]:
            total = total + one * other
    return total


def ffm_products(given: list[Feature], *, dim: int) -> Array:
    """Σ_{i<j} v_{i,f(j)} ⊙ v_{j,f(i)} x_i x_j, by two loops."""
    total = np.zeros(dim)
    for i, (f, one) in enumerate(given):
        for g, other in given[i + 1 :]:
            total = total + one[g * dim : (g + 1) * dim] * other[f * dim : (f + 1) * dim]
    return total


def as_field(s: State, name: str, vector: Array, there: bool) -> Array:
    """A vector of an encoder, normalised and mapped; or what stands for none."""
    if not there:
        return s[f"{name}.none"]
    normed = (vector - vector.mean()) / np.sqrt(vector.var() + 1e-5)
    return s[f"{name}.map.weight"] @ normed + s[f"{name}.map.bias"]
