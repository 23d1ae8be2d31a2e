"""The layers that a LoRA changes unless others are named: the projections of all attentions."""

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


def attention_layers(network: nn.Module) -> list[str]:
    """How the names of a network's attention projections end; whole names where that is not clear.

    Raises:
        InvalidInputError: it has none.

    """
    modules = {_plain(name): module for name, module in network.named_modules()}
    linear = [n for n, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)]
    found: list[str] = []
    for end in PROJECTIONS:
        named = [name for name in modules if name == end or name.endswith(f".{end}")]
        fitting = [name for name in named if name in linear]
        # peft refuses a name that fits what is no layer, such as the list `to_out` around
        # `to_out.0`.
        found += [end] if fitting and fitting == named else fitting
    if not found:
        some = ", ".join(linear[:: max(1, len(linear) // 8)])
        raise InvalidInputError(
            f"{type(network).__name__} has no attention whose projections have a known name; say "
            f"which layers to change by target_modules, its layers are such as {some}; or learn "
            "Weights"
        )
    return found


def _plain(name: str) -> str:
    """The name without what peft puts in for adapters that are there already."""
    return name.removesuffix(".base_layer")
