"""Calls of the pipelines around transformers that make pictures."""

from benchmarks.pipelines.cases.case import SHORT, SIZE, TEXT, Case
from benchmarks.pipelines.parts import WIDTH

CASES: dict[str, Case] = {
    "StableDiffusion3Pipeline": Case(TEXT | SIZE | SHORT, {"text_encoder_3": {"width": 2 * WIDTH}}),
    "FluxPipeline": Case(TEXT | SIZE | SHORT),
    "Flux2KleinPipeline": Case(TEXT | SIZE | SHORT | {"text_encoder_out_layers": (0, 1, 2)}),
    "ChromaPipeline": Case(TEXT | SIZE | SHORT),
    "QwenImagePipeline": Case(
        TEXT
        | SIZE
        | SHORT
        | {"true_cfg_scale": 2.0, "negative_prompt": ["blurry", "a"], "guidance_scale": None}
    ),
    "ZImagePipeline": Case(TEXT | SIZE | SHORT),
    "AuraFlowPipeline": Case(TEXT | SIZE | SHORT),
    "Lumina2Pipeline": Case(TEXT | SIZE | SHORT, shape=(2, 3, 4, 4)),
    "PixArtSigmaPipeline": Case(TEXT | SIZE | SHORT | {"use_resolution_binning": False}),
    "SanaPipeline": Case(
        TEXT
        | SHORT
        | {
            "height": 32,
            "width": 32,
            "use_resolution_binning": False,
            "complex_human_instruction": None,
        },
        shape=(2, 3, 32, 32),
    ),
    "DiTPipeline": Case({"class_labels": [1, 3], "num_inference_steps": 3, "guidance_scale": 3.0}),
}

# Classes that are not run, and why.
REASONS: dict[str, str] = {}
