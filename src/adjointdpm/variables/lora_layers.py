"""The layers that a LoRA changes unless others are named: attentions, and what draws textures."""

from collections.abc import Sequence

from torch import nn

from adjointdpm.errors import InvalidInputError

# How the names of these layers end in diffusers' networks. Those of IP-adapters are left out.
PROJECTIONS = (
    *("to_q", "to_k", "to_v", "to_out.0", "to_out"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),  # the text's stream of an MMDiT
    *("to_qkv", "to_kv", "to_added_qkv", "to_added_kv", "to_qkv_mlp_proj"),  # several in one
    *("to_q_t", "to_k_t", "to_v_t", "to_out_t"),  # HiDream's text
    *("to_query", "to_key", "to_value"),  # Kandinsky
    *("query", "key", "value", "proj_attn"),  # UNet1DModel
    *("q_proj", "k_proj", "v_proj", "o_proj", "qkv"),
    *("img_qkv_proj", "txt_kv_proj"),  # PRX
    *("img_attn_qkv", "txt_attn_qkv", "img_attn_proj", "txt_attn_proj"),  # JoyImage
)

# How the names of the layers end that draw textures: the convolutions of residual blocks, and what
# lies around an attention.
TEXTURES = ("conv1", "conv2", "proj_in", "proj_out", "net.0.proj", "net.2")


def attention_layers(network: nn.Module) -> list[str]:
    """How the names of a network's attention projections end; whole names where that is not clear.

    Raises:
        InvalidInputError: it has none.

    """
    found = _ending(network, PROJECTIONS)
    if not found:
        layers = [name for name, module in _modules(network).items() if _is_layer(module)]
        some = ", ".join(layers[:: max(1, len(layers) // 8)])
        raise InvalidInputError(
            f"{type(network).__name__} has no attention whose projections have a known name; say "
            f"which layers to change by target_modules, its layers are such as {some}; or learn "
            "Weights"
        )
    return found


def texture_layers(network: nn.Module) -> list[str]:
    """As `attention_layers`, and the layers that draw textures, as far as there are such."""
    return attention_layers(network) + _ending(network, TEXTURES)


def _ending(network: nn.Module, ends: Sequence[str]) -> list[str]:
    """Those ends that fit layers alone; the whole names of the layers where an end fits others."""
    modules, found = _modules(network), []
    for end in ends:
        named = [name for name in modules if name == end or name.endswith(f".{end}")]
        fitting = [name for name in named if _is_layer(modules[name])]
        # peft refuses a name that fits what is no layer, such as the list `to_out` around
        # `to_out.0`.
        found += [end] if fitting and fitting == named else fitting
    return found


def _modules(network: nn.Module) -> dict[str, nn.Module]:
    return {_plain(name): module for name, module in network.named_modules()}


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def _plain(name: str) -> str:
    """The name without what peft puts in for adapters that are there already."""
    return name.removesuffix(".base_layer")
