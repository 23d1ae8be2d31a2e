"""`demo`: everything on the bundled model, without a download."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adjointdpm.cli.options import Flags, Folder, command, load_model
from adjointdpm.cli.run_opening import opened_run, written_report
from adjointdpm.cli.terminal import command_line, progress_bar, quiet, tell
from adjointdpm.errors import ModelError, OutputError
from adjointdpm.tasks.config import settings_of
from adjointdpm.tasks.demo import TOKEN, DemoConfig


@dataclass(frozen=True, kw_only=True)
class DemoFolder(Folder):
    """Where the demo's results are written.

    Args:
        storyboard: also write the picture that tells the story here, a PNG.

    """

    storyboard: Path | None = None


@command(DemoConfig, DemoFolder, panel="What to show")
def demo(flags: Flags) -> None:
    """Learn a word from a metric, a style from one picture, and fool a classifier, in minutes.

    It takes the bundled model and no download.
    """
    quiet()
    from adjointdpm.metrics.networks import load_network
    from adjointdpm.support.files import write_bytes
    from adjointdpm.tasks.demo import demo as run

    config, where, missing = flags.build(DemoConfig), flags.build(DemoFolder), ""
    if not config.only_embed:
        try:
            load_network("efficientnet-lite0")
        except ModelError as error:
            config = replace(config, only_embed=True)
            missing = f"stylize and audit were left out: {error}\n"
    parts = config.parts()
    facts = {"task": "demo", "model": "tiny"} | settings_of(config)
    with opened_run(where, facts, parts.artefacts) as folder:
        _check_storyboard(where.storyboard)
        model = load_model("tiny", "cpu")
        with progress_bar() as progress:
            bars = {}

            def report(part: str, done: int, total: int, text: str) -> None:
                if part not in bars:
                    for bar in bars.values():
                        progress.update(bar, metric="")
                    bars[part] = progress.add_task(part, total=total, metric=text)
                progress.update(bars[part], completed=done, total=total, metric=text)

            result = run(
                model, parts, folder, command=command_line(), resume=where.resume, report=report
            )
        report_path = written_report(folder)
        if where.storyboard is not None:
            write_bytes(where.storyboard, (folder.path / result["storyboard"]).read_bytes())
        tell(
            f"{_summary(result, missing)}Picture: {folder.path / result['storyboard']}\n"
            f"Report: {report_path}\n"
            f"Learned word, for stock diffusers: {folder.path / result['artefact']}"
        )


def _check_storyboard(path: Path | None) -> None:
    """Raise OutputError if the picture could not be written there."""
    if path is None:
        return
    from adjointdpm.support.files import check_path, check_writable

    check_path(path, "--storyboard", below=0)
    if path.is_dir():
        raise OutputError(
            f"--storyboard {path} is a folder; name the picture in it, such as {path / 'story.png'}"
        )
    check_writable(path.parent)


def _summary(result: dict[str, Any], missing: str) -> str:
    """What each part found, and what all of it cost."""
    held_out = result["held_out"]
    others = "".join(f"{part['folder']}: {part['summary']}\n" for part in result["parts"])
    return (
        f"embed: on {held_out['examples']} prompts and seeds it never saw, {TOKEN} takes "
        f"{result['metric']['name']} from {held_out['before']:.3f} to {held_out['after']:.3f} "
        f"(lower is better; 0 is a perfect match). An independent judge finds the subject in "
        f"{held_out['recognised']['before']:.0%} of the pictures before and in "
        f"{held_out['recognised']['after']:.0%} after.\n"
        f"{others}{missing}In all {result['seconds']:.0f} s, {result['network_calls']} network "
        f"calls, peak memory {result['peak_memory_bytes'] / 1e6:.0f} MB\n"
    )
