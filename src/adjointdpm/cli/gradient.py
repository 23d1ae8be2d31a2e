"""`gradient`: gradient methods side by side, for one picture."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adjointdpm.cli.options import Flags, Run, command, load_model
from adjointdpm.cli.terminal import command_line, note, printable, quiet, tell
from adjointdpm.errors import UnsupportedError
from adjointdpm.tasks.config import settings_of
from adjointdpm.tasks.gradient_probe import GradientProbeConfig, table_of
from adjointdpm.tasks.gradient_probe import gradient as run

COLUMNS = ("method", "relative error", "cosine", "network calls", "backward passes", "time")


@command(GradientProbeConfig, Run, panel="What to differentiate")
def gradient(flags: Flags) -> None:
    """Show what a metric asks of the noise, exactly and by approximate gradient methods."""
    config, where = flags.build(GradientProbeConfig), flags.build(Run)
    quiet()
    from adjointdpm import metrics
    from adjointdpm.runs.folder import RunFolder

    if where.resume:
        raise UnsupportedError("gradient takes seconds and saves nothing on the way: no --resume")
    metric = metrics.resolve(config.metric[0])
    facts = {"task": "gradient"} | where.loading()
    folder = RunFolder.open(where.out, facts | settings_of(config), force=where.force)
    model = load_model(where.model, where.device, where.dtype, where.variant)
    result = run(model, config, folder, metric=metric, command=command_line(), report=note)
    table = Table(title=f"∂ {escape(printable(metric.name))} / ∂ noise")
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in table_of(result):
        table.add_row(*(escape(printable(word)) for word in row))
    Console().print(table)
    tell(f"Pictures: {folder.path / 'images'}")
