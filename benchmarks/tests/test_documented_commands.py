"""Documented commands: how they are read from a page, run and shown."""

import sys

import pytest

from benchmarks import common, documented_commands
from benchmarks.documented_commands import (
    Document,
    documents,
    page_of,
    read_document,
    why_not,
    with_outputs,
)

PAGE = """
```console
$ pip install .
$ cat examples/prompts.txt
adjointdpm is no command here
$ adjointdpm embed --prompts examples/prompts.txt \\
    --token "<dusk>" --template "{prompt} on a {token}"   # a word
On 2 prompts
$ adjointdpm inspect ./flux
```

```python title="victim.py"
x = 1
```

```python
y = 2
```

```console
$ python examples/own_metric.py
```
"""


def test_commands_and_files_are_read_from_a_page():
    document = read_document("a.md", PAGE)
    assert document.commands == [
        "adjointdpm embed --prompts examples/prompts.txt --token '<dusk>' --template "
        "'{prompt} on a {token}'",
        "adjointdpm inspect ./flux",
        "python examples/own_metric.py",
    ]
    assert document.files == {"victim.py": "x = 1\n"}


def test_a_page_shows_what_its_commands_print_where_it_showed_something():
    embed, inspect, example = read_document("a.md", PAGE).commands
    runs = [
        {"command": embed, "code": 0, "lines": 3, "output": ["On 3", "Report"]},
        {"command": inspect, "not_run": "no model"},
        {"command": example, "code": 0, "lines": 1, "output": ["not asked for"]},
    ]
    assert with_outputs(PAGE, runs) == PAGE.replace("On 2 prompts", "…\nOn 3\nReport")
    runs[0]["code"] = 2
    assert with_outputs(PAGE, runs) == PAGE


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("adjointdpm inspect tiny", None),
        ("adjointdpm guide --prompt cat --metric a.py:b", None),
        ("adjointdpm inspect ./flux", "model that is not bundled, ./flux"),
        ("adjointdpm embed --model owner/name --prompts p.txt", "not bundled, owner/name"),
        ("adjointdpm app", "serves a page until it is stopped"),
        ("accelerate launch -m adjointdpm embed", "several processes"),
        ("adjointdpm embed …", "not written out"),
    ],
)
def test_what_is_not_run_has_a_reason(command, reason):
    found = why_not(command)
    assert found == reason if reason is None else reason in found


def test_the_commands_of_a_document_share_a_folder_with_its_files(tmp_path, monkeypatch):
    write = (
        "import pathlib, sys; print(sorted(map(str, pathlib.Path().iterdir())));"
        "pathlib.Path('seen').touch(); sys.exit(len(sys.argv) - 2)"
    )
    monkeypatch.setattr(documented_commands, "ADJOINTDPM", [sys.executable, "-c", write])
    document = Document(
        "a.md", ["adjointdpm x", "adjointdpm inspect other", "adjointdpm x y"], {"victim.py": ""}
    )
    found = documented_commands.run_document(document, tmp_path, 60, 1)
    assert found is not None
    assert found[0]["output"] == ["['examples', 'victim.py']"]
    assert found[0]["code"] == 0
    assert "not_run" in found[1]
    assert found[2]["output"] == ["['examples', 'seen', 'victim.py']"]
    assert found[2]["code"] == 1
    page = page_of({"machine": "m", "threads": 1, "documents": {"a.md": {"runs": found}}})
    assert "**1 of 2 commands that were run end without an error**; 1 are not run" in page
    assert "$ adjointdpm x\n['examples', 'victim.py']\n```" in page
    assert "**Failed**: exit code 1" in page
    assert "Not run: it takes a model that is not bundled, other." in page


def test_only_changed_documents_are_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    ran = []

    def run(document, folder, limit, threads, former):
        ran.append(document.name)
        assert former == []
        return []

    monkeypatch.setattr(documented_commands, "run_document", run)
    pages = {"a.md": ["adjointdpm x"], "b.md": ["adjointdpm y"]}
    monkeypatch.setattr(
        documented_commands,
        "documents",
        lambda: [Document(name, commands, {}) for name, commands in pages.items()],
    )
    documented_commands.main(threads=1)
    pages["b.md"] = ["adjointdpm z"]
    documented_commands.main(threads=1)
    assert ran == ["a.md", "b.md", "b.md"]
    del pages["a.md"]
    documented_commands.main(threads=1, only=["b.md"], again=True)
    assert ran[3:] == ["b.md"]
    assert list(common.read_results("documented-commands")["documents"]) == ["b.md"]


def test_one_command_of_a_document_is_run_again_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    ran = tmp_path / "ran"
    program = [sys.executable, "-c", f"import sys; open({str(ran)!r}, 'a').write(sys.argv[1])"]
    monkeypatch.setattr(documented_commands, "ADJOINTDPM", program)
    document = Document("a.md", ["adjointdpm x", "adjointdpm y", "adjointdpm z"], {})
    monkeypatch.setattr(documented_commands, "documents", lambda: [document])
    documented_commands.main(threads=1, holding="y")  # nothing is known yet
    before = common.read_results("documented-commands")["documents"]["a.md"]["runs"]
    documented_commands.main(threads=1, again=True, holding="y")
    after = common.read_results("documented-commands")["documents"]["a.md"]["runs"]
    assert ran.read_text() == "xyzy"
    assert [after[0], after[2]] == [before[0], before[2]]
    assert after[1]["seconds"] != before[1]["seconds"]


def test_the_files_that_documented_commands_name_exist():
    for document in documents():
        for command in document.commands:
            for word in command.split():
                if word.startswith("examples/"):
                    path = documented_commands.ROOT / word.rsplit(":", 1)[0]
                    assert path.is_file(), f"{document.name}: {command}"
