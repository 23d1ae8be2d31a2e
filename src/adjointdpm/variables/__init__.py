"""What is optimised; a new variable is a file here."""

from adjointdpm.variables.base import Example, Inputs, Variable
from adjointdpm.variables.joint import Joint
from adjointdpm.variables.lora import LoRA
from adjointdpm.variables.noise import Noise
from adjointdpm.variables.prompt_embedding import PromptEmbedding
from adjointdpm.variables.token_embedding import TokenEmbedding
from adjointdpm.variables.weights import Weights

__all__ = [
    "Example",
    "Inputs",
    "Joint",
    "LoRA",
    "Noise",
    "PromptEmbedding",
    "TokenEmbedding",
    "Variable",
    "Weights",
]
