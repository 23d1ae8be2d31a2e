"""The tasks say that they do not take a pipeline without a family, before anything is drawn."""

import pytest
import torch

import adjointdpm as adj
from adjointdpm.pipelines import invert, invert_exactly
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.task import audit
from adjointdpm.tasks.embed import EmbedConfig, embed
from adjointdpm.tasks.guide import GuideConfig, guide
from adjointdpm.tasks.stylize import StylizeConfig, stylize
from benchmarks.pipelines.cases import build

PROMPTS = {"prompts": ["a red fox", "an owl"], "held_out": ["a red owl"]}
METRIC = {"metric": ["color:mood=dusk"]}
TASKS = {
    embed: EmbedConfig(token="<x>", **METRIC, **PROMPTS),
    stylize: StylizeConfig(style="style.png", **PROMPTS),
    guide: GuideConfig(prompt="a red fox", **METRIC),
    audit: AuditConfig(victim="efficientnet-lite0", prompts=["a red fox"]),
}


@pytest.fixture(scope="module")
def model():
    return adj.from_pipeline(build("FluxPipeline"))


@pytest.mark.parametrize("task", TASKS)
def test_tasks_name_the_pipeline_that_they_do_not_take(model, task, tmp_path):
    folder = RunFolder.open(tmp_path / "run", {"task": task.__name__})
    with pytest.raises(adj.errors.UnsupportedError, match=rf"{task.__name__} .* FluxPipeline"):
        task(model, TASKS[task], folder)


@pytest.mark.parametrize("function", [invert, invert_exactly])
def test_so_does_inversion(model, function):
    with pytest.raises(adj.errors.UnsupportedError, match=rf"{function.__name__} .* FluxPipeline"):
        function(model, torch.rand(1, 3, 16, 16), "a red fox")
