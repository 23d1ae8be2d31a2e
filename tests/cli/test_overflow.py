"""Models that overflow in float16: an error that names the part and what to do, and no picture."""

from pathlib import Path

import pytest
from diffusers import AutoencoderKL

from helpers.commands import SMALL, run


@pytest.fixture
def overflowing(files: Path) -> Path:
    """The model's decoder computes values of about 10^6, which float32 holds."""
    vae = AutoencoderKL.from_pretrained(files / "model" / "vae")
    vae.decoder.conv_in.weight.data.fill_(6e4)
    vae.save_pretrained(files / "model" / "vae")
    return files


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "fox", "--steps", 1, "--batch", 1),
        ("guide", "--prompt", "fox", "--metric", "metric.py:score", *SMALL),
    ],
)
def test_the_decoder_is_named_and_not_the_metric(
    overflowing: Path, command, monkeypatch, capsys
) -> None:
    given = (*command, "--model", "model", "--out", "out", "--device", "cpu")
    code, _, err = run(monkeypatch, capsys, *given, "--dtype", "float16")
    assert code == 2
    assert "in the decoder; it computes in float16" in err
    assert "--dtype bfloat16" in err
    assert "metric" not in err
    assert "Traceback" not in err
    assert not list(Path("out").rglob("*.png"))
