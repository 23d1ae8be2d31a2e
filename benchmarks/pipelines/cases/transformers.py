"""Calls of the pipelines around transformers that make pictures."""

from typing import Any

from benchmarks.pipelines.cases.case import IMAGE, MASK, SHORT, SIZE, TEXT, Case
from benchmarks.pipelines.parts import WIDTH

PROMPTED: dict[str, Any] = TEXT | SIZE | SHORT
SD3: dict[str, dict[str, Any]] = {"text_encoder_3": {"width": 2 * WIDTH}}
TRUE_CFG = {"true_cfg_scale": 2.0, "negative_prompt": ["blurry", "a"], "guidance_scale": None}
CONTROL = {"transformer": {"in_channels": 32, "out_channels": 16}}  # beside the picture to follow
LARGER = {"height": 32, "width": 32, "use_resolution_binning": False}
SPRINT = {"transformer": {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}}

CASES: dict[str, Case] = {
    "StableDiffusion3Pipeline": Case(PROMPTED, SD3),
    "StableDiffusion3Img2ImgPipeline": Case(
        PROMPTED | {"image": IMAGE, "strength": 0.8}, SD3
    ),
    "StableDiffusion3InpaintPipeline": Case(
        PROMPTED | {"image": IMAGE, "mask_image": MASK, "strength": 0.8},
        SD3 | {"transformer": {"in_channels": 16}, "vae": {"latent_channels": 16}},
    ),
    "StableDiffusion3ControlNetPipeline": Case(PROMPTED | {"control_image": IMAGE}, SD3),
    "StableDiffusion3ControlNetInpaintingPipeline": Case(
        PROMPTED | {"control_image": IMAGE, "control_mask": MASK},
        SD3 | {"controlnet": {"extra_conditioning_channels": 1}},
    ),
    "StableDiffusion3PAGPipeline": Case(PROMPTED | {"pag_scale": 2.0}, SD3),
    "StableDiffusion3PAGImg2ImgPipeline": Case(
        PROMPTED | {"pag_scale": 2.0, "image": IMAGE, "strength": 0.8}, SD3
    ),
    "FluxPipeline": Case(PROMPTED),
    "FluxControlPipeline": Case(PROMPTED | {"control_image": IMAGE}, CONTROL),
    "FluxControlImg2ImgPipeline": Case(
        PROMPTED | {"control_image": IMAGE, "image": IMAGE, "strength": 0.8}, CONTROL
    ),
    "FluxControlInpaintPipeline": Case(
        PROMPTED | {"control_image": IMAGE, "image": IMAGE, "mask_image": MASK, "strength": 0.8},
        CONTROL,
    ),
    "FluxFillPipeline": Case(
        PROMPTED | {"image": IMAGE, "mask_image": MASK},
        {"transformer": {"in_channels": 48, "out_channels": 16}},
    ),
    "FluxKontextPipeline": Case(
        PROMPTED | {"image": IMAGE, "max_area": 256, "_auto_resize": False}
    ),
    "FluxKontextInpaintPipeline": Case(
        PROMPTED
        | {"image": IMAGE, "mask_image": MASK, "max_area": 256, "_auto_resize": False}
        | {"strength": 0.8}
    ),
    "Flux2KleinPipeline": Case(PROMPTED | {"text_encoder_out_layers": (0, 1, 2)}),
    "ChromaPipeline": Case(PROMPTED),
    "QwenImagePipeline": Case(PROMPTED | TRUE_CFG),
    "ZImagePipeline": Case(PROMPTED),
    "AuraFlowPipeline": Case(PROMPTED),
    "Lumina2Pipeline": Case(PROMPTED, shape=(2, 3, 4, 4)),
    "PixArtSigmaPipeline": Case(PROMPTED | {"use_resolution_binning": False}),
    "SanaPipeline": Case(
        PROMPTED | LARGER | {"complex_human_instruction": None}, shape=(2, 3, 32, 32)
    ),
    "SanaPAGPipeline": Case(
        PROMPTED | LARGER | {"complex_human_instruction": None, "pag_scale": 2.0},
        shape=(2, 3, 32, 32),
    ),
    "SanaControlNetPipeline": Case(
        PROMPTED | LARGER | {"complex_human_instruction": None, "control_image": IMAGE},
        shape=(2, 3, 32, 32),
    ),
    "DiTPipeline": Case({"class_labels": [1, 3], "num_inference_steps": 3, "guidance_scale": 3.0}),
}

# Classes that are not run, and why.
REASONS: dict[str, str] = {}
