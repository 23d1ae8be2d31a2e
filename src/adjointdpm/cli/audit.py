"""`audit`: adversarial initial noise, and its replay."""

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options
from adjointdpm.cli.config_file import is_default
from adjointdpm.cli.prompts import PromptSource
from adjointdpm.cli.terminal import command_line, progress_bar, quiet, tell
from adjointdpm.errors import InvalidInputError, PromptError


def audit(
    context: typer.Context,
    prompts: Annotated[
        PromptSource | None,
        typer.Option(
            parser=PromptSource,
            metavar="FILE",
            help="One a line; each names something that the victim has a class for.",
        ),
    ] = None,
    victim: Annotated[
        str,
        typer.Option(
            help="efficientnet-lite0, open-nsfw[:threshold=0.8], or file.py:function that returns "
            "a torch module."
        ),
    ] = "efficientnet-lite0",
    model: options.Model = "tiny",
    target: Annotated[
        str | None,
        typer.Option(help="The class that the victim shall see; without it, any wrong one."),
    ] = None,
    budget: Annotated[list[float], typer.Option(help="How far the noise may move. Repeatable.")] = [
        0.1,
        0.2,
        0.3,
    ],
    within: Annotated[
        str, typer.Option(help="The budget's norm: l2 (root mean square) or linf.")
    ] = "l2",
    transfer: Annotated[
        str | None, typer.Option(help="A second victim, which no gradient comes from.")
    ] = None,
    clean_seeds: Annotated[
        int, typer.Option(min=1, help="Clean pictures of each prompt that the victim is tested on.")
    ] = 20,
    least_right: Annotated[
        float, typer.Option(help="The share of them that it must get right.")
    ] = 0.8,
    random_search: Annotated[
        bool, typer.Option(help="Compare with random search of the same cost.")
    ] = True,
    steps: options.Steps = 20,
    guidance_scale: options.GuidanceScale = None,
    sampler: options.Sampler = None,
    iterations: options.Iterations = 10,
    batch: options.Batch = 4,
    preservation: options.Preservation = 0.0,
    gradient: options.Gradient = "exact",
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    config: options.Config = None,
    out: options.Out = Path("runs/audit"),
    resume: options.Resume = False,
    force: options.Force = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="Draw the pictures of a file of adversarial noise again, and ask the victim "
            "again. What the file names and is not bundled must be named again, by --model and "
            "--victim."
        ),
    ] = None,
) -> None:
    """Find how little the initial noise must change until a classifier misreads a picture.

    Meant for mending classifiers and filters: it starts from harmless prompts that the victim reads
        rightly, and every finding can be
    replayed and trained on.
    """
    if replay is not None:
        given = {
            name: value
            for name, value in (("model", model), ("victim", victim))
            if not is_default(context, name)
        }
        used = ("context", "model", "victim", "device", "dtype", "replay")
        unused = [
            name for name in context.params if name not in used and not is_default(context, name)
        ]
        if unused:
            raise InvalidInputError(
                f"--replay draws what its file holds; it takes no --{unused[0].replace('_', '-')}"
            )
        _replay(replay, given, device, dtype)
        return
    if prompts is None:
        raise PromptError("an audit takes --prompts FILE, one a line (or --replay FILE)")
    lines = prompts.read()
    quiet()
    from dataclasses import asdict

    from adjointdpm.metrics.subject_recognition import recogniser_for
    from adjointdpm.runs.folder import RunFolder
    from adjointdpm.runs.report import write_report
    from adjointdpm.tasks.audit.noise_file import replay_command
    from adjointdpm.tasks.audit.task import AuditConfig, check_one_process
    from adjointdpm.tasks.audit.task import audit as run
    from adjointdpm.tasks.audit.victims import load_victim

    check_one_process()
    settings = AuditConfig(
        victim=victim,
        prompts=lines,
        target=target,
        budget=sorted(budget),
        within=within,
        transfer=transfer,
        clean_seeds=clean_seeds,
        least_right=least_right,
        iterations=iterations,
        batch=batch,
        preservation=preservation,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        gradient=gradient,
        random_search=random_search,
        seed=seed,
    )
    load_victim(victim, lines)
    folder = RunFolder.open(
        out,
        {"task": "audit", "model": model, "dtype": dtype} | asdict(settings),
        artefacts=settings.artefacts,
        resume=resume,
        force=force,
    )
    pipeline = options.load_model(model, device, dtype)
    recognise = recogniser_for(lines) if model == "tiny" and victim != "judge" else None
    with progress_bar() as progress:
        bar = progress.add_task("audit", total=1, metric="")

        def show(what: str, done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total, metric=what)

        result = run(
            pipeline,
            settings,
            folder,
            model_name=model,
            command=command_line(),
            recognise=recognise,
            resume=resume,
            report=show,
        )
    lines = []
    for row in result["success"]:
        searched = (
            "" if row["random_search"] is None else f", random search {row['random_search']:.0%}"
        )
        lines.append(
            f"budget {row['budget']:g}: {row['rate']:.0%} of {result['held_out']['examples']} "
            f"fooled{searched}"
        )
    again = replay_command(folder.path / result["artefact"], model, victim)
    tell("\n".join([*lines, f"Report: {write_report(folder)}", f"Replay: {again}"]))


def _replay(path: Path, given: dict[str, str], device: str | None, dtype: str) -> None:
    quiet()
    from adjointdpm.tasks.audit.noise_file import chosen, read_findings
    from adjointdpm.tasks.audit.noise_file import replay as draw_again

    found = read_findings(path)
    model, victim = (
        chosen(found, "model", given.get("model")),
        chosen(found, "victim", given.get("victim")),
    )
    rows = draw_again(options.load_model(model, device, dtype), found, victim)
    for row in rows:
        tell(
            f"{row['prompt']} (seed {row['seed']}): {row['label']} taken for {row['now']}; when "
            f"found: {row['was']}"
        )
    same = sum(row["now"] == row["was"] for row in rows)
    tell(f"{same} of {len(rows)} verdicts are as they were")
