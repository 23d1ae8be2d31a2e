"""A recogniser as guard: what a task may not lose on its way to a better metric.

It is the judge, where one knows the prompts, else the resemblance to untouched pictures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from adjointdpm.metrics.lost_subject import LostSubject, stills
from adjointdpm.metrics.picture_resemblance import PictureResemblance
from adjointdpm.metrics.subject_recognition import Recogniser, SubjectJudge
from adjointdpm.optimization.guard import LOOKS, Guard
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.variables import Example

_SUBJECTS_LOST = 0.10  # the share that may be lost
# The same, where pictures are compared with untouched ones: some that show their subject still are
# unlike those. As long as no more than this are, a judge finds next to all subjects.
_UNLIKE = 0.20


def judge_guard(
    recognise: Recogniser,
    pictures: int,
    *,
    bound: float | None = None,
    looks: int | None = LOOKS,
    untouched: float | None = None,
    clearly: bool = False,
) -> Guard:
    """A guard that counts the subjects which a recogniser no longer finds.

    Where a strength is chosen, subjects that are no longer clear count as half lost. Lost ones are
    too rare among some 20 pictures to tell strengths apart, and subjects become unclear first.

    Args:
        recognise: the judge, or another.
        pictures: on how many it is asked.
        bound: the share that may be lost; None: a tenth, or a fifth by the resemblance, or one
            picture of few, and none of one; no more than that share where a strength is chosen, if
            one keeps to that.
        looks, untouched: see `Guard`.
        clearly: whether a subject that the judge no longer takes for the likeliest counts as half
            lost everywhere. One picture that is moved until it just passes would else be what a
            person no longer recognises.

    """
    aim = None
    if bound is None:
        share = _UNLIKE if isinstance(recognise, PictureResemblance) else _SUBJECTS_LOST
        bound = max(share, 1 / pictures) if pictures > 1 else 0.0
        aim = min(bound, share)
    known = isinstance(recognise, SubjectJudge | PictureResemblance)
    finer = LostSubject(recognise, recognise.clearly() if known else None)
    return Guard(finer if clearly else LostSubject(recognise), bound, looks, untouched, aim, finer)


def resemblance(
    render: Renderer, examples: Sequence[Example], steps: Iterable[int] = ()
) -> PictureResemblance | None:
    """A recogniser for examples that no judge knows; None if they are all of one prompt.

    Args:
        render: draws the untouched pictures.
        examples: all that it will be asked for.
        steps: sampler steps of rougher pictures that it will be asked for too.

    """
    if len({example.prompt for example in examples}) < 2:
        return None
    renders = [replace(render, steps=s) for s in {render.steps, *steps} if s <= render.steps]
    images = torch.cat([stills(drawing.look(examples)) for drawing in renders])
    return PictureResemblance.to(images, [e.prompt for e in examples] * len(renders))
