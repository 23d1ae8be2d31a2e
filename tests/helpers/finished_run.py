"""A finished run that nobody had to wait for."""

from pathlib import Path

import torch

from adjointdpm.runs.folder import RunFolder

VALUES = {"metric": 0.5, "drift": 0.1, "objective": 0.55}


def finished_run(path: Path) -> RunFolder:
    """A finished run with made-up figures in the folder `path`."""
    folder = RunFolder.open(path, {"task": "demo"})
    views = ("before", "existing_word", "after")
    pictures = []
    for i, prompt in enumerate(["a <b>fox</b>", "an owl"]):
        row = {"prompt": prompt, "seed": 40 + i}
        for view, image in zip(
            views,
            folder.write_images([f"{i}_{view}" for view in views], torch.rand(3, 3, 16, 16)),
            strict=True,
        ):
            row[view] = str(image.relative_to(folder.path))
        pictures.append(row)
    shares = {"before": 0.75, "existing_word": 0.5, "after": 0.7}
    folder.write_history(
        [
            {"iteration": 0, "validation": VALUES},
            {"iteration": 1, "training": VALUES, "validation": VALUES, "seconds": 1.0},
        ]
    )
    folder.write_result(
        {
            "task": "demo",
            "metric": {"name": "color:mood=dusk", "before": 0.6, "after": 0.1},
            "held_out": {
                "before": 0.6125,
                "existing_word": 0.3,
                "after": 0.1234,
                "change": -0.489,
                "interval": [-0.5, -0.4],
                "examples": 2,
                "structure_distance": 0.2,
                "structure_distance_unrelated": 0.7,
                "distinctness": 0.9,
                "recognised": shares,
            },
            "pictures": pictures,
            "artefact": "learned_embeds.safetensors",
            "optimisation": {
                "best_iteration": 1,
                "iterations": 1,
                "stopped": "all iterations done",
                "validation_examples": 4,
                "settings": {
                    "preservation": 0.5,
                    "lr": 0.01,
                    "batch": 2,
                    "accumulate": 1,
                    "clip": 1.0,
                },
            },
            "gradient": {
                "method": "adjoint",
                "class": "Adjoint()",
                "exact": False,
                "error": [
                    {"prompt": "a fox", "seed": 1, "cosine": 0.98765, "relative_error": 0.1234}
                ],
            },
            "seconds": 125.0,
            "seconds_optimising": 100.0,
            "resumed": False,
            "peak_memory_bytes": 1_234_000_000,
            "network_calls": 4321,
            "network_calls_by_purpose": {
                "optimising": 4000,
                "evaluating": 321,
                "checking the gradient": 0,
            },
            "seed": 0,
            "command": "adjointdpm demo --gradient adjoint",
            "versions": {"torch": "2"},
            "story": {
                "title": "A word: `<dusk>`",
                "lead": "Through 50 sampler steps, <i>so to speak</i>.",
                "views": {
                    "before": "untouched",
                    "existing_word": "existing word",
                    "after": "with <dusk>",
                },
                "how": ["It started at `purple`."],
                "use": "Load it:",
                "code": ['pipe.load_textual_inversion("learned_embeds.safetensors")'],
            },
            "config": {
                "prompts": ["a swan"],
                "held_out": ["a <b>fox</b>", "an owl"],
                "validation": 4,
                "steps": 50,
                "guidance_scale": 5.0,
                "gradient": "adjoint",
            },
        }
    )
    return folder
