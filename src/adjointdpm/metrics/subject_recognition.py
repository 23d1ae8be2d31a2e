"""Whether a picture still shows what its prompt names, by the bundled judge; only prompts that name
one of its concepts can be judged.
"""

import re
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from adjointdpm.metrics.judge import Judge
from adjointdpm.variables import Example

# Pictures and the examples that they were drawn for -> whether each still shows what its prompt
# names.
Recogniser = Callable[[Float[Tensor, "batch 3 height width"], Sequence[Example]], list[bool]]

TOP = 5


def named_concept(prompt: str, concepts: Sequence[str]) -> str | None:
    """The concept that a prompt names in whole words: the longest, and of equals the last; None if
    there is none.
    """
    found = [
        (len(name), match.start(), name)
        for name in concepts
        for match in re.finditer(rf"\b{re.escape(name)}\b", prompt, re.IGNORECASE)
    ]
    return max(found)[2] if found else None


def judge_prompts(judge: Judge, top: int = TOP) -> Recogniser:
    """Whether the concept that a prompt names is among the judge's first `top`."""
    index = {name: i for i, name in enumerate(judge.concepts)}

    def recognise(
        images: Float[Tensor, "batch 3 height width"], examples: Sequence[Example]
    ) -> list[bool]:
        best = judge.concept_logits(images).topk(top).indices.tolist()
        names = [named_concept(example.prompt, judge.concepts) for example in examples]
        return [
            name is not None and index[name] in found
            for name, found in zip(names, best, strict=True)
        ]

    return recognise


def recogniser_for(prompts: Sequence[str]) -> Recogniser | None:
    """The bundled judge if every prompt names something that it knows, else None: it says nothing
    about other pictures.
    """
    judge = Judge.load()
    return (
        judge_prompts(judge)
        if all(named_concept(prompt, judge.concepts) for prompt in prompts)
        else None
    )
