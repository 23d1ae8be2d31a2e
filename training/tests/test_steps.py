"""What the training scripts share."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from training.steps import encode, forget_source, signed, take_step, update_average


def test_pictures_are_signed():
    images = np.array([0, 255, 51], dtype=np.uint8).reshape(1, 1, 1, 3)
    assert signed(images).flatten().tolist() == pytest.approx([-1.0, 1.0, -0.6])


def test_latents_of_many_pictures_are_those_of_each():
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4)
    images = np.random.default_rng(0).integers(0, 256, (130, 4, 4, 3), dtype=np.uint8)
    latents = encode(vae, images)
    assert latents.shape == (130, 4, 4, 4)
    torch.testing.assert_close(
        latents[129:], vae.encode(signed(images[129:])).latent_dist.mean, rtol=1e-4, atol=1e-5
    )
    assert not latents.requires_grad


def test_a_step_goes_down_a_gradient_of_length_one_at_most():
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    take_step(torch.optim.SGD([weight], lr=0.5), 50 * weight.square().sum())
    torch.testing.assert_close(weight.detach(), torch.tensor([2.7, 3.6]))


def test_an_average_forgets_fast_at_first():
    average = [torch.tensor([0.0])]
    update_average(average, [torch.tensor([1.0])], step=0)
    assert average[0].item() == pytest.approx(0.9)
    update_average(average, [torch.tensor([0.0])], step=10**6, decay=0.5)
    assert average[0].item() == pytest.approx(0.45)


def test_a_config_forgets_where_it_was_loaded_from(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"_name_or_path": "/home/somebody", "sample_size": 64}))
    forget_source(config)
    assert json.loads(config.read_text()) == {"sample_size": 64}
