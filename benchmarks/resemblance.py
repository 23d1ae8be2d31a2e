"""How well the resemblance to untouched pictures stands in for a judge.

`python -m benchmarks.resemblance --page docs/resemblance.md`

Pictures are drawn with existing words in five sentences: in some the words change colours, in
others they chase the subject away. Judge and resemblance are asked for the same pictures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

import adjointdpm
from adjointdpm.metrics.picture_resemblance import PictureResemblance
from adjointdpm.metrics.subject_recognition import recogniser_for
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.tasks.common_words import common_words
from adjointdpm.tasks.config import number
from adjointdpm.variables import Example
from benchmarks.common import (
    Page,
    PageOnly,
    machine,
    publish,
    read_results,
    run,
    table,
    tell,
    write_results,
)
from benchmarks.defaults.cells import prompts

RESULTS = "resemblance"
SENTENCES = (
    "{prompt} on a {token} background",
    "{prompt} in {token} style",
    "{prompt} {token}",
    "{token} {prompt}",
    "{token} {token}, {prompt}",
)
TUNING_WORDS = 24  # the first of the common words: the share that decides was chosen with them
WORDS = 12
STEPS = 10
SEED = 5_000_001
GROUPS = 5  # of eight prompts each


def measure() -> dict[str, Any]:
    """For each sentence and word, what judge and resemblance say of each picture."""
    render = Renderer(adjointdpm.load("tiny"), steps=STEPS)
    every = prompts()
    size = len(every) // GROUPS
    kept: dict[str, Any] = {sentence: {"lost": [], "unlike": []} for sentence in SENTENCES}
    for group in range(GROUPS):
        examples = number(every[group * size : (group + 1) * size], SEED + 100 * group)
        for sentence, verdicts in _verdicts(render, examples).items():
            for name, rows in verdicts.items():
                kept[sentence][name] += rows
        tell(f"{group + 1} of {GROUPS} groups of prompts")
    return {"sentences": kept, "machine": machine()}


def _verdicts(render: Renderer, examples: Sequence[Example]) -> dict[str, dict[str, list[int]]]:
    """By sentence, pictures that are "lost" to the judge and "unlike" their untouched ones."""
    known = [example.prompt for example in examples]
    judge = recogniser_for(known)
    resembles = PictureResemblance.to(render.look(examples), known)
    assert judge is not None
    assert resembles is not None
    words = common_words(render.model.pipe, TUNING_WORDS + WORDS, known)[TUNING_WORDS:]
    found = {}
    for sentence in SENTENCES:
        rows: dict[str, list[int]] = {"lost": [], "unlike": []}
        for word in words:
            written = [
                e._replace(prompt=sentence.format(prompt=e.prompt, token=word)) for e in examples
            ]
            images = render.look(written)
            rows["lost"] += [int(not kept) for kept in judge(images, known)]
            rows["unlike"] += [int(not kept) for kept in resembles(images, known)]
        found[sentence] = rows
    return found


def report(content: Mapping[str, Any]) -> str:
    """The table of `results/resemblance.json`."""
    found = content["sentences"]
    head = ["sentence", "pictures", "the judge misses the subject", "unlike", "both agree"]
    rows = [[f"`{sentence}`", *_shares(v["lost"], v["unlike"])] for sentence, v in found.items()]
    lost = torch.tensor([found[s]["lost"] for s in found])
    unlike = torch.tensor([found[s]["unlike"] for s in found])
    rows.append(["all", *_shares(lost.flatten().tolist(), unlike.flatten().tolist())])
    missed = (1 - unlike)[lost == 1].float().mean().item()
    alarms = unlike[lost == 0].float().mean().item()
    size = len(prompts()) // GROUPS
    by_word = [x.reshape(-1, size).float().mean(1) for x in (lost, unlike)]
    together = torch.corrcoef(torch.stack(by_word))[0, 1].item()
    return (
        f"{table(head, rows)}\n\nOf the pictures whose subject the judge misses, {missed:.0%} "
        f"resemble their untouched ones; of the others {alarms:.0%} do not. The shares that one "
        f"word loses of {size} pictures, by the judge and by the resemblance, correlate with "
        f"{together:.2f}.\n\n{_by_count(by_word, size)}\n\nMeasured on {content['machine']}."
    )


def _by_count(by_word: Sequence[torch.Tensor], size: int) -> str:
    """What the judge misses where a word makes so many pictures unlike."""
    lost, unlike = (shares * size for shares in by_word)
    rows = []
    for count in range(size + 1):
        of_these = lost[unlike.round() == count]
        if len(of_these):
            most = (of_these.round() > 1).float().mean().item()
            share = f"{of_these.mean().item() / size:.0%}"
            rows.append([f"{count} of {size}", str(len(of_these)), share, f"{most:.0%}"])
    return table(
        ["unlike", "words", "the judge misses", f"words that lose more than 1 of {size}"], rows
    )


def _shares(lost: Sequence[int], unlike: Sequence[int]) -> list[str]:
    count = len(lost)
    agree = sum(a == b for a, b in zip(lost, unlike, strict=True))
    return [str(count), *(f"{n / count:.0%}" for n in (sum(lost), sum(unlike), agree))]


def main(*, page: Page = None, page_only: PageOnly = False) -> None:
    """Draw, ask both, and make the page."""
    if not page_only:
        write_results(RESULTS, measure())
    publish(report(read_results(RESULTS)), page)


if __name__ == "__main__":
    run(main)
