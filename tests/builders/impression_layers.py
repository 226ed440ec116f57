"""The layers that published networks are made of, in numpy, by the names of a state dict; not a test module."""

import numpy as np

Array = np.ndarray
State = dict[str, Array]


def sigmoid(x) -> Array:
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def softmax(x: Array) -> Array:
    raised = np.exp(x - x.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def dense(s: State, name: str, x: Array, domain: Array | None = None) -> Array:
    """W x + b `(B, D_out)`; with weights a domain (STAR) W ⊙ W_k and b + b_k of each row's own, k < 0 without."""
    weight, bias = s[f"{name}.weight"], s.get(f"{name}.bias", np.zeros(1))
    if f"{name}.deviation.weight" not in s:
        return x @ weight.T + bias
    rows = []
    for row, k in zip(x, domain, strict=True):
        factor = 1 + s[f"{name}.deviation.weight"][k] if k >= 0 else 1.0
        more = s[f"{name}.deviation.bias"][k] if k >= 0 else 0.0
        rows.append((weight * factor) @ row + bias + more)
    return np.stack(rows)


def mlp(s: State, name: str, x: Array, domain: Array | None = None) -> Array:
    """max(0, W x + b) for each layer there is."""
    level = 0
    while f"{name}.linears.{level}.weight" in s:
        x = np.maximum(dense(s, f"{name}.linears.{level}", x, domain), 0)
        level += 1
    assert level
    return x


def expert(s: State, layer: int, number: int, x: Array, domain: Array | None = None) -> Array:
    return mlp(s, f"body.layers.{layer}.experts.{number}", x, domain)


def gated(s: State, layer: int, gate: int, x: Array, experts: list[Array]) -> Array:
    """Σ g_i f_i with g = softmax(W x) `(B, H)`."""
    weights = softmax(x @ s[f"body.layers.{layer}.router.linears.{gate}.weight"].T)
    assert weights.shape[1] == len(experts)
    return sum(weights[:, n : n + 1] * one for n, one in enumerate(experts))


def features(s: State, head: int, x: Array, domain: Array | None = None) -> Array:
    return mlp(s, f"heads.heads.{head}.tower", x, domain)


def logit(s: State, head: int, read: Array, domain: Array | None = None) -> Array:
    return dense(s, f"heads.heads.{head}.output", read, domain)[:, 0]


def tower(s: State, head: int, x: Array, domain: Array | None = None) -> Array:
    """The logit `(B,)` of a head on its branch."""
    return logit(s, head, features(s, head, x, domain), domain)


def stretched(s: Array) -> Array:
    """The hard concrete of a concrete variable: between -0.1 and 1.1, cut at 0 and 1."""
    return np.minimum(1.0, np.maximum(0.0, s * (1.1 - -0.1) + -0.1))


def partitioned(s: State, x: Array, domain: Array, *, training: bool) -> Array:
    """STAR, 4.2: (γ ⊙ γ_k)(x − μ_k) / √(σ²_k + ε) + β + β_k, with moments of the domain's rows in training.

    Rows of unknown domains have the shared γ, β and the moments of all rows.
    """
    rows = []
    for row, k in zip(x, domain, strict=True):
        if training:
            of = x[domain == k] if k >= 0 else x
            mean, var = of.mean(0), of.var(0)
        elif k >= 0:
            mean, var = s["norm.domain_mean"][k], s["norm.domain_var"][k]
        else:
            mean, var = s["norm.running_mean"], s["norm.running_var"]
        gain, bias = s["norm.weight"], s["norm.bias"]
        if k >= 0:
            gain, bias = gain * (1 + s["norm.domain_weight"][k]), bias + s["norm.domain_bias"][k]
        rows.append(gain * (row - mean) / np.sqrt(var + 1e-5) + bias)
    return np.stack(rows)
