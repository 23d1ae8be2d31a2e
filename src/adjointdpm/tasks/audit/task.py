"""audit: how little the initial noise must change until a classifier misreads the picture that a
model draws from a harmless prompt.

Meant for those who train or deploy a classifier or a safety filter: it finds pictures that look
    like the prompt and are misread, without
anybody drawing them, and saves the noise so that each finding can be replayed, added to a training
set, and tested for again. It starts from harmless prompts and pictures that the victim gets right,
and offers no way to move a picture towards content that a filter is there to stop: for a filter it
finds false alarms.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.errors import InvalidInputError, PromptError, UnknownNameError, UnsupportedError
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.gradient_check import (
    gradient_cost,
    is_exact,
    peak_memory_bytes,
    versions,
)
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.interruption import stop_requests
from adjointdpm.runs.resumable_steps import Once, Saved, Units
from adjointdpm.support.distributed import Processes
from adjointdpm.tasks.audit.attack import Findings, Goal, attack, random_search
from adjointdpm.tasks.audit.clean_test import Clean, Report, find_clean
from adjointdpm.tasks.audit.noise_file import noise_file_name, replay_command, write_findings
from adjointdpm.tasks.audit.victims import Victim, load_victim
from adjointdpm.tasks.confidence_intervals import share_interval
from adjointdpm.tasks.config import check_prompts, check_sampling
from adjointdpm.tasks.learning import Story, save_pictures
from adjointdpm.variables import Example, Noise
from adjointdpm.variables.freezing import frozen


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What `audit` does.

    Args:
        victim: a registered network or `file.py:function`; see `load_victim`.
        prompts: what the model draws; each names something that the victim has a class for.
        target: the class that the victim shall see; None is any wrong one.
        budgets: how far the noise may move, smallest first.
        within: the norm of the budget: "l2" (root mean square change, in units of the noise's
            standard deviation) or "linf".
        transfer: a second victim, that no gradient comes from.
        clean_seeds: clean pictures of each prompt that the victim is tested on.
        least_right: the share of them that the victim must get right for the prompt to count.
        iterations: gradient steps for each example and budget.
        batch: examples in one graph.
        preservation: weight of the structure distance to the clean picture.
        steps, guidance_scale, sampler, gradient: as `generate` takes them.
        search: compare with random search that may call the network as often.
        seed: fixes everything random.

    Raises:
        PromptError: no prompts, blank or repeated ones.
        InvalidInputError, UnknownNameError: a budget that is not positive, or another value out of
            range.

    """

    victim: str
    prompts: list[str]
    target: str | None = None
    budgets: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.3])
    within: str = "l2"
    transfer: str | None = None
    clean_seeds: int = 20
    least_right: float = 0.8
    iterations: int = 10
    batch: int = 4
    preservation: float = 0.0
    steps: int = 20
    guidance_scale: float | None = None
    sampler: str | None = None
    gradient: str = "exact"
    search: bool = True
    seed: int = 0

    @property
    def artefacts(self) -> tuple[str, ...]:
        """The adversarial noise of each budget."""
        return tuple(map(noise_file_name, self.budgets))

    def __post_init__(self) -> None:
        check_sampling(self.guidance_scale, self.sampler, self.gradient)
        check_prompts(self.prompts, "prompts")
        repeated = sorted({prompt for prompt in self.prompts if self.prompts.count(prompt) > 1})
        if repeated:
            raise PromptError(f"prompts given twice: {repeated}; each counts once")
        if self.within not in ("l2", "linf"):
            raise UnknownNameError(f"within={self.within!r} is unknown; choose l2 or linf")
        if not self.budgets or not all(0 < budget < float("inf") for budget in self.budgets):
            raise InvalidInputError(
                f"budgets={self.budgets} must be positive numbers; a budget of 0 would leave the "
                f"noise as it is"
            )
        for name in ("clean_seeds", "iterations", "batch"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.least_right <= 1:
            raise InvalidInputError(f"least_right={self.least_right} must be in (0, 1]")


def audit(
    model: Any,
    config: AuditConfig,
    folder: RunFolder,
    *,
    model_name: str = "",
    command: str = "",
    recognise: Recogniser | None = None,
    resume: bool = False,
    report: Report = lambda what, done, total: None,
) -> dict[str, Any]:
    """Find adversarial noise for every prompt and budget, and fill the run folder, all but its
    report.

    Args:
        model: what `adjointdpm.load` returns.
        config: what to do.
        folder: where to; see `RunFolder`.
        model_name: how to load the model again, for the replay.
        command: the command line that repeats the run, for the report.
        recognise: an independent judge; with one, success counts only where it still sees what the
            prompt names.
        resume: take from the folder what an interrupted run had done, down to one prompt's clean
            test, one batch of an attack's iteration, and one try of a random search.
        report: called as the work goes on.

    Returns:
        What `result.json` holds; `success` has a row for each budget.

    Raises:
        PromptError: the victim gets no prompt right often enough.
        ModelError, UnknownNameError: a victim or target that is not there.
        UnsupportedError: several processes.
        Interrupted: a signal arrived; the part in progress is saved, and the run can be resumed.

    """
    check_one_process()
    started = time.perf_counter()
    victim = load_victim(config.victim, config.prompts)
    second = None if config.transfer is None else load_victim(config.transfer, config.prompts)
    target, gradient = _target(victim, config.target), resolve_gradient(config.gradient)
    render = Renderer(model, config.steps, config.guidance_scale, config.sampler, gradient)
    restored_calls, restored_seconds = 0, 0.0
    with render.counted() as counter, stop_requests() as stop, frozen(model.pipe):
        units = Units(folder.path / "checkpoint", resume, stop)

        def once(name: str, make: Callable[[], Saved]) -> Saved:
            """A part of the audit, with the network calls and seconds that it took, whether now or
            before an interruption.
            """
            nonlocal restored_calls, restored_seconds
            before, began = counter.calls + restored_calls, time.perf_counter() + restored_seconds

            def counted() -> Saved:
                tensors, facts = make()
                folder.begin()  # this is written into it next
                took = {
                    "calls": counter.calls + restored_calls - before,
                    "seconds": time.perf_counter() + restored_seconds - began,
                }
                return tensors, facts | took

            saved, restored = units.once(name, counted)
            if restored:
                restored_calls += saved[1]["calls"]
                restored_seconds += saved[1].get(
                    "seconds", 0.0
                )  # parts saved before it was kept have none
            return saved

        def parts_of(name: str) -> Once:
            """The same for the parts of a part."""
            return lambda part, make: once(f"{name}/{part}", make)

        def test() -> Saved:
            return find_clean(
                render,
                victim,
                config.prompts,
                seeds=config.clean_seeds,
                least_right=config.least_right,
                seed=config.seed,
                recognise=recognise,
                report=report,
                once=parts_of("clean"),
            ).saved()

        clean = Clean.restored(*once("clean", test))
        kept = [i for i, label in enumerate(clean.labels) if label != target]
        if not kept:
            raise PromptError(
                f"every prompt that victim {victim.name} gets right is of the target class "
                f"{config.target!r}"
            )
        examples, plain = [clean.examples[i] for i in kept], clean.pictures[kept]
        goal = Goal(victim, torch.tensor([clean.labels[i] for i in kept]), target)
        start = torch.cat([model.noise(1, example.seed) for example in examples])
        looks = 1 + (config.preservation > 0)  # at what it ends with, and at what it preserves
        spent = looks + config.iterations * gradient_cost(
            render, Noise(examples, start, within="free"), examples[0]
        )
        rows, views, histories = [], {"before": plain}, []
        verdicts = {"before_verdict": [victim.groups[i] for i in goal.labels.tolist()]}
        for budget in config.budgets:
            noise = Noise(examples, start, within=config.within, budget=budget)
            history: list[dict[str, Any]] = []

            def progress(
                iteration: int,
                fooled: int,
                budget: float = budget,
                history: list[dict[str, Any]] = history,
            ) -> None:
                report(
                    f"budget {budget:g}: {fooled} of {len(examples)} fooled",
                    iteration,
                    config.iterations,
                )
                history.append({"budget": budget, "iteration": iteration, "fooled": fooled})
                folder.write_history(histories + history)

            def strike(
                budget: float = budget,
                noise: Noise = noise,
                progress: Callable[[int, int], None] = progress,
                history: list[dict[str, Any]] = history,
            ) -> Saved:
                found = attack(
                    render,
                    goal,
                    examples,
                    noise,
                    iterations=config.iterations,
                    batch=config.batch,
                    preservation=config.preservation,
                    accept=recognise,
                    on_iteration=progress,
                    once=parts_of(f"attack-{budget}"),
                )
                return asdict(found), {"history": history}

            tensors, facts = once(f"attack-{budget}", strike)
            found, attacked = Findings(**tensors), facts["calls"]
            with torch.no_grad():  # as the attack leaves it
                next(iter(noise.tensors().values())).copy_(found.noise)
            histories.extend(facts["history"])
            folder.write_history(histories)
            row = _measure(budget, config, examples, goal, found, noise, plain, recognise, second)
            row |= {"network_calls": attacked, "forward_equivalents": spent}
            if config.search:
                report(f"budget {budget:g}: random search", 0, 1)
                tries = math.ceil(spent - 1e-9)  # a cost such as 3.9 is not exact in binary

                def search(budget: float = budget, tries: int = tries) -> Saved:
                    searched = random_search(
                        render,
                        goal,
                        examples,
                        Noise(examples, start, within=config.within, budget=budget),
                        tries=tries,
                        seed=config.seed,
                        accept=recognise,
                        once=parts_of(f"random-{budget}"),
                    )
                    return asdict(searched), {}

                searched = Findings(**once(f"random-{budget}", search)[0])
                row |= {
                    "random_search": searched.fooled.float().mean().item(),
                    "random_tries": tries,
                }
                row["random_interval"] = share_interval(int(searched.fooled.sum()), len(examples))
            rows.append(row)
            views[f"budget_{budget:g}"] = found.pictures
            verdicts[f"budget_{budget:g}_verdict"] = [
                victim.groups[i] for i in found.verdicts.tolist()
            ]
            write_findings(
                folder.path / noise_file_name(budget),
                examples,
                goal,
                found,
                noise,
                _replay_facts(config, model_name),
            )
        network_calls = counter.calls + restored_calls
    result = {
        "task": "audit",
        "metric": {
            "name": f"share of pictures that {victim.name} misreads",
            "before": 0.0,
            "after": rows[-1]["fooled"],
        },
        "held_out": {"before": 0.0, "after": rows[-1]["rate"], "examples": len(examples)},
        "success": rows,
        "victim": {
            "name": victim.name,
            "groups": victim.groups,
            "target": config.target,
            "right_on_clean": clean.right,
        },
        "pictures": [
            row | {view: names[i] for view, names in verdicts.items()}
            for i, row in enumerate(save_pictures(folder, examples, views))
        ],
        "artefact": noise_file_name(config.budgets[-1]),
        "gradient": {
            "method": config.gradient,
            "class": repr(gradient),
            "exact": is_exact(gradient),
            "error": [],
        },
        "seconds": time.perf_counter() - started + restored_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "network_calls": network_calls,
        "seed": config.seed,
        "command": command,
        "versions": versions(),
        "config": asdict(config),
    }
    again = replay_command(result["artefact"], model_name, config.victim)
    result["story"] = asdict(_story(config, victim, clean, result, recognise is not None, again))
    folder.write_result(result)
    return result


def check_one_process() -> None:
    """Raise UnsupportedError under several processes, which would all do the same audit and write
    the same files.
    """
    if Processes().count > 1:
        raise UnsupportedError(
            "an audit runs in one process; start it without torchrun or accelerate launch"
        )


def _measure(
    budget: float,
    config: AuditConfig,
    examples: Sequence[Example],
    goal: Goal,
    found: Findings,
    noise: Noise,
    plain: Tensor,
    recognise: Recogniser | None,
    second: Victim | None,
) -> dict[str, Any]:
    """One row of `success`."""
    agrees = torch.ones(len(examples), dtype=torch.bool)
    if recognise is not None:
        agrees = torch.tensor(recognise(found.pictures, examples))
    success = found.fooled & agrees
    transfer = None
    if second is not None:
        labels = torch.tensor([second.label(example.prompt) for example in examples])
        known = success & (
            second.verdicts(plain) == labels
        )  # what it misreads without an attack cannot be transferred to it
        wrong = second.verdicts(found.pictures) != labels
        transfer = {
            "rate": (wrong & known).sum().item() / max(1, int(known.sum())),
            "of": int(known.sum()),
        }
    natural = noise.naturalness()
    return {
        "budget": budget,
        "rate": success.float().mean().item(),
        "interval": share_interval(int(success.sum()), len(examples)),
        "fooled": found.fooled.float().mean().item(),
        "random_search": None,
        "transfer": None if transfer is None else transfer["rate"],
        "transfer_of": None if transfer is None else transfer["of"],
        "judge_agrees": None
        if recognise is None
        else agrees[found.fooled].float().mean().nan_to_num(0.0).item(),
        "iterations": found.iterations.float().mean().item(),
        "naturalness": {
            key: sum(abs(facts[key]) for facts in natural) / len(natural) for key in natural[0]
        },
    }


def _target(victim: Victim, target: str | None) -> int | None:
    if target is None:
        return None
    if target not in victim.groups:
        raise UnknownNameError(
            f"target {target!r} is no class of victim {victim.name}; choose one of "
            f"{', '.join(victim.groups)}"
        )
    return victim.groups.index(target)


def _replay_facts(config: AuditConfig, model_name: str) -> dict[str, Any]:
    keys = ("victim", "target", "steps", "guidance_scale", "sampler")
    return {"model": model_name, "prompts": config.prompts} | {
        key: getattr(config, key) for key in keys
    }


def _story(
    config: AuditConfig,
    victim: Victim,
    clean: Clean,
    result: dict[str, Any],
    judged: bool,
    again: str,
) -> Story:
    unit = (
        "root mean square, in standard deviations of the noise"
        if config.within == "l2"
        else "largest change of any number in the noise"
    )
    counted = (
        "An attack counts as a success only if an independent judge still sees what the prompt "
        "names."
        if judged
        else ""
    )
    seen = (
        f"anything but the right class ({len(victim.groups)} classes)"
        if config.target is None
        else f"“{config.target}”"
    )
    views = {"before": f"clean: {victim.name} is right"} | {
        f"budget_{b:g}": f"budget {b:g}" for b in config.budgets
    }
    row = result["success"][0]
    searched = ""
    if config.search:
        searched = (
            f" Random search draws {row['random_tries']} noises at the edge of it, which costs as "
            f"many network calls (a VJP is two)."
        )
    return Story(
        title=f"How easily {victim.name} is fooled",
        lead="Harmless prompts, and the initial noise moved a little, along the gradient through "
        f"{config.steps} sampler steps, until the victim sees {seen}. Nobody painted these "
        f"pictures: the model draws them from a noise close to the one it started from. {counted}",
        views=views,
        how=[
            f"Of {len(config.prompts)} prompts, the victim gets {len(clean.examples)} right on at "
            f"least {config.least_right:.0%} of {config.clean_seeds} clean pictures; only these "
            f"are attacked, each from one clean picture that it gets right.",
            f"Budget: {unit}. At most {config.iterations} steps of projected gradient descent on "
            f"the difference of logits.{searched}",
        ],
        use="Purpose: to measure and mend a classifier. Every finding can be replayed, and added "
        "to what it is trained and tested on:",
        code=[again],
    )
