"""Calls of the pipelines that make videos and sound."""

from typing import Any

import diffusers
import torch
import transformers
from PIL import Image

from benchmarks.pipelines.cases.case import IMAGE, SHORT, SIZE, TEXT, Case
from benchmarks.pipelines.parts import WIDTH, component
from benchmarks.pipelines.parts.encoders import word_tokenizer
from benchmarks.pipelines.parts.unets import SDXL_UNET

ONE = TEXT | {"prompt": "red fox"}


def random(*shape: int, seed: int = 6) -> torch.Tensor:
    """Normal numbers that are the same in every process."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class AcceptsAll:
    """Stands for the safety checker of Cosmos, which is a package of its own."""

    def to(self, device: Any) -> None:
        pass

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


def smallest(pipe: Any) -> None:
    """Let a pipeline that rounds to the sizes it was trained for draw the smallest."""
    pipe.resolutions = [(16, 16)]


def in_double(pipe: Any) -> None:
    """In float32 the gradient of these pipelines' prompts is off by 2e-5 in stock code as well."""
    pipe.to(torch.float64)


# For pipelines whose text is cleaned by a package that few have (ftfy).
EMBEDS: dict[str, Any] = {
    "prompt_embeds": random(1, 8, WIDTH),
    "negative_prompt_embeds": random(1, 8, WIDTH, seed=7),
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
}
PICTURES = [Image.new("RGB", (16, 16), (40 * i, 90, 200 - 30 * i)) for i in range(5)]
TOKENS = torch.ones(1, 8, dtype=torch.int64)  # a mask that masks none
WAN_VAE = {"vae": lambda: component(diffusers.AutoencoderKLWan)}
GUARD = {"safety_checker": AcceptsAll}
ONE_VIDEO = (1, 5, 3, 16, 16)
VIDEO = (2, 4, 3, 16, 16)  # frames at the tiny autoencoders' temporal factors
TWO = (2, 2, 3, 16, 16)
UNIPC = {"scheduler": {"prediction_type": "flow_prediction", "use_flow_sigmas": True}}
QUARTER_VAE = {  # four frames, and four pixels each way, in one latent
    "dim_mult": [1, 1, 1],
    "temperal_downsample": [True, True],
    "scale_factor_spatial": 4,
    "scale_factor_temporal": 4,
}
EIGHTH_VAE = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
WAN_I2V = {
    "transformer": {"in_channels": 12, "image_dim": WIDTH},
    "vae": QUARTER_VAE,
    "image_encoder": {},
    "image_processor": {},
}
MOTIF_EMBEDS = {k: v for k, v in EMBEDS.items() if k != "guidance_scale"} | {
    "prompt_attention_mask": TOKENS,
    "negative_prompt_attention_mask": TOKENS,
}
HUNYUAN = {
    "prompt_embeds": random(1, 8, WIDTH),
    "prompt_attention_mask": TOKENS,
    "pooled_prompt_embeds": random(1, WIDTH),
    "negative_prompt_embeds": random(1, 8, WIDTH, seed=7),
    "negative_prompt_attention_mask": TOKENS,
    "negative_pooled_prompt_embeds": random(1, WIDTH, seed=7),
    "true_cfg_scale": 2.0,
    "num_inference_steps": 3,
}
HUNYUAN_I2V = {"in_channels": 9, "image_condition_type": "latent_concat"}
HUNYUAN_15 = {
    "prompt_embeds": random(1, 8, WIDTH),
    "prompt_embeds_mask": TOKENS,
    "prompt_embeds_2": random(1, 4, WIDTH),
    "prompt_embeds_mask_2": TOKENS[:, :4],
    "negative_prompt_embeds": random(1, 8, WIDTH, seed=7),
    "negative_prompt_embeds_mask": TOKENS,
    "negative_prompt_embeds_2": random(1, 4, WIDTH, seed=7),
    "negative_prompt_embeds_mask_2": TOKENS[:, :4],
    "num_inference_steps": 3,
}
EASY = (
    EMBEDS
    | SIZE
    | {
        "prompt_attention_mask": TOKENS,
        "negative_prompt_attention_mask": TOKENS,
    }
)
KANDINSKY = {
    "prompt_embeds_qwen": random(1, 8, WIDTH),
    "prompt_embeds_clip": random(1, WIDTH),
    "prompt_cu_seqlens": torch.tensor([0, 8], dtype=torch.int32),
    "negative_prompt_embeds_qwen": random(1, 8, WIDTH, seed=7),
    "negative_prompt_embeds_clip": random(1, WIDTH, seed=7),
    "negative_prompt_cu_seqlens": torch.tensor([0, 8], dtype=torch.int32),
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
}
KANDINSKY_6 = {
    "prompt_embeds": random(1, 8, WIDTH),
    "pooled_prompt_embeds": random(1, WIDTH),
    "negative_prompt_embeds": random(1, 8, WIDTH, seed=7),
    "negative_pooled_prompt_embeds": random(1, WIDTH, seed=7),
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
}
LTX2 = (
    ONE
    | SHORT
    | {
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "frame_rate": 24.0,
        "spatio_temporal_guidance_blocks": [1],
    }
)
SOUND = {"prompt": "red fox", "num_inference_steps": 3}
LTX2_DISTILLED = {
    k: v
    for k, v in LTX2.items()
    if k not in ("num_inference_steps", "guidance_scale", "spatio_temporal_guidance_blocks")
}
KARRAS = {"scheduler": {"use_karras_sigmas": True}}
CLAP_EMBEDS = EMBEDS | {
    "prompt_embeds": random(1, WIDTH),
    "negative_prompt_embeds": random(1, WIDTH, seed=7),
}
AUDIO_LDM_2 = EMBEDS | {
    "generated_prompt_embeds": random(1, 4, WIDTH),
    "negative_generated_prompt_embeds": random(1, 4, WIDTH, seed=7),
    "attention_mask": TOKENS,
    "negative_attention_mask": TOKENS,
}
CLAP = {"text_encoder": lambda: component(transformers.ClapModel)}
ENDED = {"tokenizer": lambda: word_tokenizer(ends=True)}
BERT = {"text_encoder": lambda: component(transformers.BertModel)}
MOTIF = {
    "text_encoder": lambda: component(transformers.T5EncoderModel),
    "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
}
SPECTROGRAM = {"in_channels": 1, "out_channels": 1}
AUDIO_LDM = {
    "unet": {
        "class_embed_type": "simple_projection",
        "projection_class_embeddings_input_dim": WIDTH,
        "class_embeddings_concat": True,
        "cross_attention_dim": (8, 16),
    },
    "vae": SPECTROGRAM,
}

CASES: dict[str, Case] = {
    "WanPipeline": Case(TEXT | SIZE | SHORT | {"num_frames": 3}, shape=VIDEO),
    "WanVideoToVideoPipeline": Case(
        EMBEDS | SIZE | SHORT | {"video": PICTURES, "strength": 1.0}, shape=ONE_VIDEO
    ),
    "WanImageToVideoPipeline": Case(
        EMBEDS | SIZE | SHORT | {"image": IMAGE[:1], "num_frames": 5}, WAN_I2V, ONE_VIDEO
    ),
    "WanVACEPipeline": Case(
        EMBEDS | SIZE | SHORT | {"num_frames": 5},
        {"transformer": {"vace_in_channels": 24}, "vae": QUARTER_VAE},
        ONE_VIDEO,
    ),
    "WanAnimatePipeline": Case(
        EMBEDS
        | SIZE
        | SHORT
        | {
            "image": IMAGE[:1],
            "pose_video": PICTURES,
            "face_video": PICTURES,
            "segment_frame_length": 5,
        },
        UNIPC | {"vae": QUARTER_VAE},
        ONE_VIDEO,
    ),
    "ChronoEditPipeline": Case(
        EMBEDS | SIZE | SHORT | {"image": IMAGE[:1], "num_frames": 5}, WAN_I2V, ONE_VIDEO
    ),
    "LucyEditPipeline": Case(
        EMBEDS | SIZE | SHORT | {"video": PICTURES, "num_frames": 5},
        {"transformer": {"in_channels": 8}, "vae": QUARTER_VAE},
        ONE_VIDEO,
    ),
    "SkyReelsV2Pipeline": Case(EMBEDS | SIZE | SHORT | {"num_frames": 3}, UNIPC, (1, 4, 3, 16, 16)),
    "SkyReelsV2ImageToVideoPipeline": Case(
        EMBEDS | SIZE | SHORT | {"image": IMAGE[:1], "num_frames": 5},
        UNIPC | WAN_I2V,
        ONE_VIDEO,
    ),
    "SkyReelsV2DiffusionForcingPipeline": Case(
        EMBEDS | SIZE | SHORT | {"num_frames": 5, "base_num_frames": 5, "prompt": None},
        UNIPC | {"vae": QUARTER_VAE},
        ONE_VIDEO,
    ),
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": Case(
        EMBEDS | SIZE | SHORT | {"image": IMAGE[:1], "num_frames": 5, "base_num_frames": 5},
        UNIPC | {"vae": QUARTER_VAE},
        ONE_VIDEO,
    ),
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": Case(
        EMBEDS
        | SIZE
        | SHORT
        | {"video": PICTURES, "num_frames": 5, "base_num_frames": 5, "overlap_history": 1},
        UNIPC | {"vae": QUARTER_VAE},
        (1, 10, 3, 16, 16),
    ),
    "AnyFlowPipeline": Case(TEXT | SIZE | SHORT | {"num_frames": 3}, shape=VIDEO),
    "HeliosPipeline": Case(
        EMBEDS | SIZE | SHORT | {"num_frames": 9, "num_latent_frames_per_chunk": 9},
        {"scheduler": {"stages": 1, "stage_range": [0, 1]}},
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
        ONE | SHORT | {"height": 32, "width": 32, "num_frames": 5}, shape=(1, 3, 5, 32, 32)
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
        ONE | SIZE | {"video": PICTURES, "strength": 1.0}, shape=ONE_VIDEO
    ),
    "AnimateDiffVideoToVideoControlNetPipeline": Case(
        ONE | SIZE | {"video": PICTURES, "strength": 1.0, "conditioning_frames": PICTURES},
        shape=ONE_VIDEO,
    ),
    "PIAPipeline": Case(
        ONE | SIZE | {"image": IMAGE[:1], "num_frames": 2},
        {"unet": {"in_channels": 9}, "motion_adapter": {}},
        (1, 2, 3, 16, 16),
    ),
    "TextToVideoSDPipeline": Case(TEXT | SIZE | {"num_frames": 2}, shape=TWO),
    "VideoToVideoSDPipeline": Case(
        ONE | {"video": PICTURES, "strength": 1.0}, shape=ONE_VIDEO, samples=5
    ),
    "TextToVideoZeroPipeline": Case(
        ONE | SIZE | {"video_length": 2, "t0": 0, "t1": 2},
        shape=(2, 16, 16, 3),
        samples=1,
    ),
    "TextToVideoZeroSDXLPipeline": Case(
        ONE | SIZE | {"video_length": 2, "t0": 0, "t1": 2},
        {"unet": SDXL_UNET},
        shape=(2, 16, 16, 3),
        samples=1,
    ),
    "I2VGenXLPipeline": Case(
        ONE | SIZE | {"image": PICTURES[0], "num_frames": 2, "clip_skip": None},
        shape=(1, 2, 3, 16, 16),
    ),
    "StableVideoDiffusionPipeline": Case(
        SIZE | {"image": PICTURES[0], "num_frames": 2, "num_inference_steps": 3},
        {"unet": {"in_channels": 8}, "image_encoder": {"image_size": 224, "patch_size": 32}},
        (1, 2, 3, 16, 16),
    ),
    "LattePipeline": Case(TEXT | SIZE | {"video_length": 2, "clean_caption": False}, shape=TWO),
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
        parts=WAN_VAE,
    ),
    "HunyuanVideoPipeline": Case(
        HUNYUAN | SIZE | {"num_frames": 5}, {"text_encoder_2": {"length": 77}}, ONE_VIDEO
    ),
    "DanceDiffusionPipeline": Case(
        {"batch_size": 2, "num_inference_steps": 3, "audio_length_in_s": 2.0},
        shape=(2, 2, 32),
        parts={"scheduler": diffusers.IPNDMScheduler},
    ),
    "CosmosTextToWorldPipeline": Case(
        ONE | SHORT | {"height": 64, "width": 64, "num_frames": 9},
        shape=(1, 9, 3, 64, 64),
        parts=GUARD,
    ),
    "Cosmos2TextToImagePipeline": Case(ONE | SIZE | SHORT, KARRAS, (1, 3, 16, 16), parts=GUARD),
    "Cosmos2VideoToWorldPipeline": Case(
        ONE | SIZE | SHORT | {"image": PICTURES[0], "num_frames": 5},
        KARRAS | {"transformer": {"in_channels": 5}, "vae": QUARTER_VAE},
        ONE_VIDEO,
        parts=GUARD,
    ),
    "CosmosVideoToWorldPipeline": Case(
        ONE | SHORT | {"image": PICTURES[0], "height": 64, "width": 64, "num_frames": 9},
        {"transformer": {"in_channels": 5}},
        (1, 9, 3, 64, 64),
        parts=GUARD,
    ),
    "Cosmos2_5_PredictBasePipeline": Case(
        EMBEDS | SIZE | SHORT | {"num_frames": 5},
        UNIPC | {"transformer": {"in_channels": 5}, "vae": QUARTER_VAE},
        ONE_VIDEO,
        parts=GUARD,
    ),
    "HunyuanVideoImageToVideoPipeline": Case(
        HUNYUAN | SIZE | {"image": PICTURES[0], "num_frames": 5},
        {"text_encoder_2": {"length": 77}, "transformer": HUNYUAN_I2V},
        (1, 1, 3, 16, 16),
        parts={"text_encoder": lambda: component(transformers.LlamaModel)},
    ),
    "HunyuanVideoFramepackPipeline": Case(
        HUNYUAN | SIZE | {"image": PICTURES[0], "num_frames": 5, "latent_window_size": 2},
        {"text_encoder_2": {"length": 77}},
        (1, 9, 3, 16, 16),
    ),
    "HunyuanSkyreelsImageToVideoPipeline": Case(
        HUNYUAN | SIZE | {"image": PICTURES[0], "num_frames": 5},
        {"text_encoder_2": {"length": 77}, "transformer": {"in_channels": 8}},
        ONE_VIDEO,
    ),
    "HunyuanVideo15Pipeline": Case(HUNYUAN_15 | SIZE | {"num_frames": 3}, shape=(1, 3, 3, 16, 16)),
    "HunyuanVideo15ImageToVideoPipeline": Case(
        HUNYUAN_15 | {"image": PICTURES[0], "num_frames": 3},
        {"transformer": {"task_type": "i2v"}},
        (1, 3, 3, 16, 16),
    ),
    "EasyAnimatePipeline": Case(EASY | {"num_frames": 5}, parts=BERT, shape=ONE_VIDEO),
    "EasyAnimateInpaintPipeline": Case(
        EASY
        | {
            "num_frames": 5,
            "video": torch.rand(1, 3, 5, 16, 16),
            "mask_video": torch.ones(1, 1, 5, 16, 16) * 255,
        },
        {"transformer": {"in_channels": 9}},
        parts=BERT,
        shape=ONE_VIDEO,
    ),
    "Kandinsky5T2VPipeline": Case(KANDINSKY | SIZE | {"num_frames": 5}, shape=ONE_VIDEO),
    "Kandinsky5T2IPipeline": Case(
        KANDINSKY | SIZE, {"vae": EIGHTH_VAE}, shape=(1, 3, 16, 16), prepare=smallest
    ),
    "Kandinsky5I2IPipeline": Case(
        KANDINSKY | SIZE | {"image": PICTURES[0]},
        {"transformer": {"visual_cond": True}, "vae": EIGHTH_VAE},
        (1, 3, 16, 16),
        prepare=smallest,
    ),
    "Kandinsky6TI2VAPipeline": Case(
        KANDINSKY_6 | SIZE | {"sample_audio": False, "num_frames": 5}, shape=ONE_VIDEO
    ),
    "MotifVideoPipeline": Case(
        MOTIF_EMBEDS | SIZE | {"num_frames": 3}, parts=MOTIF, shape=(1, 3, 3, 16, 16)
    ),
    "LTX2Pipeline": Case(LTX2, shape=(1, 5, 3, 32, 32)),
    "LTX2ImageToVideoPipeline": Case(
        LTX2 | {"image": PICTURES[0], "image_crf": 0}, shape=(1, 5, 3, 32, 32)
    ),
    "LTX2ConditionPipeline": Case(LTX2, shape=(1, 5, 3, 32, 32), prepare=in_double),
    "LTX2InContextPipeline": Case(LTX2, shape=(1, 5, 3, 32, 32), prepare=in_double),
    "LTX2HDRPipeline": Case(LTX2, shape=(1, 5, 32, 32, 3)),
    "LTX2DFRPipeline": Case(
        LTX2_DISTILLED,
        {"transformer": {"use_keyframes_abs_pos_embedding": True}},
        shape=(1, 5, 3, 32, 32),
    ),
    "LTX2LatentUpsamplePipeline": Case(
        {"latents": random(1, 8, 3, 4, 4), "height": 32, "width": 32, "num_frames": 5},
        shape=(1, 5, 3, 64, 64),
    ),
    "SanaImageToVideoPipeline": Case(
        ONE
        | SHORT
        | {
            "image": IMAGE[:1],
            "height": 32,
            "width": 32,
            "frames": 3,
            "use_resolution_binning": False,
            "complex_human_instruction": None,
        },
        shape=(1, 3, 3, 32, 32),
        parts=WAN_VAE,
    ),
    "SanaWMPipeline": Case(
        ONE
        | SHORT
        | {
            "action": "w-4",
            "chi_prompt": ["a"],
            "intrinsics": [16.0, 16.0, 8.0, 8.0],
            "image": PICTURES[0],
            "height": 32,
            "width": 32,
            "num_frames": 5,
        },
        shape=(1, 5, 3, 32, 32),
    ),
    "AceStepPipeline": Case(
        {"prompt": "red fox", "num_inference_steps": 3, "audio_duration": 1.0}
        | {"guidance_scale": 3.0, "max_text_length": 8, "max_lyric_length": 8},
        shape=(1, 2, 3),
    ),
    "AudioLDMPipeline": Case(TEXT | {"audio_length_in_s": 2.0}, AUDIO_LDM, (2, 32)),
    "AudioLDM2Pipeline": Case(
        AUDIO_LDM_2 | {"audio_length_in_s": 2.0}, networks={"vae": SPECTROGRAM}, shape=(1, 32)
    ),
    "MusicLDMPipeline": Case(
        CLAP_EMBEDS | {"audio_length_in_s": 2.0}, AUDIO_LDM, (1, 32), parts=CLAP
    ),
    "LongCatAudioDiTPipeline": Case(
        TEXT | {"audio_duration_s": 1.0}, shape=(2, 1, 32), parts=ENDED
    ),
    "StableAudio3Pipeline": Case(TEXT | {"duration": 2.0}, shape=(2, 2, 32)),
    "StableAudio3AudioToAudioPipeline": Case(
        SOUND | {"duration": 2.0, "audio": random(1, 2, 32)}, shape=(1, 2, 32)
    ),
    "StableAudio3InpaintPipeline": Case(
        SOUND
        | {
            "duration": 2.0,
            "audio": random(1, 2, 32),
            "mask_start_seconds": 0.5,
            "mask_end_seconds": 1.5,
        },
        shape=(1, 2, 32),
    ),
    "HeliosPyramidPipeline": Case(
        {k: v for k, v in EMBEDS.items() if k != "num_inference_steps"}
        | SIZE
        | SHORT
        | {
            "num_frames": 9,
            "num_latent_frames_per_chunk": 9,
            "pyramid_num_inference_steps_list": [1, 1, 1],
        },
        {"scheduler": {"gamma": 0.25}},
        shape=(1, 9, 3, 16, 16),
    ),
}

# Classes that are not run, and why.
REASONS: dict[str, str] = {
    "AllegroPipeline": "its autoencoder decodes nothing but tiles of 24 frames and over 120 pixels",
    "LTX2DFRTemporalRefinePipeline": "no small call is written: it takes latents of other passes",
    "LTX2VideoDiffusionDecodePipeline": "no small call is written: it is a decoder without a loop",
    "MotifVideoImage2VideoPipeline": "no tiny T5Gemma2 encoder with its vision tower is registered",
    "AnyFlowFARPipeline": "its FlexAttention has no backward pass on CPUs",
    "AudioDiffusionPipeline": "needs the package librosa",
    "ConsisIDPipeline": "needs the package opencv-python",
    "Cosmos2_5_TransferPipeline": "its ControlNet needs torchvision",
    "DiffusionGemmaPipeline": "draws tokens of text: there is nothing to differentiate",
    "EasyAnimateControlPipeline": "the stock call fails: its encode_prompt takes no "
    "text_encoder_index, which its __call__ passes",
    "Kandinsky5I2VPipeline": "full backpropagation fails too: normalize_first_frame writes into a "
    "tensor that the backward pass needs",
    "Kandinsky6SRPipeline": "takes no video under 256 pixels, which it scales up: too slow here",
    "LLaDA2Pipeline": "draws tokens of text: there is nothing to differentiate",
    "SpectrogramDiffusionPipeline": "needs the package note-seq",
}
