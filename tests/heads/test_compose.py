"""Formulas over probabilities, in log space."""

import itertools

import numpy as np
import pytest
import torch

from peterrec.errors import SettingsError
from peterrec.heads.compose import MOST_NAMES, LogProbability, compose, of_logit, parse_derived
from peterrec.objectives.impression_losses import row_losses

NAMES = ["a", "b", "c", "d", "o"]
FORMULAS = {
    "a * b": lambda p: p["a"] * p["b"],
    "d * b + (1 - d) * o": lambda p: p["d"] * p["b"] + (1 - p["d"]) * p["o"],
    "(1 - a)": lambda p: 1 - p["a"],
    "1 - a * (1 - b)": lambda p: 1 - p["a"] * (1 - p["b"]),
    "1 - (1 - a) * (1 - b) * (1 - c)": lambda p: 1 - (1 - p["a"]) * (1 - p["b"]) * (1 - p["c"]),
    "a + b - a * b": lambda p: p["a"] + p["b"] - p["a"] * p["b"],
    "a * (d * b + (1 - d) * o)": lambda p: p["a"] * (p["d"] * p["b"] + (1 - p["d"]) * p["o"]),
    "a*b*c + (1-a)*b*(1 - c) + (1 - b)*d": lambda p: (
        p["a"] * p["b"] * p["c"] + (1 - p["a"]) * p["b"] * (1 - p["c"]) + (1 - p["b"]) * p["d"]
    ),
    "(1) * a * (b)": lambda p: p["a"] * p["b"],
}


def ones(logit: float) -> torch.Tensor:
    return torch.tensor([logit], requires_grad=True)


def single(text: str, logits: dict[str, torch.Tensor]) -> LogProbability:
    return compose(logits, {"it": parse_derived(text, list(logits))})["it"]


@pytest.mark.parametrize("text", FORMULAS)
def test_values_and_gradients_are_those_of_probability_space_at_moderate_logits(text):
    torch.manual_seed(0)
    logits = {name: (2 * torch.randn(50, dtype=torch.float64)).requires_grad_() for name in NAMES}
    found = single(text, logits)
    p = {name: torch.sigmoid(logit) for name, logit in logits.items()}
    expected = FORMULAS[text](p)
    torch.testing.assert_close(found.probability, expected)
    torch.testing.assert_close(found.log_not_p.exp(), 1 - expected)
    torch.testing.assert_close(found.logit, torch.logit(expected))
    for value, reference in ((found.log_p, expected.log()), (found.log_not_p, (1 - expected).log())):
        used = [logits[name] for name in parse_derived(text, NAMES).names]
        own = torch.autograd.grad(value.sum(), used, retain_graph=True)
        other = torch.autograd.grad(reference.sum(), used, retain_graph=True)
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize(("ctr", "cvr"), [*itertools.product((-200.0, -60.0, -3.0, 60.0, 200.0), repeat=2)])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_the_gradient_of_a_product_is_right_where_probability_space_has_none(ctr, cvr, label):
    """By hand: of -log pq it is -(1 - p), of -log(1 - pq) it is pq(1 - p) / (1 - pq), with p = σ(a) and q = σ(b)."""
    a, b = ones(ctr), ones(cvr)
    row_losses("bce", single("a * b", {"a": a, "b": b}), torch.tensor([label])).sum().backward()
    with np.errstate(over="ignore"):
        # 1 - pq = (x + y + xy) / ((1 + x)(1 + y)) with x = e^-a, y = e^-b; p(1 - p) = x / (1 + x)²
        x, y = np.exp(np.array([-ctr, -cvr], dtype=np.longdouble))
        if label:
            expected = -x / (1 + x), -y / (1 + y)
        else:
            rest = x + y + x * y
            expected = x / (1 + x) / rest, y / (1 + y) / rest
    for logit, right in zip((a, b), expected, strict=True):
        assert logit.grad is not None
        assert torch.isfinite(logit.grad).all()
        np.testing.assert_allclose(logit.grad.numpy(), float(right), rtol=2e-5, atol=1e-30 if label else 1e-8)


@pytest.mark.parametrize("value", [-60.0, 60.0])
@pytest.mark.parametrize("text", FORMULAS)
def test_extreme_logits_leave_everything_finite(text, value):
    for signs in itertools.product((-1, 1), repeat=len(NAMES)):
        logits = {name: ones(sign * value) for name, sign in zip(NAMES, signs, strict=True)}
        found = single(text, logits)
        exact = single(text, {name: logit.detach().double() for name, logit in logits.items()})
        torch.testing.assert_close(found.log_p.double(), exact.log_p, rtol=1e-5, atol=1e-30)
        torch.testing.assert_close(found.log_not_p.double(), exact.log_not_p, rtol=1e-5, atol=1e-30)
        (found.log_p + found.log_not_p).sum().backward()
        for name in parse_derived(text, NAMES).names:
            grad = logits[name].grad
            assert grad is not None
            assert torch.isfinite(grad).all()


def test_esm2_in_numpy():
    """Wen et al. (SIGIR 2020): three probabilities of the four that its towers give."""
    rng = np.random.default_rng(0)
    y = 1 / (1 + np.exp(-(z := rng.normal(size=(4, 20)) * 3)))
    logits = dict(zip(("click", "action", "buy", "other"), torch.from_numpy(z), strict=True))
    texts = {
        "ctavr": "click * action",
        "cvr": "action * buy + (1 - action) * other",
        "ctcvr": "click * cvr",
    }
    known, derived = [*logits], {}
    for name, text in texts.items():
        derived[name] = parse_derived(text, known)
        known.append(name)
    found = compose(logits, derived)
    assert list(found) == known
    cvr = y[1] * y[2] + (1 - y[1]) * y[3]
    for name, expected in (("ctavr", y[0] * y[1]), ("cvr", cvr), ("ctcvr", y[0] * cvr)):
        np.testing.assert_allclose(found[name].probability.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_become_float32(dtype):
    found = compose({"a": torch.tensor([-60.0, 0.5, 60.0], dtype=dtype)}, {"b": parse_derived("a * (1)", ["a"])})
    for one in found.values():
        assert one.log_p.dtype == one.log_not_p.dtype == torch.float32
        torch.testing.assert_close(one.logit, torch.tensor([-60.0, 0.5, 60.0]))


def test_it_compiles_in_one_graph():
    def both(a, b):
        return compose({"a": a, "b": b}, {"c": parse("a * b")})["c"].log_not_p

    formula = parse_derived("a * b", ["a", "b"])

    def parse(text):
        return formula

    a, b = torch.randn(2, 5)
    compiled = torch.compile(both, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(a, b), both(a, b))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ctr * cvt", r"'ctr \* cvt': at character 7 \('cvt'\): there is no such probability. Did you mean 'cvr'"),
        ("ctr cvr", r"at character 5 \('cvr'\): expected \+, - or \*"),
        ("ctr * ", "at the end: expected a name, 1 or an opening parenthesis"),
        ("", "at the end: expected a name"),
        ("(ctr * cvr", "at the end: expected a closing parenthesis"),
        ("ctr * cvr)", r"at character 10 \('\)'\)"),
        ("0.5 * ctr", r"at character 1 \('0'\): expected a name"),
        ("ctr / cvr", r"at character 5 \('/'\)"),
        ("ctr * (1 - ctr)", r"at character 7 \('\('\): the product has 'ctr' twice"),
        ("ctr + cvr", "is no probability: it is 2 where ctr = 1 and cvr = 1"),
        ("ctr - cvr", "it is -1 where ctr = 0 and cvr = 1"),
        ("1 + 1", "is no probability: it is 2. "),
        ("ctr - ctr", "is 0 whatever its names are"),
        ("1", "is 1 whatever"),
        ("1 - ctr", None),
        ("'long view' * ctr", None),
    ],
)
def test_what_a_formula_may_be(text, message):
    known = ["ctr", "cvr", "long view"]
    if message is None:
        assert set(parse_derived(text, known).names) <= set(known)
        return
    with pytest.raises(SettingsError, match=message):
        parse_derived(text, known)


def test_as_many_names_as_a_tree_can_hold():
    names = [f"n{number}" for number in range(MOST_NAMES + 1)]
    assert parse_derived(" * ".join(names[:-1]), names).names == tuple(names[:-1])
    with pytest.raises(SettingsError, match="a derived probability of its own"):
        parse_derived(" * ".join(names), names)


def test_the_logit_orders_what_the_probability_ties():
    one = of_logit(torch.tensor([40.0, 41.0]))
    assert one.probability[0] == one.probability[1]
    assert one.logit[0] < one.logit[1]
