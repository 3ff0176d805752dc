"""The benchmark of speed: its reference does the same work, and its figures are what they say."""

import json

import torch
from typer.testing import CliRunner

from fedsc.cli import app
from fedsc.config import Config
from fedsc.rng import torch_generator
from fedsc.sgd import SGD
from fedsc.ssl.byol import OBJECTIVE
from simulations.bench import speed
from simulations.benchmarks import large_run


def test_the_reference_takes_the_same_steps():
    options = Config.of(mask_rate=0.0)  # without masks nothing is drawn
    chosen = options.training
    weights = OBJECTIVE.init(30, options.method, torch_generator(0, "init"))
    plain = speed.Plain(30, options)
    linear = [m for m in plain.online if isinstance(m, torch.nn.Linear)] + [plain.predictor]
    names = ["encoder.0", "encoder.1", "encoder.2", "projector.0", "predictor.0"]
    with torch.no_grad():
        for name, module in zip(names, linear, strict=True):
            module.weight.copy_(weights[f"{name}.weight"])
            module.bias.copy_(weights[f"{name}.bias"])
    plain.target.load_state_dict(plain.online.state_dict())
    state = OBJECTIVE.begin(weights, {}, 16, options.method, torch_generator(0, "begin"))
    optimizer = SGD(state.trainable(), chosen.learning_rate, chosen.momentum, chosen.weight_decay)

    def descend(loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for i in range(3):
        x = torch.randn(16, 30, generator=torch_generator(i, "x"))
        plain.step(x)
        OBJECTIVE.step(state, torch.stack((x, x), dim=1), descend, options.method)
    for name, module in zip(names, linear, strict=True):
        torch.testing.assert_close(
            state.shared[f"{name}.weight"], module.weight, rtol=1e-3, atol=1e-5
        )


def test_every_turn_and_every_round_but_the_first_give_a_figure(monkeypatch):
    monkeypatch.setattr(speed, "_TURNS", 2)
    monkeypatch.setattr(speed, "_STEPS", 1)
    monkeypatch.setattr(speed, "_ROUNDS", 2)
    assert len(speed.step_ratios()) == 2
    found = speed.overheads(2)
    assert len(found) == 2
    assert all(figure > 0 for figure in found)


def test_figures_are_summed_up():
    assert speed.Spread.of([3.0, 1.0, 2.0]) == speed.Spread(2.0, 1.0, 3.0)


def test_the_command_writes_what_it_shows(tmp_path, monkeypatch):
    spread = {"median": 1.5, "min": 1.0, "max": 2.0}
    machine = {"cores": 2, "load": 0.1, "torch": "2", "gflops": spread}

    def measure(deployed, large):
        name = "deployed_round_s" if deployed else "peak_gb_per_million" if large else "step_ratio"
        return {name: spread, "machine": machine}

    monkeypatch.setattr(speed, "measure", measure)
    command = ["bench", "speed", "-o", str(tmp_path / "out")]
    assert "deployed_round_s" in CliRunner().invoke(app, [*command, "--deployed"]).output
    assert "peak_gb_per_million" in CliRunner().invoke(app, [*command, "--large"]).output
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "step_ratio" in result.output
    assert json.loads((tmp_path / "out" / "speed.json").read_text())["step_ratio"] == spread


def test_large_runs_are_measured_where_they_are_wanted_alone(monkeypatch):
    for name in ("step_ratios", "round_ratios", "gflops"):
        monkeypatch.setattr(speed, name, lambda: [1.0])
    monkeypatch.setattr(speed, "overheads", lambda labs: [1.0])
    monkeypatch.setattr(speed, "startups", lambda: ([1.0],) * 3)
    figures = {"analysis_cpu_s_per_million": [2.0, 4.0], "peak_gb_per_million": [1.0]}
    monkeypatch.setattr(large_run, "growth", lambda: figures)
    assert not figures.keys() & speed.measure().keys()
    found = speed.measure(large=True)
    assert found["analysis_cpu_s_per_million"] == {"median": 3.0, "min": 2.0, "max": 4.0}
    assert found["peak_gb_per_million"]["max"] == 1.0
