"""Low-rank changes of the denoiser's layers, learned (LoRA)."""

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from adjointdpm.errors import InvalidInputError, OutputError
from adjointdpm.support.files import write_bytes
from adjointdpm.support.safetensors_bytes import save
from adjointdpm.variables.base import Variable, as_unit, check_tensors, compare_tensors, rms
from adjointdpm.variables.freezing import Flags, freeze, parameters, unfreeze
from adjointdpm.variables.lora_layers import attention_layers
from adjointdpm.variables.networks import denoiser

FILE = "pytorch_lora_weights.safetensors"


class LoRA(Variable):
    """Low-rank adaptation (LoRA, Hu et al. 2021, arXiv 2106.09685) of the denoiser.

    The chosen layers' weights become W + (alpha / rank) · B A. B starts at zero, so the start is
    the untouched model, and the first gradient of A is zero. Inside the context the adapter is part
    of the pipeline's UNet or transformer, beside adapters that are active already, and nothing else
    in the pipeline requires grad. Leaving the context takes the adapter out and keeps what was
    learned.

    Args:
        pipe: a diffusers pipeline.
        rank: the rows of A and columns of B, at least 1.
        alpha: the scale of the change is alpha / rank; None is `rank`, a scale of 1.
        target_modules: the layers, by name or by how their names end: "attn2.to_q" are the queries
            of all cross-attentions of a UNet. None: the projections of all attentions.
        seed: of the values that A starts with; no global generator is touched.
        name: the adapter's name while it is part of the pipeline.

    Raises:
        InvalidInputError: `rank` < 1, `alpha` not positive and finite, a target that fits no linear
            or convolutional layer, a name that cannot be used or exists, a pipeline without a
            denoiser.

    """

    artefacts = (FILE,)

    def __init__(
        self,
        pipe: Any,
        rank: int = 4,
        alpha: float | None = None,
        target_modules: Sequence[str] | None = None,
        seed: int = 0,
        name: str = "adjointdpm",
    ) -> None:
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise InvalidInputError(f"rank={rank!r} must be an int of at least 1")
        alpha = rank if alpha is None else alpha
        if (
            isinstance(alpha, bool)
            or not isinstance(alpha, int | float)
            or not 0 < alpha < math.inf
        ):
            raise InvalidInputError(f"alpha={alpha!r} must be a positive, finite number")
        if not name or "." in name:
            raise InvalidInputError(
                f"name={name!r} cannot name an adapter; choose a word without dots"
            )
        self.pipe, self.rank, self.alpha, self.name, self._seed = pipe, rank, alpha, name, seed
        self.part, self.network = denoiser(pipe)
        if target_modules is None:
            target_modules = attention_layers(self.network)
        self.target_modules = (
            [target_modules] if isinstance(target_modules, str) else list(target_modules)
        )
        _check_targets(self.network, self.target_modules)
        self._flags: Flags | None = None
        self._on = False
        self._active: list[str] = []
        self._wrapped: set[str] = set()
        self._tensors: dict[str, nn.Parameter] = {}
        with self:  # peft decides which layers, of which shapes
            bases = [layer.get_base_layer().weight for layer in self._layers().values()]
            self._base_sizes = [rms(weight) for weight in bases]
            self._base_square = sum(
                weight.detach().float().square().sum().item() for weight in bases
            )

    def tensors(self) -> dict[str, Tensor]:
        """The matrices A and B of every layer, named as in diffusers, in the model's order.

        They are `<layer>.lora_A.weight` `[rank, in]` and `<layer>.lora_B.weight` `[out, rank]`.
        """
        return dict(self._tensors)

    def units(self) -> dict[str, Tensor]:
        """For A its start; for B what makes the weights' change as large as the weights."""
        units: dict[str, Tensor] = {}
        pairs = zip(*[iter(self._tensors.items())] * 2, strict=True)
        for ((a_name, a), (b_name, b)), size in zip(pairs, self._base_sizes, strict=True):
            a_size = rms(self.first_values()[a_name])
            scale = self.alpha / self.rank * math.sqrt(self.rank) * a_size
            units[a_name] = as_unit(a_size, a)
            units[b_name] = as_unit(size / scale, b)
        return units

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the adapter is switched off; adapters that were active before it stay."""
        before = self._on
        self._activate(False)
        try:
            yield
        finally:
            self._activate(before)

    def regularisers(self) -> dict[str, Float[Tensor, ""]]:
        """As `Variable.regularisers`, for the weights that the adapter changes.

        Returns:
            "distance": Σ ‖(alpha / rank) B A‖² / Σ ‖W‖² over the adapted layers. Its gradient is
            zero at the start.

        """
        pairs = zip(*[iter(self._tensors.values())] * 2, strict=True)
        square = torch.stack([_product_square(a, b) for a, b in pairs]).sum()
        return {"distance": square * ((self.alpha / self.rank) ** 2 / (self._base_square or 1.0))}

    def at_strength(self, strength: float) -> dict[str, Tensor]:
        """As `Variable.at_strength`, for the weights: B is scaled, and A stays."""
        return {
            name: tensor.detach() * strength if ".lora_B." in name else tensor.detach().clone()
            for name, tensor in self._tensors.items()
        }

    def save(self, folder: Path) -> Path:
        """Write `pytorch_lora_weights.safetensors`, in float32.

        `pipe.load_lora_weights(folder)` reads it together with alpha, where the pipeline has that
        method; `usage` says how it is loaded.
        """
        metadata = {"format": "pt", "lora_adapter_metadata": self._facts()}
        return write_bytes(folder / FILE, save(self._saved(), metadata=metadata))

    def usage(self) -> list[str]:
        """Lines that load the adapter into a stock pipeline `pipe`."""
        if _has_loader(self.pipe, self.network):
            return [f'pipe.load_lora_weights(".", weight_name="{FILE}")']
        config = f"r={self.rank}, lora_alpha={self.alpha}, target_modules={self.target_modules}"
        prefix = f"{self.part}."
        return [
            "from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict",
            "from safetensors.torch import load_file",
            f'state = load_file("{FILE}")',
            f"inject_adapter_in_model(LoraConfig({config}), pipe.{self.part})",
            f'state = {{name.removeprefix("{prefix}"): state[name] for name in state}}',
            f"set_peft_model_state_dict(pipe.{self.part}, state)",
        ]

    def check_saved(self, folder: Path) -> None:
        """Read the file as the pipeline's class does, and compare.

        Raises:
            OutputError: see `Variable.check_saved`.

        """
        check_tensors(folder / FILE, self._saved())
        with safe_open(folder / FILE, "pt") as file:
            if (file.metadata() or {}).get("lora_adapter_metadata") != self._facts():
                raise OutputError(f"{folder / FILE} was written, and read back it has no alpha")
        if _has_loader(self.pipe, self.network):
            read = type(self.pipe).lora_state_dict(str(folder), weight_name=FILE)
            found = read[0] if isinstance(read, tuple) else read
            compare_tensors(folder / FILE, found, self._saved())

    def _facts(self) -> str:
        """What fixes the adapter besides its matrices."""
        # Older and newer versions of peft know these three.
        config = {"r": self.rank, "lora_alpha": self.alpha, "target_modules": self.target_modules}
        return json.dumps(
            {f"{self.part}.{key}": value for key, value in config.items()}, sort_keys=True
        )

    def _saved(self) -> dict[str, Tensor]:
        """The matrices as they are saved."""
        return {
            f"{self.part}.{name}": tensor.detach().float().cpu().contiguous()
            for name, tensor in self._tensors.items()
        }

    def __enter__(self) -> Self:
        flags = freeze(self.pipe)
        try:
            self._insert()
        except BaseException:
            unfreeze(flags)
            raise
        self._flags = flags
        for module, layer in self._layers().items():
            for matrix in ("lora_A", "lora_B"):
                made = getattr(layer, matrix)[self.name]
                # Half precision would lose the small steps of an optimiser; peft casts between the
                # two.
                precise = made.weight.detach().to(
                    torch.promote_types(torch.float32, made.weight.dtype), copy=True
                )
                made.weight = self._tensors.setdefault(
                    f"{module}.{matrix}.weight", nn.Parameter(precise)
                )
                made.weight.data = made.weight.data.to(precise.device)
        self._activate(True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._flags is not None
        self._activate(False)  # before deleting it: peft would choose another adapter to follow it
        _delete(self.network, self.name)
        for name, layer in _adapted(self.network).items():
            if name not in self._wrapped:  # peft leaves its wrappers
                self.network.set_submodule(name, layer.get_base_layer())
        unfreeze(self._flags)
        self._flags = None
        for parameter in self._tensors.values():
            parameter.requires_grad_()

    def _insert(self) -> None:
        """Make the adapter's layers, with values from the seed."""
        from peft import LoraConfig

        layers = _adapted(self.network)
        if self.name in getattr(self.network, "peft_config", {}):
            raise InvalidInputError(
                f"the pipeline has an adapter {self.name!r} already; choose another name, or "
                f"delete that one"
            )
        if any(layer.merged or layer.disable_adapters for layer in layers.values()):
            raise InvalidInputError(
                "the pipeline has adapters that are fused or switched off, and would switch this "
                "one off too; call pipe.unfuse_lora() or pipe.enable_lora(), or unload them"
            )
        self._wrapped = set(layers)
        self._active = list(next(iter(layers.values())).active_adapters) if layers else []
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=self.target_modules)  # pyright: ignore[reportArgumentType]
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Already found a `peft_config`"
            )  # adapters side by side are meant
            torch.default_generator.manual_seed(self._seed)  # peft makes them on the CPU
            _add(self.network, config, self.name)

    def _layers(self) -> dict[str, Any]:
        """Those that have this adapter, in the model's order."""
        return {
            name: layer
            for name, layer in _adapted(self.network).items()
            if self.name in layer.lora_A
        }

    def _activate(self, on: bool) -> None:
        if self._flags is None:  # outside of the context there is nothing to switch
            return
        names = [*self._active, self.name] if on else self._active
        for layer in _adapted(self.network).values():
            layer.set_adapter(names)
        for parameter in parameters(self.pipe):  # peft lets every active adapter require grad
            parameter.requires_grad_(False)
        for parameter in self._tensors.values():
            parameter.requires_grad_(on)
        self._on = on


def _has_loader(pipe: Any, network: Any) -> bool:
    """Whether the pipeline's own loader takes adapters; UNet3DConditionModel has none behind it."""
    loads = hasattr(pipe, "load_lora_weights") and hasattr(type(pipe), "lora_state_dict")
    return loads and hasattr(network, "load_lora_adapter")


def _add(network: Any, config: Any, name: str) -> None:
    if hasattr(network, "add_adapter"):
        network.add_adapter(config, name)
        return
    from peft import inject_adapter_in_model  # what diffusers has not prepared for adapters

    inject_adapter_in_model(config, network, adapter_name=name)


def _delete(network: Any, name: str) -> None:
    if hasattr(network, "delete_adapters"):
        network.delete_adapters(name)
        return
    for layer in _adapted(network).values():
        layer.delete_adapter(name)
    getattr(network, "peft_config", {}).pop(name, None)
    if not getattr(network, "peft_config", None):
        vars(network).pop("peft_config", None)


def _adapted(network: nn.Module) -> dict[str, Any]:
    """The layers that peft has wrapped, by the names of what they wrap."""
    from peft.tuners.tuners_utils import (
        BaseTunerLayer,
    )  # in functions only: importing peft takes longer than all of this package

    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


def _check_targets(network: nn.Module, targets: Sequence[str]) -> None:
    plain = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    names = [name.removesuffix(".base_layer") for name in plain if ".lora_" not in name]
    missing = [
        target
        for target in targets
        if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if missing or not targets:
        endings = sorted({_ending(name) for name in names})
        raise InvalidInputError(
            f"no layer is called {', '.join(map(repr, missing)) or 'nothing'}; those that exist "
            f"end in {', '.join(endings)}"
        )


def _ending(name: str) -> str:
    """The shortest end of a layer's name that begins with a word, as "to_out.0"."""
    parts = name.split(".")
    start = max((i for i, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[start:])


def _product_square(
    a: Float[Tensor, "rank *inputs"], b: Float[Tensor, "out rank *ones"]
) -> Float[Tensor, ""]:
    """‖B A‖², from two rank × rank products; the full one would be as large as the weight."""
    a, b = a.flatten(1), b.flatten(1)
    return ((a @ a.T) * (b.T @ b)).sum()
