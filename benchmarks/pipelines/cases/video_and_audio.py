"""Calls of the pipelines that make videos and sound."""

from typing import Any

import torch
from PIL import Image

from benchmarks.pipelines.cases.case import IMAGE, SHORT, SIZE, TEXT, Case
from benchmarks.pipelines.parts import WIDTH
from benchmarks.pipelines.parts.unets import SDXL_UNET

ONE = TEXT | {"prompt": "red fox"}
FRAMES = torch.rand(1, 3, 3, 16, 16, generator=torch.Generator().manual_seed(6))
PICTURES = [
    Image.new("RGB", (16, 16), color) for color in ((200, 30, 20), (20, 200, 60), (9, 9, 90))
]
VIDEO = (2, 4, 3, 16, 16)  # frames at the tiny autoencoders' temporal factors
TWO = (2, 2, 3, 16, 16)
UNIPC = {"scheduler": {"prediction_type": "flow_prediction", "use_flow_sigmas": True}}
WAN_I2V = {
    "transformer": {"in_channels": 9, "image_dim": WIDTH},
    "image_encoder": {},
    "image_processor": {},
}

CASES: dict[str, Case] = {
    "WanPipeline": Case(TEXT | SIZE | SHORT | {"num_frames": 3}, shape=VIDEO),
    "WanVideoToVideoPipeline": Case(
        ONE | SIZE | SHORT | {"video": PICTURES, "strength": 1.0}, shape=(1, 3, 3, 16, 16)
    ),
    "WanImageToVideoPipeline": Case(
        ONE | SIZE | SHORT | {"image": IMAGE[:1], "num_frames": 3}, WAN_I2V, (1, 3, 3, 16, 16)
    ),
    "WanVACEPipeline": Case(
        ONE | SIZE | SHORT | {"num_frames": 3}, {"transformer": {}}, (1, 3, 3, 16, 16)
    ),
    "WanAnimatePipeline": Case(
        ONE
        | SIZE
        | SHORT
        | {
            "image": IMAGE[:1],
            "pose_video": PICTURES,
            "face_video": PICTURES,
            "segment_frame_length": 3,
        },
        UNIPC,
        (1, 3, 3, 16, 16),
    ),
    "ChronoEditPipeline": Case(
        ONE | SIZE | SHORT | {"image": IMAGE[:1], "num_frames": 3}, shape=(1, 3, 3, 16, 16)
    ),
    "LucyEditPipeline": Case(
        ONE | SIZE | SHORT | {"video": PICTURES, "num_frames": 3},
        {"transformer": {"in_channels": 8}},
        (1, 3, 3, 16, 16),
    ),
    "SkyReelsV2Pipeline": Case(TEXT | SIZE | SHORT | {"num_frames": 3}, UNIPC, VIDEO),
    "SkyReelsV2ImageToVideoPipeline": Case(
        ONE | SIZE | SHORT | {"image": IMAGE[:1], "num_frames": 3},
        UNIPC | {"transformer": {"in_channels": 9, "image_dim": WIDTH}},
        (1, 3, 3, 16, 16),
    ),
    "SkyReelsV2DiffusionForcingPipeline": Case(
        TEXT | SIZE | SHORT | {"num_frames": 3, "base_num_frames": 3}, UNIPC, VIDEO
    ),
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": Case(
        ONE | SIZE | SHORT | {"image": IMAGE[:1], "num_frames": 3, "base_num_frames": 3},
        UNIPC,
        (1, 3, 3, 16, 16),
    ),
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": Case(
        ONE
        | SIZE
        | SHORT
        | {"video": PICTURES, "num_frames": 5, "base_num_frames": 5, "overlap_history": 1},
        UNIPC,
        (1, 5, 3, 16, 16),
    ),
    "AnyFlowPipeline": Case(TEXT | SIZE | SHORT | {"num_frames": 3}, shape=VIDEO),
    "AnyFlowFARPipeline": Case(
        TEXT | SIZE | SHORT | {"num_frames": 3, "use_kv_cache": False}, shape=VIDEO
    ),
    "HeliosPipeline": Case(
        ONE | SIZE | SHORT | {"num_frames": 9, "num_latent_frames_per_chunk": 9},
        shape=(1, 9, 3, 16, 16),
    ),
    "CogVideoXPipeline": Case(TEXT | SIZE | SHORT | {"num_frames": 5}, shape=(2, 8, 3, 16, 16)),
    "CogVideoXImageToVideoPipeline": Case(
        ONE | SIZE | SHORT | {"image": IMAGE[:1], "num_frames": 5},
        {"transformer": {"in_channels": 8}},
        (1, 8, 3, 16, 16),
    ),
    "CogVideoXVideoToVideoPipeline": Case(
        ONE | SIZE | SHORT | {"video": PICTURES, "strength": 1.0}, shape=(1, 8, 3, 16, 16)
    ),
    "CogVideoXFunControlPipeline": Case(
        ONE | SIZE | SHORT | {"control_video": PICTURES},
        {"transformer": {"in_channels": 8}},
        (1, 8, 3, 16, 16),
    ),
    "LTXPipeline": Case(
        TEXT | SHORT | {"height": 32, "width": 32, "num_frames": 5}, shape=(2, 5, 3, 32, 32)
    ),
    "LTXImageToVideoPipeline": Case(
        ONE | SHORT | {"image": IMAGE[:1], "height": 32, "width": 32, "num_frames": 5},
        shape=(1, 5, 3, 32, 32),
    ),
    "LTXConditionPipeline": Case(
        ONE | SHORT | {"image": PICTURES[0], "height": 32, "width": 32, "num_frames": 5},
        shape=(1, 5, 3, 32, 32),
    ),
    "LTXI2VLongMultiPromptPipeline": Case(
        ONE | SHORT | {"height": 32, "width": 32, "num_frames": 5}, shape=(1, 5, 3, 32, 32)
    ),
    "LTXLatentUpsamplePipeline": Case(
        {"latents": torch.randn(1, 8, 2, 8, 8), "height": 32, "width": 32},
        shape=(1, 5, 3, 64, 64),
    ),
    "StableAudioPipeline": Case(
        {"prompt": ["red fox", "owl"], "num_inference_steps": 3, "audio_end_in_s": 1.0},
        shape=(2, 2, 4),
    ),
    "AnimateDiffControlNetPipeline": Case(
        ONE | SIZE | {"num_frames": 2, "conditioning_frames": PICTURES[:2]},
        shape=(1, 2, 3, 16, 16),
    ),
    "AnimateDiffPAGPipeline": Case(TEXT | SIZE | {"num_frames": 2}, shape=TWO),
    "AnimateDiffSDXLPipeline": Case(
        TEXT | SIZE | {"num_frames": 2}, {"unet": SDXL_UNET}, shape=TWO
    ),
    "AnimateDiffSparseControlNetPipeline": Case(
        ONE | SIZE | {"num_frames": 2, "conditioning_frames": PICTURES[:1]},
        shape=(1, 2, 3, 16, 16),
    ),
    "AnimateDiffVideoToVideoPipeline": Case(
        ONE | SIZE | {"video": PICTURES, "strength": 1.0}, shape=(1, 3, 3, 16, 16)
    ),
    "AnimateDiffVideoToVideoControlNetPipeline": Case(
        ONE | SIZE | {"video": PICTURES, "strength": 1.0, "conditioning_frames": PICTURES},
        shape=(1, 3, 3, 16, 16),
    ),
    "PIAPipeline": Case(
        ONE | SIZE | {"image": IMAGE[:1], "num_frames": 2},
        {"unet": {"in_channels": 9}, "motion_adapter": {}},
        (1, 2, 3, 16, 16),
    ),
    "TextToVideoSDPipeline": Case(TEXT | SIZE | {"num_frames": 2}, shape=TWO),
    "VideoToVideoSDPipeline": Case(
        ONE | {"video": PICTURES, "strength": 1.0}, shape=(1, 3, 3, 16, 16)
    ),
    "TextToVideoZeroPipeline": Case(ONE | SIZE | {"video_length": 2}, shape=(2, 16, 16, 3)),
    "TextToVideoZeroSDXLPipeline": Case(
        ONE | SIZE | {"video_length": 2}, {"unet": SDXL_UNET}, shape=(2, 16, 16, 3)
    ),
    "I2VGenXLPipeline": Case(
        ONE | SIZE | {"image": PICTURES[0], "num_frames": 2}, shape=(1, 2, 3, 16, 16)
    ),
    "StableVideoDiffusionPipeline": Case(
        SIZE | {"image": PICTURES[0], "num_frames": 2, "num_inference_steps": 3},
        {"unet": {"in_channels": 8}},
        (1, 2, 3, 16, 16),
    ),
    "LattePipeline": Case(TEXT | SIZE | {"video_length": 2, "clean_caption": False}, shape=TWO),
    "AllegroPipeline": Case(
        ONE | SHORT | {"height": 64, "width": 64, "num_frames": 4, "clean_caption": False},
        shape=(1, 4, 3, 64, 64),
    ),
    "MochiPipeline": Case(ONE | SIZE | SHORT | {"num_frames": 7}, shape=(1, 7, 3, 16, 16)),
    "SanaVideoPipeline": Case(
        TEXT
        | SHORT
        | {
            "height": 32,
            "width": 32,
            "frames": 3,
            "use_resolution_binning": False,
            "complex_human_instruction": None,
        },
        shape=(2, 3, 3, 32, 32),
    ),
    "HunyuanVideoPipeline": Case(
        ONE | SIZE | SHORT | {"num_frames": 5, "prompt_template": None}, shape=(1, 5, 3, 16, 16)
    ),
    "DanceDiffusionPipeline": Case(
        {"batch_size": 2, "num_inference_steps": 3, "audio_length_in_s": 1.0}, shape=(2, 2, 16)
    ),
    "CosmosTextToWorldPipeline": Case(
        ONE | SHORT | {"height": 64, "width": 64, "num_frames": 9}, shape=(1, 9, 3, 64, 64)
    ),
    "Cosmos2TextToImagePipeline": Case(ONE | SIZE | SHORT, shape=(1, 3, 16, 16)),
}

# Classes that are not run, and why.
REASONS: dict[str, str] = {}
