"""Values that have gone wrong somewhere before, as a user would type them."""

INTEGERS = ["0", "-1", "1", "2", "3", "010", "1_0", "2.0", str(10**7), str(10**9), str(2**31)]
INTEGERS += [str(2**63), str(2**64), str(10**30), "1" * 5000, "1e3", "1.5", "", "nan", "١", "yes"]
NUMBERS = ["0", "-0.0", "-1", "0.5", "1", "1e-30", "1e-320", "1e30", "1e308", "1e400", "nan", "inf"]
NUMBERS += ["-inf", "1,5", "", "1.5.2", "5", "0x1p3", "1_000.5", "true"]
TEXTS = ["", " ", "\udcff", "\x1b[31mred", "a\nb", "日本", "😀" * 60, "a" * 300, "a" * 5000, "{"]
TEXTS += ["none", "null", "true", "~", "-1", "--help", "{prompt}", "{0}", "{prompt.x}", "%s", ":"]
TEXTS += ["=", "x=", "=x", "a:b:c", "C:\\x\\m.py:score", "\u202e", "\x7f", "a\rb", "../x", "'", '"']
PATHS = ["missing", "", ".", "full", "fifo", "loop", "/dev/zero", "/dev/null", "/proc/self/mem"]
PATHS += ["binary", "prompts.txt/x", "x/" * 2000, "y" * 300, "o\udcff/x", "model", "prompts.txt"]
PATHS += ["-", "~nobody/x", "a\nb", "\x1b[2J", "/dev/full", "style.png", "metric.py", "/proc/1/x"]
MODELS = ["tiny", "missing", "", "prompts.txt", "fifo", "nobody/nothing", "a/b/c", "https://x.y/z"]
MODELS += ["model/unet", "full", "loop", "\udcff", "model/", "tiny ", "x" * 300]
DEVICES = ["meta", "cuda", "cuda:99", "cpu:0", "cpu:1", "mps", "xla", "", "privateuseone", "hpu"]
DEVICES += ["lazy", "vulkan", "ipu", "mkldnn", "CPU", "cpu ", "fpga", "maia", "mtia", "\udcff"]
DTYPES = ["float16", "bfloat16", "float64", "int8", "complex64", "float8_e4m3fn", "", "half"]
METRICS = ["metric.py:score", "metric.py", "metric.py:", "metric.py:nothing", "fifo:score"]
METRICS += ["color:mood=dusk", "color", "color:mood=", "color:mood=dusk,mood=dusk", "color:=x", "x"]
METRICS += ["gram:picture=style.png", "prompts.txt:score", "full:score", "style.png:x", ":score"]
METRICS += [
    "text:text=fox",
    "classifier",
    "judge",
    "open-nsfw",
    "clip",
    "/dev/zero:score",
    "loop:x",
]
VICTIMS = ["victim.py:build", "victim.py:Net", "metric.py:score", "judge", "open-nsfw:threshold=2"]
VICTIMS += ["open-nsfw:threshold=nan", "efficientnet-lite0:x=1", "", "victim.py", "nobody"]
GRADIENTS = ["exact", "adjoint", "auto", "backprop", "truncated:last=1", "truncated:last=0"]
GRADIENTS += [
    "truncated:last=99",
    "truncated:last=-1",
    "interpolated:vjps=1",
    "interpolated:vjps=0",
]
GRADIENTS += [
    "interpolated",
    "reversible",
    "exact:",
    "exact:memory_budget=-1",
    "auto:tolerance=nan",
]
GRADIENTS += ["auto:tolerance=1e400", "adjoint:steps=1000000000", "adjoint:states=x", "truncated"]
GRADIENTS += ["truncated:last=1,last=2", "checkpoint:memory_budget=1e30", "exact:memory_budget=0"]
SAMPLERS = ["euler", "heun", "ancestral", "ancestral:eta=nan", "ancestral:seed=-1", "dpm", "none"]
SAMPLERS += ["ancestral:eta=2", "adams_bashforth:order=99", "adams-bashforth:order=0", "", "euler:"]
SAMPLERS += [f"ancestral:seed={10**30}", "dpm-solver-pp:order=9", "reversible-euler", "Euler"]
ARGUMENTS = ["height=0", "height=-8", "height=17", f"height={10**9}", "height=abc", "height=null"]
ARGUMENTS += ["width=1.5", "num_images_per_prompt=2", "num_images_per_prompt=0", "eta=nan", "eta=2"]
ARGUMENTS += ["guidance_rescale=inf", "negative_prompt=", "negative_prompt=blue", "prompt=x", "x=1"]
ARGUMENTS += ["generator=1", "timesteps=[1]", "timesteps=[]", "sigmas=[nan]", "clip_skip=1"]
ARGUMENTS += ["clip_skip=99", "clip_skip=-1", "output_type=pil", "return_dict=false", "latents=1"]
ARGUMENTS += [
    "callback_on_step_end=x",
    "cross_attention_kwargs={}",
    "cross_attention_kwargs={a: 1}",
]
ARGUMENTS += [
    "prompt_embeds=[1]",
    "num_inference_steps=3",
    "guidance_scale=3",
    "height",
    "=",
    "a=b=c",
]
ARGUMENTS += [
    "height=[",
    "height=!!python/object:os.system",
    "ip_adapter_image=style.png",
    "height=",
]

_BY_NAME = {
    "model": MODELS,
    "device": DEVICES,
    "reward_device": DEVICES,
    "dtype": DTYPES,
    "reward_dtype": DTYPES,
    "metric": METRICS,
    "guard": METRICS,
    "victim": VICTIMS,
    "transfer": VICTIMS,
    "gradient": GRADIENTS,
    "sampler": SAMPLERS,
    "pipeline_arg": ARGUMENTS,
    "lr_schedule": ["linear", "constant", "cosine", "x", ""],
    "optimizer": ["adam", "sgd", "normalized", "lion", "prodigy", "x", "adam:x=1", "adam:betas=x"],
    "within": ["spectrum", "shell", "l2", "linf", "free", "x", ""],
    "learn": ["noise", "embedding", "both", "x"],
    "preset": ["reno", "x", ""],
    "tracker": ["none", "tensorboard", "wandb", "x", "", "json"],
    "strength": ["auto", "0", "2", "3", "nan", "x", "-1"],
    "target": ["owl", "fox", "any", "x", ""],
    "budget": [*NUMBERS, "0.2", "0.2000000001"],
    "prompts": ["prompts.txt", *PATHS],
    "held_out": ["foxes.txt", *PATHS],
    "variant": ["fp16", "", "x", "../x", "\udcff"],
    "target_module": ["to_q", "conv1", "x", "", "*", "("],
}
#: By what occurs in the name of a flag's type.
_BY_TYPE = {"int": INTEGERS, "float": NUMBERS, "Path": PATHS}


def values(name: str, kind: str) -> list[str]:
    """What to try for a flag.

    Args:
        name: of the flag, with underscores.
        kind: the name of its type.

    """
    if name in _BY_NAME:
        return _BY_NAME[name] + TEXTS[:4]
    known = [found for word, found in _BY_TYPE.items() if word in kind]
    return known[0] if known else TEXTS + PATHS[:8]
