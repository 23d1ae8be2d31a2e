"""Loading, and what a model refuses before it computes anything."""

import json
import socket

import diffusers
import pytest
import torch

import adjointdpm as adj
from adjointdpm import errors
from adjointdpm.metrics import resolve
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.pipelines.inversion import invert, invert_exactly
from helpers.tiny_pipelines import STABLE_DIFFUSION_BETAS, tiny_pipeline


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("network access")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return adj.from_pipeline(tiny_pipeline(tmp_path_factory.mktemp("tokenizer")))


def test_a_saved_pipeline_loads_frozen_and_offline(offline, tmp_path):
    pipe = tiny_pipeline(tmp_path / "tokenizer")
    pipe.save_pretrained(tmp_path / "model")
    model = adj.load(tmp_path / "model")
    assert not any(p.requires_grad for p in model.pipe.unet.parameters())
    noise = model.noise(1, seed=0)
    with torch.no_grad():
        theirs = pipe("a fox", latents=noise, num_inference_steps=2, output_type="pt").images
        torch.testing.assert_close(
            model.generate("a fox", noise, steps=2).clamp(0, 1), theirs, atol=1e-4, rtol=0
        )


def test_the_bundled_model_makes_the_stock_picture(offline):
    model = adj.load("tiny")
    noise = model.noise(1, seed=0)
    with torch.no_grad():
        ours = model.generate("a noto emoji of a red apple", noise, steps=4, guidance_scale=5.0)
        theirs = model.pipe(
            "a noto emoji of a red apple",
            latents=noise,
            num_inference_steps=4,
            guidance_scale=5.0,
            output_type="pt",
        ).images
    torch.testing.assert_close(ours.clamp(0, 1), theirs, atol=1e-4, rtol=0)


def test_folders_that_hold_no_pipeline(offline, tmp_path):
    with pytest.raises(errors.ModelError, match="empty"):
        adj.load(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(errors.ModelError, match=r"model_index\.json"):
        adj.load(str(tmp_path))
    with pytest.raises(errors.ModelError, match="is a file"):
        adj.load(tmp_path / "notes.txt")
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(errors.ModelError, match="cannot be read"):
        adj.load(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "MyOwnPipeline"}))
    with pytest.raises(
        errors.ModelError, match=r"'MyOwnPipeline', which diffusers .* does not have"
    ):
        adj.load(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(errors.ModelError, match="could not be loaded"):
        adj.load(tmp_path)
    (tmp_path / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "StableDiffusionPipeline",
                "unet": ["diffusers", "UNet2DConditionModel"],
            }
        )
    )
    with pytest.raises(errors.ModelError, match="could not be loaded"):
        adj.load(tmp_path)


@pytest.mark.parametrize("name", ["tinny", "", "/nowhere/at/all", "./tiny", None])
def test_unknown_names_list_what_is_known(name, offline):
    with pytest.raises(errors.ModelError, match="'tiny'"):
        adj.load(name)


@pytest.mark.parametrize(
    "argument", [{"trust_remote_code": True}, {"use_safetensors": False}, {"custom_pipeline": "x"}]
)
def test_pickles_and_foreign_code_are_refused(argument, offline):
    with pytest.raises(errors.ModelError, match="refused"):
        adj.load("tiny", **argument)


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """The folder of a pipeline, and a function that changes its index; what diffusers would do with
    that is not tried.
    """
    tiny_pipeline(tmp_path / "tokenizer").save_pretrained(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"

    def change(**parts):
        index.write_text(json.dumps(json.loads(index.read_text()) | parts))

    def load_anything(*_, **__):
        raise RuntimeError("diffusers was asked")

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", load_anything)
    return tmp_path / "model", change


@pytest.mark.parametrize(
    "value",
    [
        ["evil", "EvilScheduler"],
        ["antigravity", "X"],
        ["diffusers", "EvilScheduler"],
        ["diffusers", "utils"],
        ["diffusers", "StableDiffusionPipeline"],
        ["transformers", "pipeline"],
        ["transformers", "AutoModel"],
        ["stable_diffusion", "Other"],
        ["diffusers.schedulers", "DDIMScheduler"],
        ["diffusers", None],
        ["diffusers"],
        "ab",
        {"evil": 1, "EvilScheduler": 2},
    ],
)
def test_parts_that_are_not_the_libraries_own_are_refused_whatever_diffusers_does(
    offline, saved, value
):
    folder, change = saved
    change(scheduler=value)
    with pytest.raises(errors.ModelError, match=r"scheduler is .* never run"):
        adj.load(folder)


@pytest.mark.parametrize("library", ["diffusers", "transformers", "stable_diffusion"])
def test_a_file_that_would_stand_for_a_library_is_refused(offline, saved, library):
    folder, change = saved
    change(safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    part = {
        "diffusers": "unet",
        "transformers": "text_encoder",
        "stable_diffusion": "safety_checker",
    }[library]
    (folder / part).mkdir(exist_ok=True)
    (folder / part / f"{library}.py").write_text("")
    with pytest.raises(errors.ModelError, match=f"{library}.py would be run"):
        adj.load(folder)


def test_what_pipelines_name_is_left_to_diffusers(offline, saved):
    folder, change = saved
    change(
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPFeatureExtractor"],
        image_encoder=[None, None],
        requires_safety_checker=False,
        _ignore_files=["x"],
    )
    with pytest.raises(errors.ModelError, match="diffusers was asked"):
        adj.load(folder)


def test_a_pipeline_with_a_safety_checker_loads_with_it_and_without(offline, tmp_path):
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=shape, vision_config=shape | {"image_size": 32, "patch_size": 8})
    )
    pipe = tiny_pipeline(
        tmp_path / "tokenizer", safety_checker=checker, feature_extractor=CLIPImageProcessor()
    )
    pipe.save_pretrained(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    parts = json.loads(index.read_text())
    assert parts["safety_checker"] == ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index.write_text(
        json.dumps(parts | {"feature_extractor": ["transformers", "CLIPFeatureExtractor"]})
    )  # as old pipelines have it
    with pytest.warns(errors.AdjointDPMWarning, match="safety"):
        assert adj.load(tmp_path / "model").pipe.safety_checker is not None
    assert adj.load(tmp_path / "model", safety_checker=None).pipe.safety_checker is None


def test_a_mistyped_path_does_not_go_to_the_network(offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def ask(name, **_):
        asked.append(name)
        raise OSError("no file called model_index.json") from ConnectionError("no route to host")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", ask)
    with pytest.raises(errors.ModelError, match="the hub cannot be reached"):
        adj.load("runs/stylised")
    (tmp_path / "runs").mkdir()
    with pytest.raises(errors.ModelError, match="since 'runs' exists here"):
        adj.load("runs/stylised")
    assert asked == ["runs/stylised"]


@pytest.mark.parametrize(
    "model", ["clip-vit-b32-folder", "./no/folder", "~/no/folder", "runs/clip", "a/b/c"]
)
def test_a_mistyped_path_of_a_clip_model_does_not_go_to_the_network(
    offline, tmp_path, monkeypatch, model
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(errors.ModelError, match="hub"):
        resolve(f"similarity:text=a cat,model={model}")


def test_weights_in_other_formats_than_safetensors_are_not_read(offline, tmp_path):
    tiny_pipeline(tmp_path / "tokenizer").save_pretrained(
        tmp_path / "model", safe_serialization=False
    )
    with pytest.raises(errors.ModelError, match="could not be loaded"):
        adj.load(tmp_path / "model")


def test_what_is_no_pipeline_is_refused(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    with pytest.raises(errors.ModelError, match="diffusers pipeline"):
        adj.from_pipeline(pipe.unet)
    img2img = diffusers.StableDiffusionImg2ImgPipeline(
        **pipe.components, requires_safety_checker=False
    )
    assert isinstance(adj.from_pipeline(img2img), AnyPipeline)
    with pytest.raises(errors.ModelError, match="channels"):
        adj.from_pipeline(tiny_pipeline(tmp_path, unet={"in_channels": 9}))


NOISE = torch.zeros(2, 4, 8, 8)
EMBEDS = torch.zeros(2, 8, 16)
BAD = [
    ({}, errors.PromptError, "pass prompt"),
    ({"prompt": "a", "prompt_embeds": EMBEDS}, errors.PromptError, "not both"),
    (
        {"prompt": "a", "negative_prompt": "b", "negative_prompt_embeds": EMBEDS},
        errors.PromptError,
        "not both",
    ),
    ({"prompt": 3}, errors.PromptError, "3"),
    ({"prompt": []}, errors.PromptError, "empty"),
    ({"prompt": ["a", 2]}, errors.PromptError, "2"),
    ({"prompt": ["a", "b", "c"], "noise": NOISE}, errors.ShapeError, "noise has 2, prompt has 3"),
    ({"prompt": ["a"], "noise": NOISE}, errors.ShapeError, "disagree"),
    (
        {"prompt": "a", "negative_prompt": ["b"], "noise": NOISE},
        errors.ShapeError,
        "negative_prompt has 1",
    ),
    ({"prompt_embeds": EMBEDS[:1], "noise": NOISE}, errors.ShapeError, "disagree"),
    ({"prompt_embeds": EMBEDS[..., :3]}, errors.ShapeError, "16"),
    (
        {"prompt_embeds": EMBEDS, "negative_prompt_embeds": EMBEDS[:, :3]},
        errors.ShapeError,
        "negative_prompt_embeds",
    ),
    ({"prompt": "a", "noise": NOISE[:, :3]}, errors.ShapeError, "4"),
    ({"prompt": "a", "noise": NOISE[0]}, errors.ShapeError, "shape"),
    ({"prompt": "a", "noise": NOISE.long()}, errors.InvalidTypeError, "int64"),
    ({"prompt": "a", "noise": NOISE / 0}, errors.InvalidInputError, "NaN"),
    ({"prompt": "a", "noise": NOISE.to("meta")}, errors.DeviceError, "meta"),
    ({"prompt": "a", "noise": [1.0]}, errors.InvalidTypeError, "list"),
    ({"prompt": "a", "steps": 0}, errors.InvalidInputError, "steps=0"),
    ({"prompt": "a", "steps": 2.0}, errors.InvalidTypeError, "steps"),
    ({"prompt": "a", "steps": 5000}, errors.InvalidInputError, "5000"),
    ({"prompt": "a", "guidance_scale": float("nan")}, errors.InvalidInputError, "guidance_scale"),
    ({"prompt": "a", "guidance_scale": "7"}, errors.InvalidTypeError, "guidance_scale"),
    ({"prompt": "a", "hight": 64}, errors.InvalidTypeError, "no argument 'hight'.*prompt_embeds"),
    ({"prompt_embeds": [1.0]}, errors.InvalidTypeError, "prompt_embeds.*list"),
    ({"prompt": "a", "gradient": "exactly"}, errors.UnknownNameError, "exact"),
    ({"prompt": "a", "sampler": "eular"}, errors.UnknownNameError, "euler"),
]


@pytest.mark.parametrize(("arguments", "error", "match"), BAD)
def test_bad_input_is_refused_before_the_network_runs(arguments, error, match, model, monkeypatch):
    monkeypatch.setattr(model.pipe.unet, "forward", lambda *_, **__: pytest.fail("the network ran"))
    with pytest.raises(error, match=match):
        model.generate(**arguments)


@pytest.mark.parametrize("arguments", [(0, 0), (2.0, 0), (1, -1), (1, None), (1, 0, -1)])
def test_bad_noise_requests(arguments, model):
    with pytest.raises(
        errors.InvalidInputError
        if all(isinstance(a, int) for a in arguments)
        else errors.InvalidTypeError
    ):
        model.noise(*arguments)


def test_adjoint_without_a_native_equivalent_says_what_to_pass(tmp_path):
    pipe = tiny_pipeline(
        tmp_path, diffusers.PNDMScheduler(**STABLE_DIFFUSION_BETAS, skip_prk_steps=True)
    )
    model = adj.from_pipeline(pipe)
    with pytest.raises(errors.UnsupportedError, match=r"PNDMScheduler.*sampler="):
        model.generate("a fox", steps=2, gradient="adjoint")
    pipe.scheduler = diffusers.DDIMScheduler(
        **STABLE_DIFFUSION_BETAS, clip_sample=False, set_alpha_to_one=True
    )
    with pytest.raises(errors.UnsupportedError, match="set_alpha_to_one=True"):
        model.generate("a fox", steps=2, gradient="adjoint")


def test_zero_terminal_snr_with_epsilon_is_refused(tmp_path):
    pipe = tiny_pipeline(
        tmp_path, diffusers.DDIMScheduler(clip_sample=False, rescale_betas_zero_snr=True)
    )
    with pytest.raises(errors.ScheduleError, match="v_prediction"):
        adj.from_pipeline(pipe)


def test_schedulers_of_other_pipelines_are_refused(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    model = adj.from_pipeline(pipe)
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    for make in (lambda: model.generate("a fox", steps=2), lambda: adj.from_pipeline(pipe)):
        with pytest.raises(
            errors.UnsupportedError, match=r"FlowMatchEulerDiscreteScheduler.*DDIMScheduler"
        ):
            make()


@pytest.mark.parametrize("setting", ["clip_sample", "thresholding"])
def test_what_zeroes_gradients_is_said_once(setting, tmp_path):
    pipe = tiny_pipeline(tmp_path)
    pipe.scheduler = diffusers.DDIMScheduler(**{"clip_sample": False, setting: True})

    @torch.no_grad()
    def draw_twice() -> None:
        model = adj.from_pipeline(pipe)
        model.generate("a fox", steps=1)
        model.generate("a fox", steps=1)

    with pytest.warns(errors.AdjointDPMWarning, match=f"{setting}=False") as caught:
        draw_twice()
    assert len([w for w in caught if issubclass(w.category, errors.AdjointDPMWarning)]) == 1


def test_an_active_safety_checker_is_said(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    pipe.safety_checker = torch.nn.Identity()
    with pytest.warns(errors.AdjointDPMWarning, match="safety_checker=None"):
        adj.from_pipeline(pipe)


def test_a_network_that_takes_tensors_by_name_says_so(model):
    with pytest.raises(errors.InvalidTypeError, match="encoder_hidden_states"):
        adj.sample(
            model.network,
            model.noise(1, 0),
            schedule=adj.NoiseSchedule.from_scheduler(model.pipe.scheduler),
            cond=model.encode("a fox")["prompt_embeds"],
        )


@pytest.mark.parametrize(
    "latents",
    [
        "latents",
        torch.zeros(4, 8, 8),
        torch.zeros(1, 3, 8, 8),
        torch.zeros(1, 4, 8, 8, dtype=torch.long),
    ],
)
def test_what_is_no_latent_is_not_decoded(tmp_path, latents):
    model = adj.from_pipeline(tiny_pipeline(tmp_path))
    with pytest.raises((errors.InvalidTypeError, errors.ShapeError), match="latents"):
        model.decode(latents)


@pytest.mark.parametrize(
    "images",
    [
        "picture.png",
        torch.zeros(3, 16, 16),
        torch.full((1, 3, 16, 16), 255.0),
        torch.zeros(1, 3, 15, 16),
    ],
)
def test_what_is_no_picture_is_not_inverted(tmp_path, images):
    model = adj.from_pipeline(tiny_pipeline(tmp_path))
    for inverted in (invert, invert_exactly):
        with pytest.raises((errors.InvalidTypeError, errors.InvalidInputError)):
            inverted(model, images, "a fox", steps=2)
