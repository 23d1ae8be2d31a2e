"""Calls of the pipelines around transformers that make pictures."""

from typing import Any

import PIL.Image
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import Qwen3VLModel

from benchmarks.pipelines.cases.case import IMAGE, MASK, SHORT, SIZE, TEXT, Case
from benchmarks.pipelines.parts import WIDTH, component

PROMPTED: dict[str, Any] = TEXT | SIZE | SHORT
SD3: dict[str, dict[str, Any]] = {"text_encoder_3": {"width": 2 * WIDTH}}
TRUE_CFG = {"true_cfg_scale": 2.0, "negative_prompt": ["blurry", "a"], "guidance_scale": None}
CONTROL = {"transformer": {"in_channels": 32, "out_channels": 16}}  # beside the picture to follow
LARGER = {"height": 32, "width": 32, "use_resolution_binning": False}
PIXELS = (IMAGE[0].permute(1, 2, 0) * 255).byte().numpy()
PICTURE = PIL.Image.fromarray(PIXELS)  # where a pipeline takes no tensors
SPARSE = {"height": 64, "width": 64}  # where the code takes an autoencoder's factor to be 16
BIG = {"height": 64, "width": 64}
# Some pipelines enlarge the picture to 1024²: with this autoencoder it has few tokens.
COARSE = {"vae": {"dim_mult": [1] * 6, "temperal_downsample": [False] * 5}}
FIBO = {"text_encoder": {"vocab_size": 128_256}, "transformer": {"in_channels": 4}}
ONE = PROMPTED | {"prompt": ["red fox"]}
SPRINT = {"transformer": {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}}


def _filled_experts(pipe: Any) -> None:
    """Give the experts values: they are made without any."""
    generator = torch.Generator().manual_seed(8)
    for parameter in pipe.transformer.parameters():
        if parameter.ndim == 3:
            parameter.normal_(std=0.1, generator=generator)


CASES: dict[str, Case] = {
    "StableDiffusion3Pipeline": Case(PROMPTED, SD3),
    "StableDiffusion3Img2ImgPipeline": Case(PROMPTED | {"image": IMAGE, "strength": 0.8}, SD3),
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
    "SanaSprintPipeline": Case(
        PROMPTED | LARGER | {"complex_human_instruction": None, "num_inference_steps": 2},
        SPRINT,
        shape=(2, 3, 32, 32),
    ),
    "SanaSprintImg2ImgPipeline": Case(
        PROMPTED
        | LARGER
        | {"complex_human_instruction": None, "num_inference_steps": 2, "image": IMAGE}
        | {"strength": 0.8},
        SPRINT,
        shape=(2, 3, 32, 32),
    ),
    "HunyuanDiTPipeline": Case(TEXT | SIZE | {"use_resolution_binning": False}),
    "HunyuanDiTPAGPipeline": Case(
        TEXT | SIZE | {"use_resolution_binning": False, "pag_scale": 2.0},
        {"transformer": {"num_layers": 4}},
    ),
    "HunyuanDiTControlNetPipeline": Case(
        TEXT | SIZE | {"use_resolution_binning": False, "control_image": IMAGE},
        {"transformer": {"num_layers": 4}},
    ),
    "BriaPipeline": Case(
        PROMPTED,
        parts={"scheduler": lambda: FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)},
    ),
    "BriaFiboPipeline": Case(PROMPTED | SPARSE, FIBO, shape=(2, 3, 8, 8)),
    "BriaFiboEditPipeline": Case(
        ONE | SPARSE | {"image": PICTURE},
        FIBO,
        shape=(1, 3, 8, 8),
        parts={"scheduler": FlowMatchEulerDiscreteScheduler},
    ),
    "CogView4ControlPipeline": Case(
        PROMPTED | {"control_image": IMAGE},
        {"transformer": {"in_channels": 8, "out_channels": 4}},
    ),
    "BriaFibo2Pipeline": Case(
        TEXT | SIZE,
        {
            "text_encoder": {"num_hidden_layers": 36},
            "transformer": {
                "cap_feat_dim": 3 * WIDTH,
                "n_layers": 5,
                "injection_layer_ids": (0, 1, 2, 3, 4),
            },
        },
    ),
    "ChromaInpaintPipeline": Case(
        PROMPTED | {"image": IMAGE, "mask_image": MASK, "strength": 0.8},
        # Its call asks for an entry that only the configuration file of a checkpoint has.
        prepare=lambda pipe: pipe.transformer.register_to_config(guidance_embeds=False),
    ),
    "Flux2Pipeline": Case(PROMPTED | {"text_encoder_out_layers": (0, 1, 2)}),
    "Flux2KleinKVPipeline": Case(
        {"prompt": TEXT["prompt"], "num_inference_steps": 3}
        | SIZE
        | SHORT
        | {"text_encoder_out_layers": (0, 1, 2), "image": PICTURE}
    ),
    "Ideogram4Pipeline": Case(
        PROMPTED | {"guidance_schedule": None, "max_sequence_length": 16},
        parts={"text_encoder": lambda: component(Qwen3VLModel, num_hidden_layers=36)},
    ),
    "NucleusMoEImagePipeline": Case(PROMPTED | {"return_index": -1}, prepare=_filled_experts),
    "Krea2Pipeline": Case(PROMPTED, parts={"text_encoder_select_layers": lambda: (1, 2)}),
    "LongCatImagePipeline": Case(
        PROMPTED | {"enable_prompt_rewrite": False}, {"vae": {"latent_channels": 16}}
    ),
    "LongCatImageEditPipeline": Case(
        TEXT | {"prompt": ["red fox"], "image": PICTURE},
        {
            "vae": {
                "latent_channels": 16,
                "block_out_channels": (8,) * 7,
                "down_block_types": ("DownEncoderBlock2D",) * 7,
                "up_block_types": ("UpDecoderBlock2D",) * 7,
            }
        },
        shape=None,
    ),
    "QwenImageControlNetInpaintPipeline": Case(
        PROMPTED | TRUE_CFG | {"control_image": IMAGE, "control_mask": MASK},
        {"controlnet": {"extra_condition_channels": 4}},
    ),
    "QwenImage21Pipeline": Case(
        {"prompt": TEXT["prompt"], "num_inference_steps": 3, "true_cfg_scale": 2.0}
        | {"negative_prompt": ["blurry", "a"]}
        | SPARSE,
        shape=(2, 4, 8, 8),
    ),
    "DreamLitePipeline": Case(ONE | {"prompt": "red fox"}, shape=(1, 3, 16, 16)),
    "DreamLiteMobilePipeline": Case(ONE | {"prompt": "red fox"}, shape=(1, 3, 16, 16)),
    "QwenImageEditPipeline": Case(
        ONE | TRUE_CFG | BIG | {"image": PICTURE, "negative_prompt": ["a"]},
        COARSE,
        shape=(1, 3, 64, 64),
    ),
    "QwenImageEditPlusPipeline": Case(
        ONE | TRUE_CFG | BIG | {"image": PICTURE, "negative_prompt": ["a"]},
        COARSE,
        shape=(1, 3, 64, 64),
    ),
    "QwenImageEditInpaintPipeline": Case(
        ONE
        | TRUE_CFG
        | BIG
        | {"image": PICTURE, "negative_prompt": ["a"], "strength": 0.8}
        | {"mask_image": PIL.Image.fromarray(PIXELS[..., 0])},
        COARSE,
        shape=(1, 3, 64, 64),
    ),
    "JoyImageEditPipeline": Case(ONE, shape=None),
    "JoyImageEditPlusPipeline": Case(ONE, shape=None),
    "FluxPriorReduxPipeline": Case(
        {"image": PICTURE, "prompt": ["red fox"]},
        {name: {} for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")},
        shape=None,
    ),
    "GlmImagePipeline": Case(
        PROMPTED | {"prior_token_ids": torch.arange(32).view(2, 16) % 16},
        # Another model draws those tokens, one after another, which has no gradient.
        parts={"processor": lambda: None, "vision_language_encoder": lambda: None},
    ),
    "ZImageControlNetPipeline": Case(PROMPTED | {"control_image": IMAGE}),
    "ZImageOmniPipeline": Case(PROMPTED | {"image": PICTURE}),
    "DiTPipeline": Case({"class_labels": [1, 3], "num_inference_steps": 3, "guidance_scale": 3.0}),
}

# Classes that are not run, and why.
REASONS: dict[str, str] = {}
