"""Calls of the pipelines that make videos and sound."""

from benchmarks.pipelines.cases.case import SHORT, SIZE, TEXT, Case

CASES: dict[str, Case] = {
    "WanPipeline": Case(TEXT | SIZE | SHORT | {"num_frames": 3}, shape=(2, 4, 3, 16, 16)),
    "CogVideoXPipeline": Case(TEXT | SIZE | SHORT | {"num_frames": 5}, shape=(2, 8, 3, 16, 16)),
    "LTXPipeline": Case(
        TEXT | SHORT | {"height": 32, "width": 32, "num_frames": 5}, shape=(2, 5, 3, 32, 32)
    ),
    "StableAudioPipeline": Case(
        {"prompt": ["red fox", "owl"], "num_inference_steps": 3, "audio_end_in_s": 1.0},
        shape=(2, 2, 4),
    ),
}

# Classes that are not run, and why.
REASONS: dict[str, str] = {}
