"""`audit`: adversarial initial noise, and its replay."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adjointdpm.cli.options import Flags, Run, command, load_model
from adjointdpm.cli.run_opening import opened_run, written_report
from adjointdpm.cli.terminal import command_line, progress_bar, quiet, show_progress, tell
from adjointdpm.errors import InvalidInputError, PromptError
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.config import settings_of


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A former audit's findings.

    Args:
        replay: draw the pictures of a file of adversarial noise, or of a folder of such files,
            again, and ask the victim again; name a model and a victim that are not bundled again,
            with --model and --victim.

    """

    replay: Path | None = None


@command(AuditConfig, Replay, Run, panel="What to test", prompts=None)
def audit(flags: Flags) -> None:
    """Find how little the initial noise must change until a classifier misreads a picture.

    Meant for mending classifiers and filters: it starts from harmless prompts that the classifier
    (the victim) reads rightly, and every finding can be replayed and trained on.
    """
    replay = flags.values["replay"]
    if replay is None:
        _audit(flags)
        return
    used = ("context", "model", "victim", "device", "dtype", "variant", "replay")
    # In the order in which they were given.
    given = {n: value for n, value in flags.context.params.items() if flags.source(n) != "DEFAULT"}
    unused = [name for name in given if name not in used]
    if unused:
        raise InvalidInputError(
            f"--replay draws what its file holds; it takes no --{unused[0].replace('_', '-')}"
        )
    _replay(replay, given)


def _audit(flags: Flags) -> None:
    if flags.values["prompts"] is None:
        raise PromptError("an audit takes --prompts FILE, one a line (or --replay FILE)")
    config, where = flags.build(AuditConfig), flags.build(Run)
    quiet()
    from adjointdpm.metrics.subject_recognition import recogniser_for
    from adjointdpm.support.distributed import Processes
    from adjointdpm.tasks.audit.noise_file import replay_command
    from adjointdpm.tasks.audit.setting import label_of
    from adjointdpm.tasks.audit.task import audit as run
    from adjointdpm.tasks.audit.victims import load_victim

    victim = load_victim(config.victim, config.prompts)
    facts = {"task": "audit"} | where.loading()
    with opened_run(where, facts | settings_of(config), config.artefacts) as folder:
        model = load_model(where.model, where.device, where.dtype, where.variant)
        known = [prompt for prompt in config.prompts if label_of(victim, prompt) is not None]
        recognise = recogniser_for(known, where.model, optimised=config.victim == "judge")
        with progress_bar(visible=folder.writable) as progress:
            result = run(
                model,
                config,
                folder,
                victim=victim,
                model_name=where.model,
                command=command_line(),
                recognise=recognise,
                resume=where.resume,
                report=show_progress(progress),
            )
        if Processes().is_main:
            again = replay_command(folder.path / result["artefact"], where.model, config.victim)
            tell(f"{_summary(result)}Report: {written_report(folder)}\nReplay: {again}")


def _summary(result: dict[str, Any]) -> str:
    """A line for each target and budget, and what they say together."""
    lines = [f"note: {words}" for words in _notes(result)]
    for row in result["success"]:
        searched = (
            "" if row["random_search"] is None else f", random search {row['random_search']:.0%}"
        )
        fooled = "fooled" if row["target"] is None else f"taken for {row['target']}"
        lines.append(
            f"budget {row['budget']:g}: {row['rate']:.0%} of {row['examples']} {fooled}{searched}"
        )
    lines += [found["text"] for found in result["verdicts"]]
    return "".join(f"{line}\n" for line in lines)


def _notes(result: dict[str, Any]) -> list[str]:
    aside = result["set_aside"]
    if aside["count"] == 0:
        return []
    some = "; ".join(aside["prompts"][:3]) + ("; …" if aside["count"] > 3 else "")
    return [f"{aside['count']} prompts are set aside, as {aside['why']}: {some}"]


def _replay(path: Path, given: dict[str, Any]) -> None:
    quiet()
    from adjointdpm.tasks.audit.noise_file import chosen, noise_files, read_findings
    from adjointdpm.tasks.audit.noise_file import replay as draw_again

    model, count, same = None, 0, 0
    for file in noise_files(path):
        found = read_findings(file)
        names = [chosen(found, what, given.get(what)) for what in ("model", "victim")]
        where = {name: given[name] for name in ("device", "dtype", "variant") if name in given}
        model = model or load_model(names[0], **where)
        for row in draw_again(model, found, names[1]):
            tell(
                f"{row['prompt']} (seed {row['seed']}): {row['label']} taken for {row['now']}; "
                f"when found: {row['was']}"
            )
            count, same = count + 1, same + (row["now"] == row["was"])
    tell(f"{same} of {count} verdicts are as they were")
