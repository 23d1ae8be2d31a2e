"""The bundled judge against figures that its documentation promises."""

import pytest

from adjointdpm.metrics.networks.judge import Judge
from training.judge_figures import on_real
from training.stylised import FOLDER

PAINTED = FOLDER / "held_out.npz"


@pytest.mark.skipif(not PAINTED.exists(), reason="python -m training.stylised --test has not run")
def test_the_judge_reads_styles_that_it_never_saw_and_nothing_into_shuffled_patches():
    found = on_real(Judge.load(), PAINTED)
    assert found["plain"]["concept_top5"] == 1
    assert found["full"]["concept_top5"] >= 0.95
    assert found["weak"]["concept_top5"] >= 0.98
    assert found["full, patches shuffled"]["concept_top5"] < 0.15
