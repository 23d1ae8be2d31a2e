"""Learned noise: whose it is, the sets that it stays in, what says that it is natural, and its
file.
"""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from adjointdpm import errors
from adjointdpm.engine.seeded_noise import standard_normal
from adjointdpm.pipelines import from_pipeline
from adjointdpm.variables import Example, Inputs, Noise
from helpers.tiny_pipelines import stock, tiny_pipeline

EXAMPLES = [Example("red fox", 0), Example("red fox", 1), Example("owl", 1)]
SHAPE = (4, 8, 8)


def natural(count: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> torch.Tensor:
    return standard_normal(torch.empty(count, *shape), seed, stream=0)


def moved(variable: Noise, size: float = 3.0) -> Noise:
    with torch.no_grad():
        variable.noise.add_(
            size * natural(len(variable.noise), tuple(variable.noise.shape[1:]), seed=9)
        )
    return variable


def test_each_example_gets_its_own_noise_in_any_order_and_batch() -> None:
    variable = moved(Noise(EXAMPLES, natural(3)))
    order = [2, 0, 2]
    inputs = Inputs(
        [EXAMPLES[i] for i in order],
        [EXAMPLES[i].prompt for i in order],
        torch.zeros(3, *SHAPE, dtype=torch.float64),
    )
    given = variable.apply(inputs)
    assert given.noise.dtype == torch.float64
    assert torch.equal(given.noise, variable.noise[order].double())
    (gradient,) = torch.autograd.grad(given.noise.sum(), variable.noise)
    assert gradient.flatten(1).mean(1).tolist() == [1, 0, 2]
    assert given.prompts == inputs.prompts


def test_an_example_without_noise_is_refused() -> None:
    variable = Noise(EXAMPLES, natural(3))
    with pytest.raises(errors.InvalidInputError, match="'owl' with seed 7"):
        variable.apply(
            Inputs([EXAMPLES[0], Example("owl", 7)], ["red fox", "owl"], torch.zeros(2, *SHAPE))
        )


def test_the_start_that_was_passed_is_not_changed() -> None:
    start = natural(3)
    variable = Noise(EXAMPLES, start)
    moved(variable)
    assert torch.equal(start, natural(3))
    assert torch.equal(variable.start, start)


def test_the_shell_keeps_every_norm_and_direction() -> None:
    variable = moved(Noise(EXAMPLES, natural(3), within="shell"))
    direction = torch.nn.functional.normalize(variable.noise.detach().flatten(1), dim=1)
    variable.project()
    norms = variable.noise.detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, variable.start.flatten(1).norm(dim=1))
    torch.testing.assert_close(variable.noise.detach().flatten(1) / norms[:, None], direction)


def energies(noise: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Energy of the frequencies from `low` to `high` cycles per picture, from their waves."""
    height, width = noise.shape[-2:]
    y, x = torch.arange(height) / height, torch.arange(width) / width
    total = torch.zeros(len(noise), dtype=torch.float64)
    for u in range(-((height - 1) // 2), height // 2 + 1):
        for v in range(-((width - 1) // 2), width // 2 + 1):
            if low <= max(abs(u), abs(v)) <= high:
                angle = 2 * math.pi * (u * y[:, None] + v * x[None, :]).double()
                parts = [(noise * wave).sum((-2, -1)) for wave in (angle.cos(), angle.sin())]
                total += sum(p.square().flatten(1).sum(1) for p in parts) / (height * width)
    return total


@pytest.mark.parametrize("shape", [(4, 8, 8), (2, 3, 9, 6)])
def test_the_spectrum_keeps_the_energy_of_every_octave_but_bounds_the_lowest(shape) -> None:
    start = natural(3, shape)
    variable = Noise(EXAMPLES, start, within="spectrum")
    variable.project()
    torch.testing.assert_close(variable.noise.detach(), start)  # natural noise is there already
    moved(variable)
    with torch.no_grad():
        variable.noise.add_(2)
    free = variable.noise.detach().clone()
    variable.project()
    noise, highest = variable.noise.detach().clone().double(), max(shape[-2:]) // 2
    for low, high in ((2, 2), (3, 4), (5, 8)):
        if low <= highest:
            expected = energies(start.double(), low, high)
            torch.testing.assert_close(energies(noise, low, high), expected, rtol=1e-5, atol=1e-5)
    channels = math.prod(shape[:-2])
    bound = torch.full((3,), 9.0 * 9 * channels, dtype=torch.float64)  # nine waves, three times
    torch.testing.assert_close(energies(noise, 0, 1), bound, rtol=1e-5, atol=0)
    assert (energies(free.double(), 0, 1) > bound).all()
    variable.project()
    torch.testing.assert_close(variable.noise.detach().double(), noise, rtol=1e-5, atol=1e-5)


def test_the_spectrum_of_unusual_noise_keeps_what_it_started_with() -> None:
    shapes = [(7, 5), (6,)]
    for shape in shapes:
        spectrum, shell = (
            moved(Noise(EXAMPLES, natural(3, shape), within)) for within in ("spectrum", "shell")
        )
        spectrum.project()
        shell.project()
        assert torch.equal(spectrum.noise, shell.noise)
    inverted = Noise(EXAMPLES, natural(3) + 5, "spectrum")  # further than the bound already
    inverted.project()
    torch.testing.assert_close(inverted.noise.detach(), inverted.start)
    zeros = Noise(EXAMPLES, torch.zeros(3, *SHAPE), "spectrum")
    zeros.project()
    assert not zeros.noise.isnan().any()


def test_linf_and_l2_bound_the_change_and_leave_small_ones() -> None:
    for within, most in (
        ("linf", lambda change: change.abs().amax(1)),
        ("l2", lambda change: change.square().mean(1).sqrt()),
    ):
        variable = moved(Noise(EXAMPLES, natural(3), within, budget=0.5))
        direction = (variable.noise - variable.start).detach().flatten(1)
        variable.project()
        change = (variable.noise - variable.start).detach().flatten(1)
        torch.testing.assert_close(most(change), torch.full((3,), 0.5), atol=1e-6, rtol=0)
        if within == "l2":
            torch.testing.assert_close(
                torch.nn.functional.cosine_similarity(change, direction), torch.ones(3)
            )
        else:
            torch.testing.assert_close(change, direction.clamp(-0.5, 0.5), atol=1e-6, rtol=0)
        small = moved(Noise(EXAMPLES, natural(3), within, budget=0.5), size=0.01)
        before = small.noise.detach().clone()
        small.project()
        torch.testing.assert_close(small.noise.detach(), before)


def test_free_noise_is_free() -> None:
    variable = moved(Noise(EXAMPLES, natural(3), "free"))
    before = variable.noise.detach().clone()
    variable.project()
    assert torch.equal(variable.noise, before)


def test_an_unmoved_start_stays_exactly_where_it_is() -> None:
    for within, budget in (("linf", 0.1), ("l2", 0.1), ("free", None)):
        variable = Noise(EXAMPLES, natural(3), within, budget)
        variable.project()
        assert torch.equal(variable.noise, variable.start)
    zeros = Noise(EXAMPLES, torch.zeros(3, *SHAPE), "shell")
    zeros.project()
    assert not zeros.noise.isnan().any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"within": "linf"}, "needs a budget"),
        ({"within": "l2", "budget": 0}, "with 0 nothing"),
        ({"within": "l2", "budget": -1.0}, "positive"),
        ({"within": "linf", "budget": math.inf}, "finite"),
        ({"within": "linf", "budget": math.nan}, "finite"),
        ({"within": "free", "budget": 1.0}, "no use"),
        ({"budget": 1.0}, "no use"),
        ({"within": "ball"}, "choose one of free, shell, spectrum, linf, l2"),
        ({"examples": EXAMPLES[:2]}, r"2 examples need \[2"),
        ({"examples": [*EXAMPLES[:2], EXAMPLES[0]]}, "'red fox', 0.* twice"),
        ({"examples": []}, "none"),
        ({"start": torch.full((3, *SHAPE), math.nan)}, "NaN"),
        ({"start": torch.zeros(3)}, "shape"),
    ],
)
def test_bad_arguments_are_refused(change: dict, message: str) -> None:
    with pytest.raises(errors.InvalidInputError, match=message):
        Noise(**{"examples": EXAMPLES, "start": natural(3), **change})


def test_start_must_be_floating_point() -> None:
    with pytest.raises(errors.InvalidTypeError, match="floating point"):
        Noise(EXAMPLES, torch.ones(3, *SHAPE, dtype=torch.int64))


def test_natural_noise_has_the_naturalness_that_is_documented() -> None:
    count, d = 64, math.prod(SHAPE)
    variable = Noise([Example("a", i) for i in range(count)], natural(count))
    rows = variable.naturalness()
    values = {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}
    for key, mean, spread in (
        ("norm_ratio", 1, 1 / math.sqrt(2 * d)),
        ("kurtosis", 3, math.sqrt(24 / d)),
        ("autocorrelation_horizontal", 0, 1 / math.sqrt(4 * 8 * 7)),
        ("autocorrelation_vertical", 0, 1 / math.sqrt(4 * 8 * 7)),
    ):
        assert abs(values[key].mean().item() - mean) < 5 * spread / math.sqrt(count), key
        assert 0.7 * spread < values[key].std().item() < 1.3 * spread, key
    assert not values["rms_change"].any()
    assert not values["max_change"].any()


def test_naturalness_shows_what_is_not_natural() -> None:
    start = natural(2)
    stripes = torch.ones(8).cumsum(0).remainder(2).mul(2).sub(1)  # -1 and 1 in turns
    across = Noise(EXAMPLES[:2], start, "free")
    with torch.no_grad():
        across.noise[0] += 2 * stripes
        across.noise[1] += 2 * stripes[:, None]
    first, second = across.naturalness()
    assert first["autocorrelation_horizontal"] < -0.6 < 0.6 < first["autocorrelation_vertical"]
    assert second["autocorrelation_vertical"] < -0.6 < 0.6 < second["autocorrelation_horizontal"]
    assert first["norm_ratio"] == pytest.approx(math.sqrt(5), rel=0.1)
    assert first["rms_change"] == pytest.approx(2)
    assert first["max_change"] == pytest.approx(2)
    assert Noise(EXAMPLES[:1], torch.zeros(1, *SHAPE)).naturalness()[0]["norm_ratio"] < 1e-5
    assert (
        Noise(EXAMPLES[:1], natural(1, (4, 1, 1))).naturalness()[0]["autocorrelation_vertical"] == 0
    )


def test_the_likelihood_is_one_for_natural_noise_and_grows_off_it() -> None:
    count, (channels, *size), d = 400, SHAPE, math.prod(SHAPE)
    examples = [Example("a", i) for i in range(count)]
    start = natural(count)
    assert Noise(examples, start).regularisers()["likelihood"].item() == pytest.approx(1, abs=0.15)

    def likelihood(noise: torch.Tensor) -> float:
        return Noise(examples[: len(noise)], noise).regularisers()["likelihood"].item()

    # Noise whose norm and means are exactly those of the distribution has none; then each deviation
    # alone, by the formula.
    z = start[:1] - start[:1].mean((2, 3), keepdim=True)
    z = z * math.sqrt(d) / z.norm()
    assert likelihood(z) == pytest.approx(0, abs=1e-6)
    assert likelihood(1.2 * z) == pytest.approx(
        (1.2**2 - 1) ** 2 * d / 2 / (1 + channels), rel=1e-4
    )
    shift = torch.zeros_like(z)
    shift[:, 0] = 0.5
    expected = (0.25 / channels) ** 2 * d / 2 + 0.25 * math.prod(size)
    assert likelihood(z + shift) == pytest.approx(expected / (1 + channels), rel=1e-4)


def test_what_is_saved_draws_the_same_picture_in_stock_diffusers(tmp_path) -> None:
    pipe = tiny_pipeline(tmp_path)
    model = from_pipeline(pipe)
    start = torch.cat([model.noise(1, e.seed) for e in EXAMPLES])
    variable = moved(Noise(EXAMPLES, start, "l2", budget=0.2))
    variable.project()
    with torch.no_grad():
        inputs = variable.apply(Inputs(EXAMPLES, [e.prompt for e in EXAMPLES], start))
        mine = model.generate(
            list(inputs.prompts), inputs.noise, steps=2, guidance_scale=3.0
        ).clamp(0, 1)
    path = variable.save(tmp_path)
    examples, noise, first, facts = Noise.read(path)
    assert path.name == "noise.safetensors"
    assert examples == EXAMPLES
    assert facts == {"within": "l2", "budget": 0.2}
    assert torch.equal(first, start)
    with torch.no_grad():
        theirs = stock(
            pipe,
            [e.prompt for e in examples],
            latents=noise,
            num_inference_steps=2,
            guidance_scale=3.0,
        )
    torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=0)


def test_files_that_are_damaged_or_something_else_are_named(tmp_path) -> None:
    path = Noise(EXAMPLES, natural(3)).save(tmp_path)
    content = path.read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[:-100])
    (tmp_path / "text.safetensors").write_text("noise")
    (tmp_path / "names.safetensors").write_bytes(content.replace(b"red fox", b"red f\\x"))
    save_file({"noise": natural(3)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    save_file({"noise": natural(3)}, tmp_path / "bare.safetensors")
    facts = {"format": "adjointdpm-noise", "examples": [], "within": "shell", "budget": None}
    metadata = {"facts": json.dumps(facts)}
    save_file(
        {"noise": natural(3), "start": natural(3)},
        tmp_path / "counts.safetensors",
        metadata=metadata,
    )
    save_file({"noise": natural(3)}, tmp_path / "half.safetensors", metadata=metadata)
    for name in ("missing", "short", "text", "names", "other", "bare", "counts", "half"):
        with pytest.raises(errors.CheckpointError, match=f"{name}.safetensors"):
            Noise.read(tmp_path / f"{name}.safetensors")


def test_the_norm_term_is_that_of_the_density_of_natural_norms() -> None:
    start = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    noise = Noise([Example("a", i) for i in range(3)], start, within="free")
    term = noise.regularisers()["norm"]
    norms = start.flatten(1).norm(dim=1).double()
    chi = torch.distributions.Chi2(torch.tensor(100.0, dtype=torch.float64))
    # The norm's density, from that of its square: p(n) = 2 n p(n²).
    densities = -(chi.log_prob(norms**2) + (2 * norms).log())
    shift = (densities - (norms**2 / 2 - 99 * norms.log()))[0]
    assert term.item() == pytest.approx((densities.mean() - shift).item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(term, noise.noise)
    expected = (start * (1 - 99 / norms.float().view(3, 1, 1, 1) ** 2)) / 3
    assert torch.allclose(gradient, expected, atol=1e-5)
