"""Updates of touched rows, against plain numpy; everything else keeps its bytes."""

import math

import numpy as np
import pytest
import torch

from peterrec.training.row_gradients import RowGradient
from peterrec.training.row_updates import ADAGRAD_RATE, LazyAdam, RowwiseAdagrad

torch.set_num_threads(1)
BETAS = (0.8, 0.95)
UPDATES = {"lazy_adam": LazyAdam(betas=BETAS), "rowwise_adagrad": RowwiseAdagrad()}


def gradients(steps, *, size=20, channels=3, everywhere=False):
    """Rows and values of each step; a row is touched in some steps only."""
    random = np.random.default_rng(0)
    for _ in range(steps):
        rows = np.arange(size) if everywhere else np.flatnonzero(random.random(size) < 0.3)
        scale = 10.0 ** random.integers(-6, 3, (len(rows), 1))
        yield rows, (random.normal(size=(len(rows), channels)) * scale).astype(np.float32)


def as_gradient(rows, values):
    return RowGradient(torch.from_numpy(rows), torch.from_numpy(values))


def numpy_lazy_adam(table, steps, *, rate):
    table, first, second = table.astype(np.float64), *np.zeros((2, *table.shape))
    for number, (rows, values) in enumerate(steps, 1):
        for row, gradient in zip(rows, values.astype(np.float64), strict=True):
            first[row] = BETAS[0] * first[row] + (1 - BETAS[0]) * gradient
            second[row] = BETAS[1] * second[row] + (1 - BETAS[1]) * gradient**2
            mean, square = first[row] / (1 - BETAS[0] ** number), second[row] / (1 - BETAS[1] ** number)
            table[row] -= rate * mean / (np.sqrt(square) + 1e-8)
    return table


def numpy_rowwise_adagrad(table, steps, *, rate):
    table, total = table.astype(np.float64), np.zeros(len(table))
    for rows, values in steps:
        for row, gradient in zip(rows, values.astype(np.float64), strict=True):
            total[row] += np.mean(gradient**2)
            table[row] -= ADAGRAD_RATE * rate * gradient / (np.sqrt(total[row]) + 1e-10)
    return table


@pytest.mark.parametrize(
    ("name", "reference"), [("lazy_adam", numpy_lazy_adam), ("rowwise_adagrad", numpy_rowwise_adagrad)]
)
def test_a_row_moves_as_in_plain_numpy(name, reference):
    table = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    before = table.numpy().copy()
    update = UPDATES[name]
    state = update.start(table)
    for rows, values in gradients(40):
        update.apply(table, state, as_gradient(rows, values), rate=0.02, live=None)
    np.testing.assert_allclose(table.numpy(), reference(before, list(gradients(40)), rate=0.02), rtol=1e-4, atol=2e-6)
    assert np.abs(table.numpy() - before).max() > 0.1


def test_lazy_adam_is_dense_adam_where_every_step_touches_all_rows():
    table = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    twin = torch.nn.Parameter(table.clone())
    adam = torch.optim.Adam([twin], lr=0.02, betas=BETAS)
    update = UPDATES["lazy_adam"]
    state = update.start(table)
    for rows, values in gradients(50, everywhere=True):
        update.apply(table, state, as_gradient(rows, values), rate=0.02, live=None)
        twin.grad = torch.from_numpy(values)
        adam.step()
        torch.testing.assert_close(table, twin.detach(), rtol=1e-5, atol=1e-6)
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(state[f"lazy_{key}"], adam.state[twin][key])


@pytest.mark.parametrize("name", UPDATES)
def test_rows_that_are_not_touched_keep_their_bytes_and_their_state(name):
    update = UPDATES[name]
    table = torch.randn(20, 3)
    state = update.start(table)
    for rows, values in gradients(5):
        update.apply(table, state, as_gradient(rows, values), rate=0.02, live=None)
    kept = {key: value.clone() for key, value in {**state, "table": table}.items() if value.ndim}
    rows = np.array([2, 3, 19])
    update.apply(table, state, as_gradient(rows, np.ones((3, 3), np.float32)), rate=0.02, live=None)
    others = np.setdiff1d(np.arange(20), rows)
    for key, value in kept.items():
        now = {**state, "table": table}[key]
        assert now[others].numpy().tobytes() == value[others].numpy().tobytes(), key
        assert (now[rows] != value[rows]).any(1).all(), key


@pytest.mark.parametrize("name", UPDATES)
def test_the_places_that_pad_fills_change_nothing(name):
    """Where the number of rows is not known on the host, PAD stands in the places that are left over."""
    update = UPDATES[name]
    plain = torch.randn(20, 3)
    filled = plain.clone()
    states = update.start(plain), update.start(filled)
    for rows, values in gradients(10):
        rows, values = rows[rows > 0], values[rows > 0]
        update.apply(plain, states[0], as_gradient(rows, values), rate=0.02, live=None)
        rows, values = np.append(rows, [0, 0, 0]), np.concatenate([values, np.zeros((3, 3), np.float32)])
        update.apply(filled, states[1], as_gradient(rows, values), rate=0.02, live=torch.tensor(True))
    assert torch.equal(plain, filled)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("name", UPDATES)
def test_a_flag_on_the_device_keeps_everything_as_it_is(name):
    update = UPDATES[name]
    table = torch.randn(20, 3)
    state = update.start(table)
    for rows, values in gradients(3):
        update.apply(table, state, as_gradient(rows, values), rate=0.02, live=None)
    kept = {key: value.clone() for key, value in {**state, "table": table}.items() if value.ndim}
    bad = RowGradient(torch.tensor([1, 5]), torch.full((2, 3), math.nan))
    update.apply(table, state, bad, rate=0.02, live=torch.tensor(False))
    assert all(torch.equal({**state, "table": table}[key], value) for key, value in kept.items())


@pytest.mark.parametrize("name", UPDATES)
def test_a_gradient_of_zero_and_one_of_no_rows_move_nothing(name):
    update = UPDATES[name]
    table = torch.randn(4, 3)
    before, state = table.clone(), update.start(table)
    for count in (0, 4):
        update.apply(table, state, RowGradient(torch.arange(count), torch.zeros(count, 3)), rate=0.1, live=None)
    assert torch.equal(table, before)


@pytest.mark.parametrize("name", UPDATES)
def test_the_state_is_exact_where_the_table_is_not(name):
    state = UPDATES[name].start(torch.zeros(4, 3, dtype=torch.bfloat16))
    assert all(value.dtype == torch.float32 for value in state.values() if value.ndim)
