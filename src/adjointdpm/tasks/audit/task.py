"""audit: how little the initial noise must change until a classifier misreads the picture.

It is meant for those who train or deploy a classifier or a safety filter: it finds pictures that
look like their prompt and are misread, without anybody drawing them. It saves the noise, so that
each finding can be replayed, added to a training set, and tested for again. It starts from harmless
prompts and from pictures that the victim gets right, and offers no way to move a picture towards
content that a filter is there to stop: for a filter it finds false alarms.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.engine.stats import Stats, stats
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.gradient_check import gradient_cost, is_exact
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.going_on import told_how_to_go_on
from adjointdpm.runs.interruption import stop_requests
from adjointdpm.runs.provenance import package_versions, peak_memory_bytes
from adjointdpm.runs.resumable_steps import ResumableSteps
from adjointdpm.support.distributed import Processes
from adjointdpm.tasks.audit.block_attack import Cost, attack_block
from adjointdpm.tasks.audit.clean_test import CleanTest, find_clean
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.findings_log import FINDINGS, FindingsLog
from adjointdpm.tasks.audit.kept_work import KeptWork
from adjointdpm.tasks.audit.noise_file import replay_command
from adjointdpm.tasks.audit.noise_shards import write_noises
from adjointdpm.tasks.audit.picture_store import PictureStore
from adjointdpm.tasks.audit.setting import Report, Setting, check_setting
from adjointdpm.tasks.audit.shared_blocks import SharedBlocks, block_size
from adjointdpm.tasks.audit.story import tell_story, verdict
from adjointdpm.tasks.audit.victims import Victim
from adjointdpm.tasks.config import settings_of
from adjointdpm.variables import Example, Noise
from adjointdpm.variables.freezing import frozen

_SHOWN = 200  # examples in result.json; all are in findings.jsonl


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

    Of several processes, which must share the run folder, each does a part, and all get the result.

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
            test, one batch of an attack's iteration, and one try of a random search; with any
            number of processes.
        report: called as the work goes on, with how many examples are done, of how many.

    Returns:
        What `result.json` holds; `success` has a row for each target and budget.

    Raises:
        PromptError: the victim has a class for no prompt, or gets none right often enough.
        ModelError, UnknownNameError: a victim or target that is not there.
        UnsupportedError: a pipeline that makes no pictures.
        Interrupted: a signal arrived, here or in another process; the part in progress is saved,
            and the run can be resumed.

    """
    started, processes = time.perf_counter(), Processes()
    with stats(memory=False) as counter, stop_requests() as requested, frozen(model.pipe):
        with processes.together():
            setting = check_setting(model, config, victim, recognise)
        cost = processes.from_main(partial(_cost, setting))
        own_calls = processes.from_main(lambda: counter.network_calls)
        shared = SharedBlocks.open(folder, processes, resume, requested)
        run = _Run(setting, cost, folder, shared, counter, resume, report)
        with told_how_to_go_on(shared.folder), shared.ending_together():
            run.work()
        earlier = sum(processes.gather([run.kept.restored_seconds])) + shared.restored_seconds

    def finish() -> dict[str, Any]:
        seconds = time.perf_counter() - started + earlier
        result = run.result(model_name, own_calls) | {"seconds": seconds, "command": command}
        folder.write_result(result)
        return result

    return processes.from_main(finish)


def _cost(setting: Setting) -> Cost:
    """What an attack within one budget costs at most, counted on the first example."""
    config, number = setting.config, next(iter(setting.labels))
    example = Example(config.prompts[number], config.seed)
    noise = Noise([example], setting.render.noise_of(example), within="free")
    looks = 1 + (config.preservation > 0)  # at what it ends with, and what it preserves
    return Cost(looks + config.iterations * gradient_cost(setting.render, noise, example))


@dataclass
class _Run:
    """The parts of an audit, one after the other."""

    setting: Setting
    cost: Cost
    folder: RunFolder
    shared: SharedBlocks
    counter: Stats
    resume: bool
    report: Report

    def __post_init__(self) -> None:
        steps = ResumableSteps(self.shared.folder, self.resume, self.shared.stop)
        self.kept = KeptWork(steps, self.counter, self.shared.processes.count)
        self.pictures = PictureStore(self.folder.path, self.setting.victim.groups)

    def work(self) -> None:
        """Do the clean tests and attacks that fall to this process."""
        self.clean = find_clean(self.setting, self.shared, self.kept, self.pictures, self.report)
        examples, batch = self.clean.examples, self.setting.config.batch
        size = block_size(len(examples), batch)
        self.blocks = [examples[i : i + size] for i in range(0, len(examples), size)]
        self.names = [f"attacks-{i:05d}" for i in range(len(self.blocks))]
        self.log = FindingsLog(self.folder, self.setting, self.shared, self.names)
        self.shared.share(self.names, self._attack, self.log.catch_up)

    def _attack(self, number: int) -> None:
        name, block = self.names[number], self.blocks[number]
        done = sum(
            len(b) for b, n in zip(self.blocks, self.names, strict=True) if self.shared.done(n)
        )

        def tell(what: str, part: float) -> None:
            self.report(what, done + part * len(block), len(self.clean.examples))

        work = partial(attack_block, self.setting, self.cost, block, self.pictures, tell)
        self.kept(name, partial(work, self.kept.within(name)))

    def result(self, model_name: str, own_calls: int) -> dict[str, Any]:
        """Write the noises; what `result.json` holds, except seconds and the command line."""
        config, victim = self.setting.config, self.setting.victim
        files = write_noises(
            self.folder, self.setting, self.shared, self.names, self.clean.examples, model_name
        )
        budgets = len(config.budget)
        rows = self.log.rows(self.cost)
        of_target = [rows[i : i + budgets] for i in range(0, len(rows), budgets)]
        verdicts = [verdict(part) for part in of_target]
        artefact, last = files[budgets - 1], of_target[0][-1]
        story = tell_story(
            self.setting,
            self.clean,
            rows,
            verdicts,
            replay_command(artefact, model_name, config.victim),
        )
        gradient = resolve_gradient(config.gradient)
        return {
            "task": "audit",
            "metric": {
                "name": f"share of pictures that {victim.name} misreads",
                "before": 0.0,
                "after": last["fooled"],
            },
            "held_out": {"before": 0.0, "after": last["rate"], "examples": last["examples"]},
            "success": rows,
            "verdicts": verdicts,
            "victim": _victim_facts(self.setting, self.clean),
            "set_aside": {
                "count": len(self.setting.set_aside),
                "why": f"victim {victim.name} has no class for what they name",
                "prompts": self.setting.set_aside,
            },
            "findings": FINDINGS,
            "pictures": list(islice(self._shown(), _SHOWN)),
            "artefact": artefact,
            "noises": files,
            "training_pictures": "training_pictures",
            "gradient": {
                "method": config.gradient,
                "class": repr(gradient),
                "exact": is_exact(gradient),
                "error": [],
            },
            "peak_memory_bytes": peak_memory_bytes(),
            "network_calls": own_calls + self.clean.network_calls + self.log.network_calls,
            "processes": self.shared.processes.count,
            "seed": config.seed,
            "versions": package_versions(),
            "config": settings_of(config),
            "story": asdict(story),
        }

    def _shown(self) -> Iterator[dict[str, Any]]:
        """Rows of pictures and verdicts: the examples that the first target is tried on."""
        first = self.setting.targets[0]
        views = [view for target, _, view in self.setting.views if target == first]
        for finding in self.log.findings():
            attacks = {row["view"]: row for row in finding["attacks"] if row["view"] in views}
            if not attacks:
                continue
            row = {"prompt": finding["prompt"], "seed": finding["seed"]}
            row |= {"before": finding["picture"], "before_verdict": finding["label"]}
            for view, found in attacks.items():
                row |= {view: found["picture"], f"{view}_verdict": found["verdict"]}
            yield row


def _victim_facts(setting: Setting, clean: CleanTest) -> dict[str, Any]:
    """The victim's part of `result.json`."""
    targets = [target.name for target in setting.targets]
    return {
        "name": setting.victim.name,
        "groups": setting.victim.groups,
        "target": targets[0] if len(targets) == 1 else targets,
        "right_on_clean": clean.right,
    }
