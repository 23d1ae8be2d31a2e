"""audit: how little the initial noise must change until a classifier misreads the picture.

It is meant for those who train or deploy a classifier or a safety filter: it finds pictures that
look like their prompt and are misread, without anybody drawing them. It saves the noise, so that
each finding can be replayed, added to a training set, and tested for again. It starts from harmless
prompts and from pictures that the victim gets right, and offers no way to move a picture towards
content that a filter is there to stop: for a filter it finds false alarms.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.engine.stats import Stats, stats
from adjointdpm.errors import PromptError, UnknownNameError, UnsupportedError
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.gradient_check import gradient_cost, is_exact
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines.arguments.call_arguments import plain_arguments
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.interruption import stop_requests
from adjointdpm.runs.provenance import package_versions, peak_memory_bytes
from adjointdpm.runs.resumable_steps import Once, ResumableSteps, Saved
from adjointdpm.support.distributed import Processes
from adjointdpm.tasks.audit.attack import Findings, Goal, attack, random_search
from adjointdpm.tasks.audit.clean_test import Clean, Report, find_clean
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.noise_file import noise_file_name, replay_command, write_findings
from adjointdpm.tasks.audit.victims import Victim, load_victim
from adjointdpm.tasks.confidence_intervals import share_interval
from adjointdpm.tasks.config import settings_of
from adjointdpm.tasks.learning import Story, renderer, save_pictures
from adjointdpm.variables import Example, Noise
from adjointdpm.variables.freezing import frozen


def audit(
    model: Any,
    config: AuditConfig,
    folder: RunFolder,
    *,
    victim: Victim | None = None,
    model_name: str = "",
    command: str = "",
    recognise: Recogniser | None = None,
    resume: bool = False,
    report: Report = lambda what, done, total: None,
) -> dict[str, Any]:
    """Find adversarial noise for every prompt and budget; fill the run folder but for the report.

    Args:
        model: what `adjointdpm.load` returns.
        config: what to do.
        folder: where to; see `RunFolder`.
        victim: the classifier; by default the one that the config names.
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
        UnsupportedError: several processes, or a pipeline that makes no pictures.
        Interrupted: a signal arrived; the part in progress is saved, and the run can be resumed.

    """
    check_one_process()
    started = time.perf_counter()
    victim = victim or load_victim(config.victim, config.prompts)
    second = None if config.transfer is None else load_victim(config.transfer, config.prompts)
    target, render = _target(victim, config.target), renderer(model, config)
    with stats(memory=False) as counter, stop_requests() as stop, frozen(model.pipe):
        _check_pictures(render, Example(config.prompts[0], config.seed), victim)
        steps = ResumableSteps(folder.path / "checkpoint", resume, stop)
        once = _CountedSteps(steps, folder, counter)
        clean = _clean(config, render, victim, recognise, report, once)
        chosen = _attacked(clean, victim, target)
        attacks = _Attacks(config, render, folder, once, recognise, report, second, *chosen)
        for budget in config.budget:
            attacks.run(budget, model_name)
        result = _result(config, clean, attacks)
    again = replay_command(result["artefact"], model_name, config.victim)
    story = _story(config, victim, clean, attacks.rows[0], recognise is not None, again)
    seconds = time.perf_counter() - started + once.restored_seconds
    result |= {"seconds": seconds, "command": command, "story": asdict(story)}
    folder.write_result(result)
    return result


def _check_pictures(render: Renderer, example: Example, victim: Victim) -> None:
    """Raise UnsupportedError unless the pipeline makes pictures, at which the victim can look."""
    shape = render.sample_shape(example)
    if len(shape) != 3 or shape[0] != 3:
        raise UnsupportedError(
            f"{type(render.model.pipe).__name__} makes samples of shape {shape}, and victim "
            f"{victim.name} looks at pictures (3, H, W)"
        )


def check_one_process() -> None:
    """Refuse several processes, which would all do the same audit and write the same files.

    Raises:
        UnsupportedError: there are several.

    """
    if Processes().count > 1:
        raise UnsupportedError(
            "an audit runs in one process; start it without torchrun or accelerate launch"
        )


@dataclass
class _CountedSteps:
    """Resumable steps, each with the network calls and seconds it took, now or in an earlier run.

    Args:
        steps: does and keeps them.
        folder: begins before the first one is kept.
        counter: counts the network calls of this run.
        restored_calls, restored_seconds: of steps that an earlier run did.

    """

    steps: ResumableSteps
    folder: RunFolder
    counter: Stats
    restored_calls: int = 0
    restored_seconds: float = 0.0

    @property
    def calls(self) -> int:
        """Network calls so far, with those of earlier runs."""
        return self.counter.network_calls + self.restored_calls

    def __call__(self, name: str, make: Callable[[], Saved]) -> Saved:
        """Do a step, or take it from an earlier run; its facts get `calls` and `seconds`."""
        calls, began = self.calls, time.perf_counter() + self.restored_seconds

        def counted() -> Saved:
            tensors, facts = make()
            self.folder.begin()  # this is written into it next
            seconds = time.perf_counter() + self.restored_seconds - began
            return tensors, facts | {"calls": self.calls - calls, "seconds": seconds}

        (tensors, facts), restored = self.steps.once(name, counted)
        if restored:
            self.restored_calls += facts["calls"]
            self.restored_seconds += facts["seconds"]
        return tensors, facts

    def within(self, name: str) -> Once:
        """The same for the steps of a step."""
        return lambda part, make: self(f"{name}/{part}", make)


def _clean(
    config: AuditConfig,
    render: Renderer,
    victim: Victim,
    recognise: Recogniser | None,
    report: Report,
    once: _CountedSteps,
) -> Clean:
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
            once=once.within("clean"),
        ).saved()

    return Clean.restored(*once("clean", test))


def _attacked(
    clean: Clean, victim: Victim, target: int | None
) -> tuple[Goal, list[Example], Float[Tensor, "n 3 height width"]]:
    """The goal, the examples and their clean pictures, without those of the target's own class."""
    kept = [i for i, label in enumerate(clean.labels) if label != target]
    if not kept:
        assert target is not None
        raise PromptError(
            f"every prompt that victim {victim.name} gets right is of the target class "
            f"{victim.groups[target]!r}"
        )
    labels = torch.tensor([clean.labels[i] for i in kept])
    return Goal(victim, labels, target), [clean.examples[i] for i in kept], clean.pictures[kept]


@dataclass
class _Attacks:
    """The attacks of an audit, budget after budget, and what they found.

    Args:
        config, render, folder, once, recognise, report: those of the audit.
        second: the victim of the transfer.
        goal, examples, plain: whom to fool, with which examples, and their clean pictures.
        rows: what `result.json` calls `success`.
        views: pictures by view.
        verdicts: by view the names that the victim gives the pictures.
        history: one record for each iteration of each attack.

    """

    config: AuditConfig
    render: Renderer
    folder: RunFolder
    once: _CountedSteps
    recognise: Recogniser | None
    report: Report
    second: Victim | None
    goal: Goal
    examples: list[Example]
    plain: Float[Tensor, "n 3 height width"]
    rows: list[dict[str, Any]] = field(default_factory=list)
    views: dict[str, Tensor] = field(default_factory=dict)
    verdicts: dict[str, list[str]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start = torch.cat([self.render.noise_of(example) for example in self.examples])
        looks = 1 + (self.config.preservation > 0)  # at what it ends with, and what it preserves
        free = Noise(self.examples, self.start, within="free")
        cost = gradient_cost(self.render, free, self.examples[0])
        self.spent = looks + self.config.iterations * cost  # in pictures without gradient
        self._keep("before", self.plain, self.goal.labels)

    def run(self, budget: float, model_name: str) -> None:
        """Attack all examples within a budget, measure, and write the noises."""
        noise = self._noise(budget)
        name, history = f"attack-{budget}", []
        tensors, facts = self.once(name, partial(self._attack, name, noise, history))
        found = Findings(**tensors)
        with torch.no_grad():  # as the attack leaves it
            noise.noise.copy_(found.noise)
        self.history += facts["history"]
        self.folder.write_history(self.history)
        row = self._measure(found, noise)
        row |= {"network_calls": facts["calls"], "forward_equivalents": self.spent}
        if self.config.random_search:
            row |= self._search(budget)
        self.rows.append(row)
        self._keep(f"budget_{budget:g}", found.pictures, found.verdicts)
        replayed = ("victim", "target", "prompts", "steps", "guidance_scale", "sampler")
        write_findings(
            self.folder.path / noise_file_name(budget),
            self.examples,
            self.goal,
            found,
            noise,
            {"model": model_name}
            | {key: getattr(self.config, key) for key in replayed}
            | {"pipeline_arg": plain_arguments(self.config.pipeline_arg)},
        )

    def _noise(self, budget: float) -> Noise:
        return Noise(self.examples, self.start, within=self.config.within, budget=budget)

    def _keep(self, view: str, pictures: Tensor, verdicts: Tensor) -> None:
        self.views[view] = pictures
        self.verdicts[f"{view}_verdict"] = [self.goal.victim.groups[i] for i in verdicts.tolist()]

    def _attack(self, name: str, noise: Noise, history: list[dict[str, Any]]) -> Saved:
        def progress(iteration: int, fooled: int) -> None:
            what = f"budget {noise.budget:g}: {fooled} of {len(self.examples)} fooled"
            self.report(what, iteration, self.config.iterations)
            history.append({"budget": noise.budget, "iteration": iteration, "fooled": fooled})
            self.folder.write_history(self.history + history)

        found = attack(
            self.render,
            self.goal,
            self.examples,
            noise,
            iterations=self.config.iterations,
            batch=self.config.batch,
            preservation=self.config.preservation,
            accept=self.recognise,
            on_iteration=progress,
            once=self.once.within(name),
        )
        return asdict(found), {"history": history}

    def _search(self, budget: float) -> dict[str, Any]:
        """What random search with as many network calls finds."""
        self.report(f"budget {budget:g}: random search", 0, 1)
        tries = math.ceil(self.spent - 1e-9)  # a cost such as 3.9 is not exact in binary

        def search() -> Saved:
            found = random_search(
                self.render,
                self.goal,
                self.examples,
                self._noise(budget),
                tries=tries,
                seed=self.config.seed,
                accept=self.recognise,
                once=self.once.within(f"random-{budget}"),
            )
            return asdict(found), {}

        fooled = self.once(f"random-{budget}", search)[0]["fooled"]
        return {
            "random_search": fooled.float().mean().item(),
            "random_tries": tries,
            "random_interval": share_interval(int(fooled.sum()), len(self.examples)),
        }

    def _measure(self, found: Findings, noise: Noise) -> dict[str, Any]:
        """One row of `success`."""
        agrees = torch.ones(len(self.examples), dtype=torch.bool)
        if self.recognise is not None:
            agrees = torch.tensor(
                self.recognise(found.pictures, [example.prompt for example in self.examples])
            )
        success = found.fooled & agrees
        agreed = agrees[found.fooled].float().mean().nan_to_num(0.0).item()
        natural = noise.naturalness()
        return {
            "budget": noise.budget,
            "rate": success.float().mean().item(),
            "interval": share_interval(int(success.sum()), len(self.examples)),
            "fooled": found.fooled.float().mean().item(),
            "random_search": None,
            **self._transfer(found, success),
            "judge_agrees": None if self.recognise is None else agreed,
            "iterations": found.iterations.float().mean().item(),
            "naturalness": {
                key: sum(abs(facts[key]) for facts in natural) / len(natural) for key in natural[0]
            },
        }

    def _transfer(self, found: Findings, success: Bool[Tensor, " n"]) -> dict[str, Any]:
        """How many of the successes also fool the second victim."""
        if self.second is None:
            return {"transfer": None, "transfer_of": None}
        labels = torch.tensor([self.second.label(example.prompt) for example in self.examples])
        # What it misreads without an attack cannot be transferred to it.
        known = success & (self.second.verdicts(self.plain) == labels)
        wrong = self.second.verdicts(found.pictures) != labels
        count = int(known.sum())
        return {"transfer": int((wrong & known).sum()) / max(1, count), "transfer_of": count}


def _result(config: AuditConfig, clean: Clean, attacks: _Attacks) -> dict[str, Any]:
    """What `result.json` holds, except the story, the seconds and the command line."""
    victim, last = attacks.goal.victim, attacks.rows[-1]
    pictures = save_pictures(attacks.folder, attacks.examples, attacks.views)
    verdicts = attacks.verdicts.items()
    gradient = resolve_gradient(config.gradient)
    return {
        "task": "audit",
        "metric": {
            "name": f"share of pictures that {victim.name} misreads",
            "before": 0.0,
            "after": last["fooled"],
        },
        "held_out": {"before": 0.0, "after": last["rate"], "examples": len(attacks.examples)},
        "success": attacks.rows,
        "victim": {
            "name": victim.name,
            "groups": victim.groups,
            "target": config.target,
            "right_on_clean": clean.right,
        },
        "pictures": [
            row | {view: names[i] for view, names in verdicts} for i, row in enumerate(pictures)
        ],
        "artefact": noise_file_name(config.budget[-1]),
        "gradient": {
            "method": config.gradient,
            "class": repr(gradient),
            "exact": is_exact(gradient),
            "error": [],
        },
        "peak_memory_bytes": peak_memory_bytes(),
        "network_calls": attacks.once.calls,
        "seed": config.seed,
        "versions": package_versions(),
        "config": settings_of(config),
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


def _story(
    config: AuditConfig,
    victim: Victim,
    clean: Clean,
    row: dict[str, Any],
    judged: bool,
    again: str,
) -> Story:
    seen = f"“{config.target}”"
    if config.target is None:
        seen = f"anything but the right class ({len(victim.groups)} classes)"
    counted = "An attack counts as a success only if an independent judge still sees what the "
    counted = f"{counted}prompt names." if judged else ""
    unit = "largest change of any number in the noise"
    if config.within == "l2":
        unit = "root mean square, in standard deviations of the noise"
    searched = ""
    if config.random_search:
        searched = (
            f" Random search draws {row['random_tries']} noises at the edge of it, which costs as "
            f"many network calls (a VJP is two)."
        )
    budgets = {f"budget_{budget:g}": f"budget {budget:g}" for budget in config.budget}
    return Story(
        title=f"How easily {victim.name} is fooled",
        lead="Harmless prompts, and the initial noise moved a little, along the gradient through "
        f"{config.steps} sampler steps, until the victim sees {seen}. Nobody painted these "
        f"pictures: the model draws them from a noise close to the one it started from. {counted}",
        views={"before": f"clean: {victim.name} is right"} | budgets,
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
