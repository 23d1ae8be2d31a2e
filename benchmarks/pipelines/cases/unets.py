"""Calls of the pipelines around UNets, and of what stands beside them."""

from benchmarks.pipelines.cases.case import IMAGE, SIZE, TEXT, Case
from benchmarks.pipelines.parts.unets import SDXL_UNET

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
}

# Classes that are not run, and why.
REASONS: dict[str, str] = {}
