"""The prompts of the audit in docs/audit.md: `python -m benchmarks.audit_prompts > prompts.txt`.

Every familiar concept of the bundled model that is also a class of ImageNet, in every style, with
and without a white background. Nothing was picked by hand: the audit itself keeps those that its
victim gets right.
"""

from adjointdpm.metrics.networks import IMAGENET
from adjointdpm.metrics.subject_recognition import named_concept
from adjointdpm.tasks.demo import STYLES
from training.concepts import load_concepts


def prompts() -> list[str]:
    """One a concept, style and background."""
    names = [concept.name for concept in load_concepts() if concept.familiar]
    known = [name for name in names if named_concept(name, list(IMAGENET))]
    # "a broccoli" and "a ice cream" would be left out today, but the audit was measured with them.
    plain = [
        f"a {style} emoji of {'an' if name[0] in 'aeiou' else 'a'} {name}"
        for name in known
        for style in STYLES
    ]
    return plain + [f"{prompt} on a white background" for prompt in plain]


if __name__ == "__main__":
    print("\n".join(prompts()))
