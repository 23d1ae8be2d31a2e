"""Pictures and states of a run that is going on, for those who watch it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from adjointdpm.optimization.loop import Record
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.folder import RunFolder
from adjointdpm.variables import Example, Variable

#: Pictures of a look that are kept.
MOST = 8
_LARGEST_STATE = 4_000_000  # bytes; the weights of a whole network at every look would fill disks


@dataclass
class Previews:
    """Writes what the loop sees whenever it looks at the validation examples.

    `images/untouched_NN.png` is the untouched model's picture of an example, where the run draws
    it; `images/look_IIII_NN.png` that after iteration IIII; and `states/IIII/` what was learned
    until then, as the run saves it at its end, unless it is large.

    Args:
        folder: of the run.
        examples: the validation examples.
        variable: what is learned.

    """

    folder: RunFolder
    examples: Sequence[Example]
    variable: Variable
    _seen: dict[int, Tensor] = field(default_factory=dict, init=False)

    def watching(self, render: Renderer) -> Renderer:
        """The renderer, which now shows what it draws."""
        return replace(render, watch=self._see)

    def before(self, on_record: Callable[[Record], None]) -> Callable[[Record], None]:
        """A callback that keeps what was seen before it calls another."""

        def keep(record: Record) -> None:
            if "validation" in record:
                self._write(record)
            on_record(record)

        return keep

    def _write(self, record: Record) -> None:
        number = f"{record['iteration']:04d}"
        for i, image in self._seen.items():
            self.folder.write_images([f"look_{number}_{i:02d}"], image[None])
        tensors = self.variable.tensors().values()
        if sum(t.numel() * t.element_size() for t in tensors) <= _LARGEST_STATE:
            self.variable.save(self.folder.path / "states" / number)

    def _see(self, examples: Sequence[Example], images: Tensor, learned: bool) -> None:
        for example, image in zip(examples, images, strict=True):
            if example not in self.examples[:MOST]:
                continue
            i, shown = self.examples.index(example), image.clamp(0, 1).float().cpu()
            if learned:
                self._seen[i] = shown
            else:
                self.folder.write_images([f"untouched_{i:02d}"], shown[None])
