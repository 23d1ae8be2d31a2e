"""A recogniser as guard: what a task may not lose on its way to a better metric.

It is the model itself where a single picture is wanted and it can be asked, else the judge, where
one knows the prompts, else the resemblance to untouched pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from adjointdpm.metrics import score
from adjointdpm.metrics.lost_subject import LostSubject, stills
from adjointdpm.metrics.picture_resemblance import PictureResemblance
from adjointdpm.metrics.subject_recognition import Recogniser, SubjectJudge
from adjointdpm.optimization.guard import LOOKS, Guard
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.variables import Example

_SUBJECTS_LOST = 0.10  # the share that may be lost
_WAY_BACK = 5  # looks at pictures that are lost, after which a run goes back
#: The same of many prompts, where pictures are compared with untouched ones: some that show their
#: subject still are unlike those. As long as no more than this are, a judge finds next to all.
UNLIKE = 0.20


def judge_guard(
    recognise: Recogniser,
    pictures: int,
    *,
    bound: float | None = None,
    share: float = _SUBJECTS_LOST,
    looks: int | None = LOOKS,
    clearly: bool = False,
) -> Guard:
    """A guard that counts the subjects which a recogniser no longer finds.

    Where a strength is chosen, subjects that are no longer clear count as half lost. Lost ones are
    too rare among some 20 pictures to tell strengths apart, and subjects become unclear first.

    Args:
        recognise: the judge, or another.
        pictures: on how many it is asked.
        bound: the share that may be lost; None: the one below, or one picture of few, and none of
            one; no more than that share where a strength is chosen, if one keeps to that.
        share: what may be lost of many.
        looks: see `Guard`.
        clearly: for the very pictures that are wanted. One that is moved until it just passes would
            be what a person no longer recognises. So a subject that is no longer clear counts as
            half lost everywhere, and the loop goes back from where nothing is found.

    """
    aim = None
    if bound is None:
        bound = max(share, 1 / pictures) if pictures > 1 else 0.0
        aim = min(bound, share)
    known = isinstance(recognise, SubjectJudge | PictureResemblance)
    finer = LostSubject(recognise, recognise.clearly() if known else None)
    if not clearly:
        return Guard(LostSubject(recognise), bound, looks, None, aim, finer)
    return Guard(finer, bound, looks, None, aim, finer, _WAY_BACK)


def resemblance(render: Renderer, examples: Sequence[Example]) -> PictureResemblance | None:
    """A recogniser for examples that no judge knows; None if they are all of one prompt.

    Args:
        render: draws the untouched pictures.
        examples: all that it will be asked for.

    """
    if len({example.prompt for example in examples}) < 2:
        return None
    return PictureResemblance.to(
        stills(render.look(examples)), [example.prompt for example in examples]
    )


@dataclass(frozen=True)
class ContentCheck:
    """Tells what is lost in pictures, beside untouched ones that are drawn with as many steps.

    Args:
        judge: who knows all prompts; None: pictures are compared with untouched ones.

    """

    judge: Recogniser | None = None

    def keeps(self, images: Tensor, untouched: Tensor, prompts: Sequence[str]) -> bool:
        """Whether a few pictures show what the untouched ones do; True if nobody can tell.

        Args:
            images: with something in place.
            untouched: pictures of the untouched model.
            prompts: of both.

        """
        return self.lost(images, untouched, prompts) <= self.spare(len(prompts))

    def spare(self, count: int) -> int:
        """How many of so many pictures may be lost.

        The judge must find as many subjects. Of pictures that are compared with untouched ones, one
        or a fifth may be unlike.
        """
        return 0 if self.judge else max(1, int(UNLIKE * count))

    def lost(self, images: Tensor, untouched: Tensor, prompts: Sequence[str]) -> int:
        """How many more pictures than of the untouched ones do not show what they should.

        Of one prompt alone nobody can tell: then it is 0.
        """
        if (recognise := self._recogniser(untouched, prompts)) is None:
            return 0
        pair = (stills(images), stills(untouched))
        lost, before = (sum(not k for k in recognise(x, prompts)) for x in pair)
        return lost - before

    def guard(self, untouched: Tensor, prompts: Sequence[str], count: int) -> Guard | None:
        """What guards a token, which starts at a word that may lose subjects.

        None: nobody can tell, of one prompt alone.

        Args:
            untouched: pictures of the untouched model.
            prompts: theirs.
            count: the first so many are those that are looked at.

        """
        if (recognise := self._recogniser(untouched, prompts)) is None:
            return None
        guard = judge_guard(recognise, count, looks=None)
        return told_of_untouched(guard, untouched[:count], prompts[:count])

    def _recogniser(self, untouched: Tensor, prompts: Sequence[str]) -> Recogniser | None:
        return self.judge or PictureResemblance.to(stills(untouched), prompts)


def told_of_untouched(guard: Guard, untouched: Tensor, prompts: Sequence[str]) -> Guard:
    """The same, told of the untouched model's pictures."""
    return replace(guard, untouched=score(guard.metric, untouched, prompts).mean().item())
