"""The lines in a report of `guide` that draw its pictures from the saved tensors."""

from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines.arguments.generation import generation_arguments, is_encoded
from adjointdpm.pipelines.arguments.prompting import NOTHING, reads
from adjointdpm.pipelines.arguments.stock_latents import stock_latents
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.pipelines.schedulers import draw_seed
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support.files import write_bytes
from adjointdpm.support.safetensors_bytes import save
from adjointdpm.tasks.config import Sampling
from adjointdpm.tasks.stock_code import as_code, drawing_lines
from adjointdpm.variables import Example, PromptEmbedding

NOISE, LATENTS = "noise.safetensors", "latents.safetensors"
STOCK = "Stock diffusers draws it from the saved tensors, without this library:"


@dataclass(frozen=True)
class GuideLines:
    """What draws a run's pictures again.

    Args:
        render: drew them.
        config: of the run.
        folder: where its tensors are saved.
        examples: the pictures.
        embedding: the learned encoding of the prompt; None if the prompt is drawn as it is.

    """

    render: Renderer
    config: Sampling
    folder: RunFolder
    examples: list[Example]
    embedding: PromptEmbedding | None

    @property
    def pipe(self) -> Any:
        """The pipeline."""
        return self.render.model.pipe

    @property
    def _noise(self) -> bool:
        return (self.folder.path / NOISE).exists()

    @property
    def encoded(self) -> list[str]:
        """The names of the saved encodings."""
        encoding = {} if self.embedding is None else self.embedding.encoding
        return [name for name, rows in encoding.items() if len(rows)]

    def story(self) -> dict[str, Any]:
        """`use` and `code` of the report's story; packed latents are saved beside the noise."""
        if self.config.sampler is not None:
            why = f"Stock diffusers does not have the sampler `{self.config.sampler}`"
        else:
            latents = self._latents() if self._noise else None
            if latents is not None or not self._noise:
                return {"use": STOCK, "code": self._stock_lines(latents)}
            why = f"A stock `{type(self.pipe).__name__}` takes no initial noise"
        use = f"{why}; this library draws it from the saved tensors:"
        return {"use": use, "code": self._own_lines()}

    def _latents(self) -> Tensor | None:
        """What the stock call takes as `latents`."""
        noise = load_file(self.folder.path / NOISE)["noise"].to(self.render.model.device)
        prompts = [example.prompt for example in self.examples]
        given = generation_arguments(
            self.pipe,
            len(noise),
            None if reads(self.pipe) == NOTHING else prompts,
            self.render.steps,
            self.render.guidance_scale,
            None,
            self.render.arguments,
        )
        return stock_latents(self.pipe, noise, given)

    def _stock_lines(self, latents: Tensor | None) -> list[str]:
        lines, given = self._loading()
        if latents is not None:
            if latents.shape == load_file(self.folder.path / NOISE)["noise"].shape:
                given["latents"] = "noise"
            else:
                content = save({"latents": latents.float().cpu().contiguous()})
                write_bytes(self.folder.path / LATENTS, content)
                lines[1] = f'latents = load_file("{LATENTS}")["latents"]'
                given["latents"] = "latents"
            lines[1] += self._cast()
        if self.render.is_stochastic(self.examples[0]):
            lines.insert(0, "import torch")
            numbers = [self._draw_seed(example.seed) for example in self.examples]
            given["generator"] = f"[torch.Generator().manual_seed(seed) for seed in {numbers}]"
        prompts = [example.prompt for example in self.examples]
        return lines + drawing_lines(self.pipe, self.config, prompts, given, self.encoded)

    def _own_lines(self) -> list[str]:
        """Lines that draw with this library."""
        lines, given = self._loading()
        words = [f"**{given.pop('**')}"] if "**" in given else []
        if not words and reads(self.pipe) != NOTHING:
            words = [as_code("prompt", [example.prompt for example in self.examples])]
        if self._noise:
            lines[1] += f".to({str(self.render.model.device)!r})" * (self._cast() != "")
            given["noise"] = "noise"
        given["steps"] = str(self.config.steps)
        if self.config.sampler is not None:
            given["sampler"] = repr(self.config.sampler)
        if self.config.guidance_scale is not None:
            given["guidance_scale"] = repr(self.config.guidance_scale)
        given["seeds"] = str([example.seed for example in self.examples])
        given |= {
            name: as_code(name, value)
            for name, value in self.render.arguments.items()
            if not is_encoded(name, self.encoded)
        }
        words += [f"{name}={value}" for name, value in given.items()]
        draw = f"images = adj.from_pipeline(pipe).generate({', '.join(words)})"
        return [
            "import adjointdpm as adj",
            "import torch",
            *lines,
            "with torch.no_grad():",
            f"    {draw}",
        ]

    def _loading(self) -> tuple[list[str], dict[str, str]]:
        """Lines that load what was saved, and the arguments that hand the encodings over."""
        lines, given = ["from safetensors.torch import load_file"], {}
        if self._noise:
            lines.append(f'noise = load_file("{NOISE}")["noise"]')
        if self.embedding is not None:
            lines += [line for line in self.embedding.usage() if line not in lines]
            given["**"] = "embeds"
            if (count := len(self.examples)) > 1:
                each = f"x * {count} if isinstance(x, list) else x.repeat_interleave({count}, 0)"
                lines.append(f"embeds = {{name: {each} for name, x in embeds.items()}}")
        return lines, given

    def _cast(self) -> str:
        """What brings a saved tensor to the pipeline."""
        dtype, device = self.pipe.dtype, self.render.model.device
        if dtype == torch.float32 and device.type == "cpu":
            return ""
        return ".to(pipe.device, pipe.dtype)"

    def _draw_seed(self, seed: int) -> int:
        """The seed of what a stochastic scheduler draws for an example."""
        native = isinstance(self.render.model, DiffusionModel) and not self.render.arguments
        return draw_seed(seed) if native else seed
