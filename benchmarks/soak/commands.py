"""The commands that are killed: every task, in its shortest form that still saves several times."""

from pathlib import Path

import torch
from PIL import Image

PROMPTS = [f"a noto emoji of a {name}" for name in ("lion", "teapot", "red apple", "rocket")]
_SHORT = ["--steps", "3", "--device", "cpu", "--out", "run"]
_LEARN = ["--tracker", "none", "--batch", "1", "--validation", "2", "--checkpoint-every", "1"]
_METRIC = ["--metric", "color:mood=dusk"]
_PROMPTS = ["--prompts", "prompts.txt"]

COMMANDS: dict[str, list[str]] = {
    "embed": [
        *("embed", *_PROMPTS, *_METRIC, *_SHORT, *_LEARN, "--iterations", "12"),
        *("--token", "<dusk>", "--initial", "purple", "--template", "{prompt}, {token}"),
    ],
    "stylize": [
        *("stylize", *_PROMPTS, "--style", "style.png", *_SHORT, *_LEARN, "--iterations", "8"),
        *("--strength", "1"),
    ],
    "align": ["align", *_PROMPTS, *_METRIC, *_SHORT, *_LEARN, "--iterations", "8"],
    "guide": [
        *("guide", "--prompt", PROMPTS[0], *_METRIC, *_SHORT, "--tracker", "none"),
        *("--checkpoint-every", "1", "--iterations", "12"),
    ],
    "audit": [
        *("audit", *_PROMPTS, "--victim", "judge", *_SHORT, "--budget", "0.1", "--budget", "0.3"),
        *("--iterations", "4", "--clean-seeds", "2", "--least-right", "0.5"),
    ],
}


def write_inputs(folder: Path) -> None:
    """Write the files that the commands name."""
    (folder / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    pixels = torch.randint(0, 255, (64, 64, 3), generator=torch.Generator().manual_seed(0))
    Image.fromarray(pixels.byte().numpy()).save(folder / "style.png")
