"""What the tests of audits share: two prompts, a classifier of a user's own, and stored facts."""

PROMPTS = ["a noto emoji of a lion", "a twemoji emoji of a tiger"]
VICTIM = """
import torch
class Net(torch.nn.Module):
    classes = ["lion", "lemon"]
    def forward(self, images):
        blue = images[:, 2].mean((1, 2)) - images[:, 0].mean((1, 2))
        return torch.stack([THRESHOLD - blue, blue - THRESHOLD], 1) * 20
def build():
    return Net()
"""
FACTS = {
    "model": "tiny",
    "victim": "open-nsfw",
    "target": None,
    "prompts": ["a"],
    "steps": 3,
    "guidance_scale": None,
    "sampler": None,
}
