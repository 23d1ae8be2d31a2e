"""Forms: what becomes of the controls' values on the command line."""

import shlex
from dataclasses import fields

import pytest
from PIL import Image

from adjointdpm.app.forms import NEVER, Setting, prompt_lines, settings, words_of
from adjointdpm.app.job_queue import JobQueue
from adjointdpm.app.metric_menu import CLASS, COLOUR, LIKE, MOOD, STYLE, MetricMenu
from adjointdpm.app.offers import Offers
from adjointdpm.app.session import Session
from adjointdpm.errors import InvalidInputError
from adjointdpm.tasks.align import AlignConfig
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.guide_config import GuideConfig

pytest.importorskip("gradio")


def test_a_default_is_no_word():
    some = settings(GuideConfig, "iterations", "lr", "seed", "learn", learn=("noise", "both"))
    assert words_of(some, ["", "", 0, "noise"]) == []
    assert words_of(some, ["5", "0.25", 3, "both"]) == [
        "--iterations=5",
        "--lr=0.25",
        "--seed=3",
        "--learn=both",
    ]


def test_lists_and_switches():
    some = settings(AlignConfig, "full", "rank")
    assert words_of(some, [True, 8]) == ["--full"]
    assert words_of([Setting(GuideConfig, "gradient")], ["exact"]) == ["--gradient=exact"]


def test_several_numbers_are_a_text_with_spaces():
    budgets = Setting(AuditConfig, "budget", label="budgets")
    assert type(budgets.control()).__name__ == "Textbox"
    assert budgets.words(budgets.shown) == []
    assert budgets.words("0.3 0.60") == ["--budget=0.3", "--budget=0.6"]
    with pytest.raises(InvalidInputError, match="a number"):
        budgets.words("0.3, x")


@pytest.mark.parametrize("value", ["1e999", "nan", "two", True, "0x10", []])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(InvalidInputError, match="lr"):
        Setting(GuideConfig, "lr").words(value)
    with pytest.raises(InvalidInputError, match="whole"):
        Setting(GuideConfig, "pictures").words("2.5")


def test_a_menu_takes_nothing_else():
    setting = Setting(GuideConfig, "learn", choices=("noise",))
    with pytest.raises(InvalidInputError, match="one of"):
        setting.words("x.py:steal")


@pytest.mark.parametrize("name", sorted(NEVER & {item.name for item in fields(AlignConfig)}))
def test_settings_that_may_name_files_or_code_are_never_on_the_page(name):
    with pytest.raises(ValueError, match="may not"):
        Setting(AlignConfig, name)


def test_a_text_cannot_become_another_flag():
    (word,) = Setting(GuideConfig, "sampler").words("euler --out=/etc")
    assert word.startswith("--sampler=")
    assert shlex.split(shlex.quote(word)) == [word]


def test_prompts_are_lines_without_comments():
    assert prompt_lines(" a cat \n\n# no\na dog") == ["a cat", "a dog"]


def values(kind, **given):
    usual = {
        "mood": "dusk",
        "color": "#ff0000",
        "picture": None,
        "distance": "l2",
        "network": "judge",
        "wanted": "cat",
    }
    return [kind, *(usual | given).values()]


def test_metrics_of_the_menu(tmp_path):
    menu = MetricMenu()
    assert menu.text(values(MOOD), tmp_path) == "color:mood=dusk"
    assert menu.text(values(COLOUR), tmp_path) == "color:red=1.000,green=0.000,blue=0.000"
    rgba = values(COLOUR, color="rgba(255, 127.5, 0, 1)")
    assert menu.text(rgba, tmp_path) == "color:red=1.000,green=0.500,blue=0.000"
    assert menu.text(values(CLASS), tmp_path) == "classifier:target=cat,network=judge"
    picture = tmp_path / "p.png"
    Image.new("RGB", (16, 16)).save(picture)
    text = menu.text(values(LIKE, picture=str(picture)), tmp_path / "uploads")
    assert text.startswith(f"reference:reference={tmp_path / 'uploads'}")
    text = menu.text(values(STYLE, picture=str(picture)), tmp_path / "uploads")
    assert text.startswith(f"gram:reference={tmp_path / 'uploads'}")


@pytest.mark.parametrize(
    "given",
    [
        values("evil.py:f"),
        values("own:evil.py:f"),
        values(MOOD, mood="dusk,spread=1"),
        values(COLOUR, color="red,green=1"),
        values(LIKE),
        values(LIKE, picture="/etc/passwd"),
        values(CLASS, network="evil.py:f"),
        values(CLASS, wanted="cat,network=evil.py:f"),
        values(LIKE, distance="l2,reference=/etc/passwd"),
    ],
)
def test_no_code_and_no_file_can_be_named_through_the_page(tmp_path, given):
    with pytest.raises(InvalidInputError):
        MetricMenu(["mine.py:score"]).text(given, tmp_path)


def test_a_metric_of_the_command_line_is_in_the_menu(tmp_path):
    menu = MetricMenu(["mine.py:score"])
    assert "own:mine.py:score" in menu.choices
    assert menu.text(values("own:mine.py:score"), tmp_path) == "mine.py:score"


def test_what_is_offered_for_the_bundled_model_is_what_works_with_it():
    from adjointdpm.pipelines import load
    from adjointdpm.pipelines.description import describe

    read = Offers.read(describe(load("tiny"), False))
    assert read == Offers()


def test_a_model_that_reads_nothing_is_offered_no_words():
    facts = {
        "reads": "nothing",
        "arguments": {"eta": "0.0"},
        "supports": {
            "variables": {"noise": True, "prompt embedding": "it takes none"},
            "gradient methods": {"Checkpoint": True, "Adjoint": "why not"},
            "native samplers": {"euler": "why not"},
            "artefacts": {"LoRA": True, "token": "it reads no text"},
        },
    }
    offers = Offers.read(facts)
    assert (offers.reads, offers.embedding, offers.guidance) == ("nothing", False, ())
    assert (offers.token, offers.lora) == (False, True)
    assert list(offers.gradients) == ["exact"]
    assert list(offers.samplers) == []


def test_a_model_of_classes_has_numbers_in_its_forms():
    offers = Offers(reads="class labels")
    assert offers.prompts("a cat\na dog") == "0\n1"
    assert Offers().prompts("a cat\na dog") == "a cat\na dog"


def test_a_page_names_its_runs_as_they_are_reached_from_where_it_was_started(tmp_path, monkeypatch):
    session = Session(JobQueue(tmp_path / "runs" / "app"))
    text = f"--out={tmp_path}/runs/app/guide-a --metric={tmp_path}/own.py:f"
    monkeypatch.chdir(tmp_path)
    assert session.brief(text) == f"--out=runs/app/guide-a --metric={tmp_path}/own.py:f"
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert session.brief(text) == text
