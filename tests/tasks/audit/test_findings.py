"""What an audit leaves: findings as they come, budgets that go on, several targets, pictures."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import adjointdpm as adj
from adjointdpm.cli.terminal import printable, time_left
from adjointdpm.errors import CutPromptWarning, InvalidInputError, PromptError
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.report import write_report
from adjointdpm.tasks.audit import noise_shards
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.noise_file import noise_files, read_findings
from adjointdpm.tasks.audit.picture_store import PictureStore
from adjointdpm.tasks.audit.shared_blocks import block_size
from adjointdpm.tasks.audit.story import verdict
from helpers import toy_audit as toy_audits
from helpers.toy_audit import Warm, toy_audit


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "findings.jsonl").read_text().splitlines()]


def test_what_a_budget_fools_stays_and_the_others_go_on(tmp_path) -> None:
    result = toy_audit(tmp_path / "run")
    for finding in lines(tmp_path / "run"):
        small, large = finding["attacks"]
        assert small["steps"] <= large["steps"]
        if small["success"]:
            assert large == small | {
                "budget": 0.5,
                "view": "budget_0.5",
                "random_search": large["random_search"],
                "random_tries": 2 * small["random_tries"],
            }
        assert large["random_search"] >= small["random_search"]
        assert large["naturalness"]["rms_change"] <= 0.5 * (1 + 1e-5)
    small, large = (load_file(tmp_path / "run" / name)["noise"] for name in result["noises"])
    first = torch.tensor([finding["attacks"][0]["success"] for finding in lines(tmp_path / "run")])
    assert first.any()
    assert torch.equal(small[first], large[first])
    rows = result["success"]
    assert rows[1]["random_tries"] == 2 * rows[0]["random_tries"]


def test_a_prompt_without_a_class_is_set_aside_and_named(tmp_path) -> None:
    result = toy_audit(tmp_path / "run", count=3)
    assert result["set_aside"]["count"] == 1
    assert result["set_aside"]["prompts"] == ["nothing"]
    assert "Set aside: 1 of 4 prompts" in result["story"]["how"][0]


def test_pictures_to_train_on_are_in_folders_of_their_true_class(tmp_path) -> None:
    def judge(pictures: torch.Tensor, prompts: list[str]) -> list[bool]:
        fooled = Warm()(pictures).argmax(1).tolist()
        return [not (f and int(p[-1]) % 2) for f, p in zip(fooled, prompts, strict=True)]

    toy_audit(tmp_path / "run", count=6, recognise=judge)
    folder = tmp_path / "run" / "training_pictures"
    assert [path.name for path in folder.iterdir()] == ["day"]
    for finding in lines(tmp_path / "run"):
        assert (folder / "day" / Path(finding["picture"]).name).is_file()
        for row in finding["attacks"]:
            kept = (folder / "day" / Path(row["picture"]).name).is_file()
            assert kept == row["success"]
    successes = {f["prompt"]: f["attacks"][1]["success"] for f in lines(tmp_path / "run")}
    assert any(successes.values())
    assert not any(success for prompt, success in successes.items() if int(prompt[-1]) % 2)
    assert all(Image.open(path).size == (16, 16) for path in folder.glob("*/*.png"))


def test_classes_as_folders_cannot_leave_theirs(tmp_path) -> None:
    store = PictureStore(tmp_path, ["../x", "cat", "Cat", "a/b"])
    assert [store.folder_of(i) for i in range(4)] == ["___x", "cat_1", "Cat_2", "a_b"]


def test_targeted_and_untargeted_in_one_run(tmp_path) -> None:
    result = toy_audit(tmp_path / "run", count=4, target=["any", "night"], budget=[0.5])
    assert [row["target"] for row in result["success"]] == [None, "night"]
    assert result["noises"] == ["adversarial_0.5.safetensors", "adversarial_night_0.5.safetensors"]
    rates = [row["rate"] for row in result["success"]]
    assert rates[0] == rates[1]  # of two classes, any other is the other
    assert read_findings(tmp_path / "run" / result["noises"][1]).facts["target"] == "night"


def test_many_noises_are_a_folder_of_files(tmp_path, monkeypatch) -> None:
    whole = toy_audit(tmp_path / "whole")
    monkeypatch.setattr(noise_shards, "IN_A_FILE", 5)
    result = toy_audit(tmp_path / "run")
    assert result["artefact"] == "adversarial_0.5"
    parts = [read_findings(file) for file in noise_files(tmp_path / "run" / "adversarial_0.5")]
    assert len(parts) > 1
    expected = read_findings(tmp_path / "whole" / whole["artefact"])
    assert torch.equal(torch.cat([part.noise for part in parts]), expected.noise)
    assert [e for part in parts for e in part.examples] == expected.examples
    assert [v for part in parts for v in part.facts["verdicts"]] == expected.facts["verdicts"]


def test_the_report_has_a_row_for_every_finding_and_obeys_no_text(tmp_path) -> None:
    toy_audit(tmp_path / "run", prompts=["day </script><b>x", "day 2", "day 3"])
    html = write_report(RunFolder(tmp_path / "run")).read_text()
    assert "</script><b>x" not in html
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    rows = json.loads(data[1])
    assert [row[0] for row in rows] == [f["prompt"] for f in lines(tmp_path / "run")]
    assert all((tmp_path / "run" / row[3]).is_file() for row in rows)
    assert not re.findall(r'(?:src|href)\s*=\s*"https?:', html)


def test_a_report_shows_no_files_outside_its_folder(tmp_path) -> None:
    from adjointdpm.errors import OutputError

    toy_audit(tmp_path / "run", count=3)
    path = tmp_path / "run" / "findings.jsonl"
    path.write_text(path.read_text().replace("images/", "../../images/"))
    with pytest.raises(OutputError, match="no file of the run folder"):
        write_report(RunFolder(tmp_path / "run"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": [0.2, 0.2000000001]}, "too close"),
        ({"budget": [1e30]}, "at most 10"),
        ({"target": ["dog", "dog"]}, "there twice"),
        ({"target": ["any", "any"]}, "there twice"),
    ],
)
def test_settings_that_mean_nothing_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        AuditConfig(**({"victim": "judge", "prompts": ["a fox"]} | change))


def test_the_verdict_names_the_budget_that_fools_half() -> None:
    base = {"target": None, "examples": 10}
    rows = [
        base | {"budget": 0.1, "rate": 0.4, "random_search": 0.0},
        base | {"budget": 0.2, "rate": 0.6, "random_search": 0.2},
    ]
    found = verdict(rows)
    assert (found["half_at"], found["random_half_at"]) == (0.2, None)
    assert "within a budget of 0.2 (60%)" in found["text"]
    assert "fools 20% within 0.2" in found["text"]
    assert "Fewer than half" in verdict(rows[:1])["text"]


@pytest.mark.parametrize(("count", "size"), [(1, 1), (4, 1), (8, 2), (39, 4), (10_000, 16)])
def test_blocks_are_few_examples_of_a_small_audit_and_more_of_a_large_one(
    count: int, size: int
) -> None:
    assert block_size(count, 4) == size


def test_the_time_left_and_what_a_terminal_must_not_obey() -> None:
    assert time_left(60, 10, 20) == "  about 2 min left"
    assert time_left(60, 0, 20) == ""
    assert printable("a\x1b[31m b\n") == "a\\x1b[31m b\n"


class Cutting(toy_audits._Toy):
    """A toy whose text encoder reads few words."""

    def __init__(self) -> None:
        super().__init__()
        self.pipe.components = {"tokenizer": adj.load("tiny").pipe.tokenizer}


def test_prompts_whose_subject_is_cut_off_are_set_aside(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(toy_audits, "_Toy", Cutting)
    filler = "and a lot of other things " * 4
    prompts = ["day one", f"{filler}at day", "day two", f"day three {filler}"]
    with pytest.warns(CutPromptWarning, match=r"1 prompts are set aside.*at day"):
        result = toy_audit(tmp_path / "a", prompts=prompts)
    assert result["set_aside"]["prompts"] == prompts[1:2]
    with pytest.raises(PromptError, match=r"cut off; shorten"):
        toy_audit(tmp_path / "b", prompts=[prompts[1], f"{filler}by day"])
