"""Calls of the pipelines around transformers that make pictures."""

from typing import Any

import PIL.Image
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SCMScheduler
from transformers import Qwen3VLModel

from benchmarks.pipelines.cases.case import IMAGE, MASK, SHORT, SIZE, TEXT, Case
from benchmarks.pipelines.parts import WIDTH, component

PROMPTED: dict[str, Any] = TEXT | SIZE | SHORT
SD3: dict[str, dict[str, Any]] = {"text_encoder_3": {"width": 2 * WIDTH}}
TRUE_CFG = {"true_cfg_scale": 2.0, "negative_prompt": ["blurry", "a"], "guidance_scale": None}
CONTROL = {"transformer": {"in_channels": 32, "out_channels": 16}}  # beside the picture to follow
LARGER = {"height": 32, "width": 32, "use_resolution_binning": False}
# A picture of 16² for pipelines that take no tensors.
PIXELS = (IMAGE[0].permute(1, 2, 0) * 255).byte().numpy()
PICTURE = PIL.Image.fromarray(PIXELS)
FILL = {"transformer": {"in_channels": 48, "out_channels": 16}}  # a picture and its mask besides
CLOZE = SHORT | {
    "task_prompt": ["red"],
    "content_prompt": ["fox"],
    "image": [[[PICTURE, PICTURE], [PICTURE, None]]],
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
}
# Some pipelines enlarge the picture to 1024²: with these autoencoders it has few tokens.
COARSE = {"vae": {"dim_mult": [1] * 6, "temperal_downsample": [False] * 5, "num_res_blocks": 0}}
JOY = {"vae": COARSE["vae"] | {"scale_factor_spatial": 32}}
EMBEDDINGS = torch.randn(2, 8, WIDTH, generator=torch.Generator().manual_seed(9))
# Its texts are cleaned by a package, ftfy, that need not be there; it has one time for a batch.
PRX = SIZE | {
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "prompt_embeds": EMBEDDINGS[:1],
    "negative_prompt_embeds": EMBEDDINGS[1:],
    "prompt_attention_mask": torch.ones(1, 8, dtype=torch.bool),
    "negative_prompt_attention_mask": torch.ones(1, 8, dtype=torch.bool),
}
SPARSE = {"height": 64, "width": 64}  # where the code takes an autoencoder's factor to be 16
BIG = {"height": 64, "width": 64}
FIBO = {"text_encoder": {"vocab_size": 128_256}, "transformer": {"in_channels": 4}}
ONE = PROMPTED | {"prompt": ["red fox"]}
SPRINT = {"transformer": {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}}


def _without_checkpointing(pipe: Any) -> None:
    """Set what its network asks for where gradients are on, and that no code has set."""
    pipe.controlnet.gradient_checkpointing = False


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
        SD3
        | {"transformer": {"in_channels": 16, "out_channels": 16}, "vae": {"latent_channels": 16}},
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
    "FluxControlNetPipeline": Case(PROMPTED | {"control_image": IMAGE}),
    "FluxFillPipeline": Case(
        PROMPTED | {"image": IMAGE, "mask_image": MASK},
        FILL,
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
        parts={"scheduler": SCMScheduler},
        shape=(2, 3, 32, 32),
    ),
    "SanaSprintImg2ImgPipeline": Case(
        PROMPTED
        | LARGER
        | {"complex_human_instruction": None, "num_inference_steps": 2, "image": IMAGE}
        | {"strength": 0.8},
        SPRINT,
        parts={"scheduler": SCMScheduler},
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
        ONE | SPARSE | {"image": PICTURE, "prompt": '{"edit_instruction": "red fox"}'},
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
        | {"text_encoder_out_layers": (0, 1, 2), "image": PICTURE.resize((64, 64))}
    ),
    "Ideogram4Pipeline": Case(
        PROMPTED | {"guidance_schedule": None, "max_sequence_length": 16},
        parts={"text_encoder": lambda: component(Qwen3VLModel, num_hidden_layers=36)},
    ),
    "NucleusMoEImagePipeline": Case(PROMPTED | {"return_index": -1}, prepare=_filled_experts),
    "Krea2Pipeline": Case(PROMPTED, parts={"text_encoder_select_layers": lambda: (1, 2)}),
    "LongCatImagePipeline": Case(
        TEXT | SIZE | {"enable_prompt_rewrite": False}, {"vae": {"latent_channels": 16}}
    ),
    "LongCatImageEditPipeline": Case(
        TEXT | {"prompt": ["red fox"], "image": PICTURE},
        {
            "vae": {
                "latent_channels": 16,
                "block_out_channels": (4,) * 7,
                "down_block_types": ("DownEncoderBlock2D",) * 7,
                "up_block_types": ("UpDecoderBlock2D",) * 7,
            }
        },
        shape=None,
        samples=1,
    ),
    "QwenImageControlNetInpaintPipeline": Case(
        PROMPTED | TRUE_CFG | {"control_image": IMAGE, "control_mask": MASK},
        {"controlnet": {"extra_condition_channels": 4}},
    ),
    "QwenImage21Pipeline": Case(
        {"prompt": TEXT["prompt"], "num_inference_steps": 3, "true_cfg_scale": 2.0}
        | {"negative_prompt": ["blurry", "a"], "use_kv_cache": False}
        | SPARSE,
        shape=(2, 4, 8, 8),
    ),
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
    "JoyImageEditPipeline": Case(
        TEXT | {"prompt": ["red fox"]}, JOY, (1, 4, 32, 32), output="latent"
    ),
    # It draws the noise of each picture alone, so that channels stand where the batch should.
    "JoyImageEditPlusPipeline": Case(ONE, shape=(1, 3, 16, 16), samples=4),
    "FluxPriorReduxPipeline": Case(
        {"image": PICTURE, "prompt": ["red fox"]},
        {name: {} for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")},
        shape=None,
        samples=1,
    ),
    "GlmImagePipeline": Case(
        PROMPTED | {"prior_token_ids": torch.arange(32).view(2, 16) % 16},
        {"vae": {"latents_mean": (0.0,) * 4, "latents_std": (1.0,) * 4}},
        # Another model draws those tokens, one after another, which has no gradient.
        parts={"processor": lambda: None, "vision_language_encoder": lambda: None},
    ),
    "ZImageControlNetPipeline": Case(
        PROMPTED | {"control_image": IMAGE}, prepare=_without_checkpointing
    ),
    "ZImageControlNetInpaintPipeline": Case(
        PROMPTED | {"control_image": IMAGE, "image": IMAGE, "mask_image": MASK},
        {"controlnet": {"control_in_dim": 9}},
        prepare=_without_checkpointing,
    ),
    "ZImageOmniPipeline": Case(
        PROMPTED | BIG | {"image": PICTURE.resize((64, 64)), "prompt": ["red fox"]},
        {"transformer": {"siglip_feat_dim": WIDTH}},
        shape=(1, 3, 64, 64),
    ),
    "QwenImageLayeredPipeline": Case(
        TEXT
        | SHORT
        | TRUE_CFG
        | {"image": PICTURE, "prompt": ["red fox"], "negative_prompt": ["a"], "layers": 2},
        COARSE,
        shape=None,
        samples=1,
    ),
    "PRXPipeline": Case(PRX | {"use_resolution_binning": False}, {"vae": {}}, shape=(1, 3, 16, 16)),
    "PRXPixelPipeline": Case(
        PRX | {"use_resolution_binning": False},
        {"transformer": {"in_channels": 3}},
        shape=(1, 3, 16, 16),
    ),
    "HunyuanImagePipeline": Case(
        {"prompt": ['red "fox"', 'an "owl"'], "num_inference_steps": 3} | SIZE
    ),
    "HunyuanImageRefinerPipeline": Case(
        {"prompt": TEXT["prompt"], "num_inference_steps": 3, "image": IMAGE} | SIZE,
        {
            "transformer": {
                "in_channels": 16,
                "out_channels": 8,
                "text_embed_2_dim": None,
                "patch_size": (1, 1, 1),
                "rope_axes_dim": (2, 2, 4),
            }
        },
    ),
    "VisualClozeGenerationPipeline": Case(
        CLOZE, FILL, shape=None, samples=1, parts={"resolution": lambda: 16}
    ),
    "VisualClozePipeline": Case(
        CLOZE | {"upsampling_strength": 0},
        FILL,
        shape=None,
        samples=1,
        parts={"resolution": lambda: 16},
    ),
    "DiTPipeline": Case({"class_labels": [1, 3], "num_inference_steps": 3, "guidance_scale": 3.0}),
}

# Classes that are not run, and why.
REASONS: dict[str, str] = {
    "OmniGenPipeline": "its constructor makes a processor of pictures that needs torchvision",
}
