"""Calls of the pipelines around UNets, and of what stands beside them."""

from typing import Any

import diffusers
import torch

from benchmarks.pipelines.cases.case import (
    IMAGE,
    MASK,
    SIZE,
    TEXT,
    VIDEO,
    Case,
    latents,
    nothing,
    picture,
)
from benchmarks.pipelines.parts import component
from benchmarks.pipelines.parts.encoders import WIDTH, ldm_bert, word_tokenizer
from benchmarks.pipelines.parts.unets import SDXL_UNET

LATENTS = {"in_channels": 4, "out_channels": 4}
BOXES: dict[str, Any] = {
    "gligen_phrases": ["red fox", "owl"],
    "gligen_scheduled_sampling_beta": 0.7,  # boxes act in two of three steps
    "gligen_boxes": [[0.1, 0.1, 0.5, 0.5], [0.4, 0.4, 0.9, 0.9]],
}
GATED = {"attention_type": "gated"}
UNCLIP = {"decoder_num_inference_steps": 2, "super_res_num_inference_steps": 2}
PLUS_VARIANCE = {
    "in_channels": 3,
    "out_channels": 6,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "class_embed_type": "identity",
}
ENLARGE = {
    "sample_size": 16,
    "in_channels": 6,
    "out_channels": 3,
    "down_block_types": ("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
}
UNCLIP_NETWORKS = {
    "decoder": PLUS_VARIANCE,
    "super_res_first": ENLARGE,
    "super_res_last": ENLARGE,
}


def unclip_scheduler(**settings: Any) -> Any:
    """For networks that predict samples: with random ones, predicted noise explodes."""
    return diffusers.UnCLIPScheduler(prediction_type="sample", clip_sample=False, **settings)


UNCLIP_PARTS = {
    "decoder_scheduler": lambda: unclip_scheduler(variance_type="learned_range"),
    "super_res_scheduler": lambda: unclip_scheduler(),
}
SHAP_E = {"num_inference_steps": 2, "guidance_scale": 3.0}
SHAP_E_PRIOR = {
    "num_embeddings": 32,
    "embedding_proj_dim": WIDTH,
    "time_embed_dim": 32,
    "clip_embed_dim": 32,
    "additional_embeddings": 0,
    "time_embed_act_fn": "gelu",
    "norm_in_type": "layer",
    "encoder_hid_proj_type": None,
    "added_emb_type": None,
}
CASCADE_PRIOR = {"clip_text_in_channels": WIDTH, "clip_image_in_channels": WIDTH}
CASCADE_DECODER = {"effnet_in_channels": 4}
SAMPLES = {"scheduler": unclip_scheduler}
ZERO = {"prompt": "red fox", "num_inference_steps": 4, "video_length": 2, "t0": 1, "t1": 2}
CASCADE = {
    "prompt": ["red fox", "owl"],
    "num_inference_steps": 3,
    "prior_num_inference_steps": 2,
}
DREAM = TEXT | SIZE | {"prompt": "red fox", "max_sequence_length": 60}
DREAM_PARTS = {"tokenizer": word_tokenizer, "processor": nothing}
EDIT = {"editing_prompt": ["owl"], "edit_threshold": 0.6}


def stochastic() -> Any:
    """The scheduler that LEdits++ inverts with."""
    return diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=2)


def inverted(pipe: Any) -> None:
    """Invert a picture, which the call then edits."""
    pipe.invert(image=picture(1, 32), num_inversion_steps=4, skip=0.2, source_prompt="red fox")


CASES: dict[str, Case] = {
    "StableDiffusionPipeline": Case(TEXT | {"guidance_rescale": 0.5, "eta": 0.5}),
    "StableDiffusionXLPipeline": Case(TEXT | SIZE, {"unet": SDXL_UNET}),
    "StableDiffusionImg2ImgPipeline": Case(TEXT | {"image": IMAGE, "strength": 1.0}),
    "StableDiffusionInpaintPipeline": Case(
        TEXT | SIZE | {"image": IMAGE, "mask_image": (IMAGE[:, :1] > 0.5).float()}
    ),
    "StableDiffusionControlNetPipeline": Case(TEXT | {"image": IMAGE}),
    "StableDiffusionAdapterPipeline": Case(TEXT | SIZE | {"image": IMAGE}),
    "StableDiffusionPAGPipeline": Case(TEXT | {"pag_scale": 2.0}),
    "LatentConsistencyModelPipeline": Case(TEXT | SIZE, {"unet": {"time_cond_proj_dim": 8}}),
    "AnimateDiffPipeline": Case(TEXT | SIZE | {"num_frames": 2}, shape=(2, 2, 3, 16, 16)),
    "DDPMPipeline": Case({"batch_size": 2, "num_inference_steps": 3}, shape=(2, 3, 8, 8)),
    "LDMPipeline": Case({"batch_size": 2, "num_inference_steps": 3}, {"unet": LATENTS}),
    "LDMSuperResolutionPipeline": Case(
        {"image": IMAGE, "num_inference_steps": 3},
        {
            "unet": {"in_channels": 6, "out_channels": 3},
            "vqvae": {"latent_channels": 3, "vq_embed_dim": 3},
        },
        shape=(2, 3, 32, 32),
    ),
    "LDMTextToImagePipeline": Case(
        TEXT | {"height": 64, "width": 64},
        parts={
            "bert": ldm_bert,
            "unet": lambda: component(diffusers.UNet2DConditionModel),
        },
    ),
    "KarrasVePipeline": Case(
        {"batch_size": 2, "num_inference_steps": 3},
        shape=(2, 3, 8, 8),
        parts={"scheduler": lambda: diffusers.KarrasVeScheduler(sigma_max=0.3)},
    ),
    "ScoreSdeVePipeline": Case(
        {"batch_size": 2, "num_inference_steps": 3},
        shape=(2, 3, 8, 8),
        parts={"scheduler": lambda: diffusers.ScoreSdeVeScheduler(sigma_max=0.3)},
    ),
    "PNDMPipeline": Case({"batch_size": 2, "num_inference_steps": 4}, shape=(2, 3, 8, 8)),
    "DanceDiffusionPipeline": Case(
        {"batch_size": 2, "num_inference_steps": 3, "audio_length_in_s": 4.0},
        shape=(2, 2, 64),
        parts={"scheduler": diffusers.IPNDMScheduler},
    ),
    "StableDiffusionModelEditingPipeline": Case(
        TEXT | SIZE, parts={"scheduler": lambda: diffusers.PNDMScheduler(skip_prk_steps=True)}
    ),
    "StableDiffusionParadigmsPipeline": Case(
        TEXT | SIZE | {"parallel": 3},
        parts={"scheduler": lambda: diffusers.DDIMParallelScheduler(clip_sample=False)},
    ),
    "StableDiffusionGLIGENPipeline": Case(TEXT | SIZE | BOXES, {"unet": GATED}),
    "StableDiffusionGLIGENTextImagePipeline": Case(
        TEXT | SIZE | BOXES | {"gligen_images": [picture(1), picture(2)]},
        {"unet": {"attention_type": "gated-text-image"}},
    ),
    "UnCLIPPipeline": Case(
        UNCLIP | {"prompt": ["red fox", "owl"], "prior_num_inference_steps": 2},
        UNCLIP_NETWORKS,
        parts=UNCLIP_PARTS | {"prior_scheduler": unclip_scheduler},
    ),
    "UnCLIPImageVariationPipeline": Case(
        UNCLIP | {"image": IMAGE}, UNCLIP_NETWORKS, parts=UNCLIP_PARTS
    ),
    # Rendering copies latents into weights, which blocks their gradient.
    "ShapEPipeline": Case(
        SHAP_E | {"prompt": ["red fox", "owl"]},
        {"prior": SHAP_E_PRIOR},
        shape=(2, 32, WIDTH),
        output="latent",
    ),
    "ShapEImg2ImgPipeline": Case(
        SHAP_E | {"image": IMAGE},
        {"prior": SHAP_E_PRIOR | {"embedding_proj_norm_type": "layer"}},
        shape=(2, 32, WIDTH),
        output="latent",
    ),
    "StableCascadePriorPipeline": Case(
        TEXT | SIZE,
        {"prior": CASCADE_PRIOR},
        shape=(2, 4, 4, 4),
        parts={"resolution_multiple": lambda: 4.0},
    ),
    "StableCascadeDecoderPipeline": Case(
        TEXT | {"image_embeddings": latents(3, 4, 4, 4)},
        {"decoder": CASCADE_DECODER},
        shape=None,
        parts={"latent_dim_scale": lambda: 4.0},
    ),
    "StableCascadeCombinedPipeline": Case(
        CASCADE | {"height": 128, "width": 128},
        {"decoder": CASCADE_DECODER, "prior_prior": CASCADE_PRIOR},
        shape=None,
    ),
    "WuerstchenPriorPipeline": Case(
        TEXT | SIZE, shape=(2, 4, 4, 4), parts={"resolution_multiple": lambda: 4.0}
    ),
    "WuerstchenDecoderPipeline": Case(  # one prompt for all embeddings
        TEXT | {"prompt": "red fox"} | {"image_embeddings": latents(3, 4, 4, 4)},
        shape=None,
        parts={"latent_dim_scale": lambda: 4.0},
    ),
    "StableDiffusionLatentUpscalePipeline": Case(
        TEXT | {"image": latents(4, 4, 4, 4)},
        {"unet": {"in_channels": 8, "out_channels": 5, "time_cond_proj_dim": 128 + WIDTH}},
    ),
    "StableDiffusionUpscalePipeline": Case(
        TEXT | {"image": IMAGE, "noise_level": 20},
        {"unet": {"in_channels": 7, "num_class_embeds": 1000}},
        shape=(2, 3, 32, 32),
    ),
    "LEditsPPPipelineStableDiffusion": Case(
        EDIT | {"use_intersect_mask": False},
        parts={"scheduler": stochastic},
        prepare=inverted,
        shape=(1, 3, 32, 32),
    ),
    "LEditsPPPipelineStableDiffusionXL": Case(
        EDIT,
        {"unet": SDXL_UNET},
        parts={"scheduler": stochastic},
        prepare=inverted,
        shape=(1, 3, 32, 32),
    ),
    "StableDiffusionDiffEditPipeline": Case(
        TEXT
        | {
            "mask_image": MASK[:1, :, ::2, ::2],
            "image_latents": torch.stack([latents(i, 4, 8, 8) for i in range(2)]),
        }
    ),
    "StableUnCLIPImg2ImgPipeline": Case(
        TEXT | SIZE | {"image": IMAGE, "noise_level": 0},
        {
            "unet": {
                "class_embed_type": "projection",
                "projection_class_embeddings_input_dim": 2 * WIDTH,
            }
        },
    ),
    "StableUnCLIPPipeline": Case(
        TEXT | SIZE | {"prior_num_inference_steps": 2, "noise_level": 0},
        {
            "unet": {
                "class_embed_type": "projection",
                "projection_class_embeddings_input_dim": 2 * WIDTH,
            }
        },
    ),
    "CycleDiffusionPipeline": Case(
        TEXT | {"source_prompt": ["owl", "red fox"], "image": IMAGE, "strength": 0.8},
        parts={
            "scheduler": lambda: diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
        },
    ),
    "WuerstchenCombinedPipeline": Case(
        CASCADE | {"prompt": "red fox", "height": 128, "width": 128}, shape=None, samples=1
    ),
    "StableDiffusionLDM3DPipeline": Case(  # colours, and the depth as three channels
        TEXT | SIZE, {"vae": {"in_channels": 6, "out_channels": 6}}, shape=(2, 6, 16, 16)
    ),
    "KandinskyPriorPipeline": Case(TEXT, shape=(2, WIDTH), parts=SAMPLES),
    "KandinskyV22PriorPipeline": Case(TEXT, shape=(2, WIDTH), parts=SAMPLES),
    "TextToVideoZeroPipeline": Case(TEXT | SIZE | ZERO, samples=1),
    "TextToVideoZeroSDXLPipeline": Case(TEXT | SIZE | ZERO, {"unet": SDXL_UNET}, samples=1),
    "StableDiffusionXLControlNetUnionPipeline": Case(
        TEXT | SIZE | {"control_image": [IMAGE], "control_mode": [0]},
        {"unet": SDXL_UNET, "controlnet": SDXL_UNET},
    ),
    "VideoToVideoSDPipeline": Case(
        TEXT | {"prompt": "red fox", "video": VIDEO[:1], "strength": 0.8}, shape=None
    ),
    "LatentConsistencyModelImg2ImgPipeline": Case(
        TEXT | {"image": IMAGE, "strength": 0.8, "original_inference_steps": 10},
        {"unet": {"time_cond_proj_dim": 8}},
    ),
    "DreamLitePipeline": Case(DREAM, shape=(1, 3, 16, 16), parts=DREAM_PARTS, samples=1),
    "DreamLiteMobilePipeline": Case(DREAM, shape=(1, 3, 16, 16), parts=DREAM_PARTS, samples=1),
}

# Classes that are not run, and why.
REASONS: dict[str, str] = {
    **dict.fromkeys(
        ("AmusedPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline", "VQDiffusionPipeline"),
        "each step draws tokens, which are whole numbers: there is no gradient",
    ),
    **dict.fromkeys(
        ("StableDiffusionAttendAndExcitePipeline", "StableDiffusionPix2PixZeroPipeline"),
        "each step detaches the latents and differentiates by them for its own use, so full "
        "backpropagation gives noise no gradient either",
    ),
    **dict.fromkeys(
        ("BlipDiffusionPipeline", "BlipDiffusionControlNetPipeline"),
        "the stock call fails with transformers 5: Blip2QFormerModel has no invert_attention_mask",
    ),
    "VersatileDiffusionPipeline": "it has no __call__; the three pipelines that it makes have one",
    "VersatileDiffusionDualGuidedPipeline": "the stock call fails: "
    "DualTransformer2DModel.forward() takes no encoder_attention_mask",
    **dict.fromkeys(
        ("KolorsPipeline", "KolorsImg2ImgPipeline", "KolorsPAGPipeline"),
        "it needs sentencepiece, which is not installed",
    ),
    "AudioDiffusionPipeline": "it needs librosa, which is not installed",
    "SpectrogramDiffusionPipeline": "it needs note-seq, which is not installed",
}
