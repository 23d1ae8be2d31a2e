"""What is optimised; a new variable is a file here."""

from adjointdpm.pipelines.examples import Example, Inputs
from adjointdpm.support.argument_types import explain_types
from adjointdpm.variables.base import Variable
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

explain_types(globals(), __all__)
