"""Balanced steps: whose gradients are balanced, cutting and stopping change nothing, and what balancing is good for."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from impression_world import draw, encoder, plan_of
from torch import nn

from peterrec.balancing_recipe import Balancing
from peterrec.body_recipe import BodyLayer
from peterrec.catalogue import adapter
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import SettingsError
from peterrec.impression_recipe import Head, ImpressionTask
from peterrec.impression_transfer import build, fit_codings, fit_impressions
from peterrec.objective_recipe import Measure, Objective
from peterrec.training.balanced import BalancedGradients
from peterrec.training.impression_step import ImpressionSettings
from peterrec.training.impressions import ImpressionProgram
from peterrec.training.loop import train
from peterrec.training.optimizer import Updater
from peterrec.training.processes import Processes
from peterrec.training.progress import Progress
from peterrec.training.roles import shared_parameters
from peterrec.training.tracking import Tracker

CPU = torch.device("cpu")


def settings_of(**changes) -> ImpressionSettings:
    values = {"rows": 128, "epochs": 2, "warmup": 2, "learning_rate": 0.01, "device": "cpu", "precision": "fp32"}
    return ImpressionSettings.model_validate(values | changes)


def program_of(name, impressions, *, balancer, balancing=None, with_encoder=None, adapter_name="none", **changes):
    plan = plan_of(name, impressions)
    rows = np.arange(len(impressions))
    torch.manual_seed(0)
    built = build(plan, fit_codings(plan, impressions, rows), encoder=with_encoder, adapter=adapter(adapter_name))
    return ImpressionProgram(
        built.rows(impressions, kept=rows, cache_mb=64),
        objectives=plan.objectives,
        measures=plan.measures,
        train=rows,
        validation=rows,
        metric="auc",
        row_weights=True,
        settings=settings_of(**changes),
        balancer=balancer,
        balancing=balancing,
    )


def updater_of(program, settings):
    return Updater(program.model, settings=settings, accelerator=Accelerator(cpu=True))


def shared_of(program, *, tables=False):
    updater = updater_of(program, settings_of())
    return set(shared_parameters(program, updater.parameters, looked_up=updater.tables, tables=tables))


def gradients_of(program, *, step=None, **changes):
    """The gradients of the first step, in evaluation mode: no dropout."""
    settings = settings_of(**changes)
    program.model.eval()
    updater = updater_of(program, settings)
    balanced = BalancedGradients(program, updater, accelerator=Accelerator(cpu=True), settings=settings)
    program.model.eval()
    step = program.steps(1)[0] if step is None else step
    losses = torch.zeros(1 + len(program.weights))
    balanced.begin()
    for piece in program.pieces(step, part=0, parts=1):
        losses[0] += balanced.add(piece)
    losses[1:] += program.take_losses()
    balanced.finish(losses, batch=step, step=0, processes=Processes(), stop=False)
    return {n: p.grad.clone() for n, p in updater.parameters.items() if p.grad is not None}, losses, balanced


def plain_gradients(program, step, weights):
    """Those of the weighted sum of the objectives, by autograd alone."""
    program.model.eval()
    program.model.zero_grad()
    for piece in program.pieces(step, part=0, parts=1):
        penalty, losses = program.losses(piece, CPU)
        total = penalty + sum(w * loss for w, loss in zip(weights, losses, strict=True))
        total.backward()
    return {n: p.grad.clone() for n, p in program.model.named_parameters() if p.grad is not None}


def test_what_is_shared_follows_from_what_outputs_depend_on():
    impressions = draw(rows=300)
    mmoe = shared_of(program_of("mmoe", impressions, balancer="pcgrad"))
    assert {name.split(".")[0] for name in mmoe} == {"embeddings", "domain", "body"} - {"domain"}
    assert any("experts" in name for name in mmoe)
    assert not any("router" in name or "table" in name for name in mmoe)  # a gate is its output's alone
    ple = program_of("ple", impressions, balancer="pcgrad")
    own = [name for name in shared_of(ple) if "layers.1.experts" in name]
    experts = {name.split(".experts.")[1].split(".")[0] for name in own}
    every = {n.split(".experts.")[1].split(".")[0] for n, _ in ple.model.named_parameters() if "layers.1.experts" in n}
    assert experts
    assert experts < every, "experts of one output are not shared"
    separate = shared_of(program_of("soft_sharing", impressions, balancer="pcgrad"))
    assert not any("experts" in name or "heads" in name for name in separate)
    esmm = shared_of(program_of("esmm", impressions, balancer="pcgrad"))
    assert any(name.startswith("heads.heads.0") for name in esmm), "the product reaches the click's tower as well"
    assert not any(name.startswith("heads.heads.1") for name in esmm)


def test_tables_are_shared_only_where_that_is_asked_for():
    program = program_of("mmoe", draw(rows=300), balancer="pcgrad")
    without, with_tables = shared_of(program), shared_of(program, tables=True)
    assert {"embeddings.table.weight", "embeddings.multi.0.weight"} <= with_tables - without


def test_patches_that_start_as_the_identity_are_shared_and_the_probe_leaves_no_trace():
    program = program_of(
        "mmoe", draw(rows=300, history=True), balancer="pcgrad", with_encoder=encoder(), adapter_name="serial"
    )
    before = {name: value.clone() for name, value in program.model.state_dict().items()}
    random = torch.get_rng_state()
    shared = shared_of(program)
    trained = {n for n, p in program.model.named_parameters() if p.requires_grad and n.startswith("encoder")}
    assert trained
    assert trained <= shared
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in program.model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "adapter_name"),
    [("mmoe", None), ("ple", None), ("esmm", None), ("star", None), ("snr_trans", None), ("esmm", "full")],
)
def test_even_weights_give_the_gradient_of_the_sum(name, adapter_name):
    impressions = draw(rows=300, history=True)
    more = {} if adapter_name is None else {"with_encoder": encoder(), "adapter_name": adapter_name}
    options = Balancing(relax=0, tables=True)
    program = program_of(name, impressions, balancer="metabalance", balancing=options, **more)
    found, losses, _ = gradients_of(program)
    step = program.steps(1)[0]
    expected = plain_gradients(program, step, [1.0] * len(program.weights))
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], atol=1e-6, rtol=1e-4, msg=key)
    whole = sum(losses[1 + n] / count for n, count in enumerate(program.counts(step).values()))
    assert losses[0].item() == pytest.approx(whole.item(), rel=1e-4) or name == "snr_trans"  # which has a penalty


def test_shared_parameters_are_balanced_and_the_rest_gets_the_plain_sum():
    impressions = draw(rows=300)
    program = program_of("mmoe", impressions, balancer="metabalance", balancing=Balancing(relax=1, memory=0))
    found, _, balanced = gradients_of(program)
    step = program.steps(1)[0]
    each = [plain_gradients(program, step, weights) for weights in ([1.0, 0.0], [0.0, 1.0])]
    assert set(balanced.shared) < found.keys()
    for name, gradient in found.items():
        first, second = (one[name] for one in each)
        if name in balanced.shared:
            second = second * (first.norm() / second.norm()) if second.any() and first.any() else second
        torch.testing.assert_close(gradient, first + second, atol=1e-6, rtol=1e-3, msg=name)


def test_a_balancer_of_losses_weighs_all_that_they_reach():
    impressions = draw(rows=300)
    program = program_of("mmoe", impressions, balancer="static", balancing=Balancing(weights={"cvr": 3.0}))
    found, losses, balanced = gradients_of(program)
    assert not balanced.shared
    expected = plain_gradients(program, program.steps(1)[0], [1.0, 3.0])
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)
    even = sum(losses[1 + n] / count for n, count in enumerate(program.counts(program.steps(1)[0]).values()))
    assert losses[0].item() == pytest.approx(even.item(), rel=1e-5), "the loss that is told is not weighed"


@pytest.mark.parametrize("balancer", ["uncertainty", "metabalance", "upgrad", "gradnorm"])
def test_how_a_step_is_cut_changes_nothing(balancer):
    impressions = draw(rows=300, history=True)
    found = []
    for micro_batch in (0, 60):
        program = program_of(
            "esmm",
            impressions,
            balancer=balancer,
            with_encoder=encoder(),
            adapter_name="serial",
            micro_batch=micro_batch,
        )
        for parameter in program.model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(5))
        number = len(program.pieces(program.steps(1)[0], part=0, parts=1))
        found.append((number, *gradients_of(program, micro_batch=micro_batch)))
    assert found[1][0] > found[0][0] == 1
    torch.testing.assert_close(found[1][2], found[0][2], rtol=1e-4, atol=1e-5)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=2e-5, rtol=2e-3, msg=name)
    for name, value in found[0][3].balancer.state().items():
        torch.testing.assert_close(found[1][3].balancer.state()[name], value, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("balancer", ["metabalance", "pe_ltr", "uncertainty"])
def test_a_step_without_rows_of_an_objective(balancer):
    impressions = draw(rows=300)
    program = program_of("mmoe", impressions, balancer=balancer)
    none = np.flatnonzero(impressions.labels["click"] == 0)[:40]
    found, _, balanced = gradients_of(program, step=program._step(none))
    expected = plain_gradients(program, program._step(none), [1.0, 1.0])
    for name in balanced.shared:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-4, msg=name)
    assert set(balanced.end_epoch()["weights"]) == {"ctr"}


class Killed(Exception):
    """What a test raises in the midst of a training."""


@pytest.mark.parametrize("balancer", ["uncertainty", "dwa", "gradnorm", "metabalance", "pcgrad"])
def test_a_training_that_was_killed_ends_with_the_same_bits(balancer, tmp_path, monkeypatch):
    impressions = draw(rows=500)
    options = {"dwa": Balancing(window=3), "gradnorm": Balancing(start=2)}.get(balancer)
    settings = settings_of(checkpoint_every=3, patience=0)

    def run(folder, *, kill=None):
        program = program_of("mmoe", impressions, balancer=balancer, balancing=options)
        if kill is not None:
            losses, made = program.losses, []

            def failing(piece, device):
                made.append(piece)
                if len(made) == kill:
                    raise Killed
                return losses(piece, device)

            monkeypatch.setattr(program, "losses", failing)
        result = train(program, settings, checkpoints=folder, tracker=Tracker(), progress=Progress("silent"))
        told = [{k: v for k, v in r.items() if k not in ("seconds", "targets_per_second")} for r in result.history]
        return program.model.state_dict(), told

    weights, history = run(None)
    with pytest.raises(Killed):
        run(tmp_path / "checkpoints", kill=6)
    again, told = run(tmp_path / "checkpoints")
    assert told == history
    assert set(history[0]["weights"]) == {"ctr", "cvr"}
    assert all(torch.equal(value, weights[name]) for name, value in again.items())


def drowned(**of_task) -> float:
    """The AUC of a click that shares a narrow network with a heavy loss that has nothing to learn."""
    rng = np.random.default_rng(0)
    rows = 1500
    shelf = rng.integers(0, 12, rows)
    click = rng.random(rows) < 1 / (1 + np.exp(-np.where(shelf % 2, 2.0, -2.0)))
    impressions = Impressions.of_arrays(
        labels={"click": click, "noise": rng.normal(size=rows)}, categorical={"shelf": [f"s{n}" for n in shelf]}
    )
    task = ImpressionTask(
        name="drowned",
        kind="impressions",
        body=(BodyLayer(router="one_hot", experts=1, hidden=(4,)),),
        heads=(Head(name="ctr"), Head(name="noise", output="value")),
        objectives=(
            Objective(of="ctr", label="click"),
            Objective(of="noise", label="noise", loss="mse", weight=3000.0),
        ),
        measures=(Measure(of="ctr", label="click"),),
        **of_task,
    )
    _, _, trained = fit_impressions(
        plan_of(task, impressions),
        encoder=None,
        adapter=adapter("none"),
        settings=settings_of(epochs=4, patience=0, clip=0),
        impressions=impressions,
        split=impressions.split(0),
        checkpoints=None,
        tracker=Tracker(),
        progress=Progress("silent"),
    )
    return trained.history[-1]["validation"]["ctr/auc"]


def test_a_loss_that_drowns_another_is_balanced():
    alone = drowned()
    balanced = drowned(balancer="metabalance", balancing=Balancing(relax=1, tables=True))
    assert alone < 0.8
    assert balanced > alone + 0.05


def test_compiled_graphs_go_backward_once():
    program = program_of("mmoe", draw(rows=300), balancer="pcgrad")
    settings = settings_of(compile=True)
    with pytest.raises(SettingsError, match="compile = true goes with balancers of losses alone"):
        BalancedGradients(program, updater_of(program, settings), accelerator=Accelerator(cpu=True), settings=settings)
