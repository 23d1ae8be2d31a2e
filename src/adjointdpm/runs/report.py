"""`report.html`: one file that needs no network, made from what lies in the run folder."""

import base64
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from adjointdpm.errors import AdjointDPMError, InvalidInputError, OutputError
from adjointdpm.runs.findings_table import findings_table
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.own_sign import direction, in_own_sign, sign_of
from adjointdpm.runs.report_curves import optimisation_svg, strength_svg, success_svg
from adjointdpm.runs.untrusted import file_of, link_to, png_of
from adjointdpm.support.files import write_text

_TEMPLATE = Path(__file__).parent / "report.html.jinja"
_MOST_BYTES = 2**28  # of a result
_PLAIN = (OSError, ValueError, KeyError)  # whose text says enough
_GALLERY = 24  # examples that are shown large where a table has them all


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` from `result.json`, `history.jsonl` and `images/`; return its path.

    Without matplotlib the report has no curves, and says so.

    Raises:
        OutputError: the folder holds no finished run, or the file cannot be written.

    """
    result = read_result(folder)
    try:
        html = _html(folder, result)
    except AdjointDPMError:
        raise
    except Exception as error:  # somebody else's file may hold anything
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, _PLAIN) else str(error)
        raise OutputError(
            f"{folder.path} holds no finished run that could be shown ({reason}); run the task to "
            f"its end first"
        ) from error
    return write_text(folder.path / "report.html", html)


def _html(folder: RunFolder, result: dict[str, Any]) -> str:
    """The page; any exception where the result is not what a run writes."""
    labels = result["story"]["views"]
    result = in_own_sign(result, list(labels))
    rows = result["pictures"][:_GALLERY] if "findings" in result else result["pictures"]
    pictures = [row | {view: _data_uri(folder, row[view]) for view in labels} for row in rows]
    storyboard = _data_uri(folder, result["storyboard"]) if "storyboard" in result else None
    parts = [part | {"link": link_to(part["folder"])} for part in result.get("parts", [])]
    if (folder.path / "history.jsonl").is_symlink():
        file_of(folder.path, "history.jsonl")
    try:
        curve, no_curve = _curve(folder, result), ""
        strength = _strength_curve(result)
    except InvalidInputError as error:  # without matplotlib
        curve, strength, no_curve = None, None, str(error)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"score": _score, "percent": _percent, "bytes": _bytes, "prose": prose}
    return environment.from_string(_TEMPLATE.read_text()).render(
        result=result,
        config=result["config"],
        story=result["story"],
        held_out=result["held_out"],
        held_out_is_new=not result["held_out"].get("same_examples", False),
        several_prompts=_several_prompts(result),
        success=result.get("success"),
        parts=parts,
        labels=labels,
        facts=_facts(result),
        pictures=pictures,
        findings=findings_table(folder, result),
        trajectory=[_data_uri(folder, path) for path in result.get("trajectory", [])],
        storyboard=storyboard,
        curve=curve,
        no_curve=no_curve,
        strength_curve=strength,
    )


def read_result(folder: RunFolder) -> dict[str, Any]:
    """`result.json` of a finished run.

    Raises:
        OutputError: there is none.

    """
    try:
        path = file_of(folder.path, "result.json", _MOST_BYTES)
        result = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(result, dict):
            raise ValueError("its result.json is no mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(
            f"{folder.path} holds no finished run ({error}); run the task to its end first"
        ) from error
    return result


def prose(text: str) -> Markup:
    """Escaped text; what stands between backticks becomes code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part)
        for i, part in enumerate(parts)
    )


def _facts(result: dict[str, Any]) -> list[dict[str, str]]:
    """The figures at the top."""
    held_out, facts = result["held_out"], []

    def add(value: str, label: str) -> None:
        facts.append({"value": value, "label": label})

    if "success" in result:
        first = result["success"][0].get("target")
        last = [row for row in result["success"] if row.get("target") == first][-1]
        low, high = map(_percent, last["interval"])
        count = last.get("examples", held_out["examples"])
        add(
            _percent(last["rate"]),
            f"success at a budget of {last['budget']:g}, on {count} prompts (95 % interval "
            f"{low} – {high})",
        )
        if last["random_search"] is not None:
            add(_percent(last["random_search"]), "random search with as many forward passes")
    else:
        where = "picture" if held_out.get("same_examples") else "held-out picture"
        count = f"{held_out['examples']} {where}{'s' if held_out['examples'] > 1 else ''}"
        add(
            f"{_score(held_out['before'])} → {_score(held_out['after'])}",
            f"metric on {count} ({direction(result)})",
        )
        if "recognised" in held_out:
            shares = held_out["recognised"]
            add(
                f"{_percent(shares['before'])} → {_percent(shares['after'])}",
                "pictures in which an independent judge finds the subject (top 5)",
            )
        elif "resembling" in held_out:
            add(
                _percent(held_out["resembling"]["after"]),
                "of the pictures still resemble the untouched ones of their prompts",
            )
        if _several_prompts(result) and "distinctness" in held_out:
            add(
                _percent(held_out["distinctness"]),
                "of the distance between prompts' pictures remains (mean colour taken out)",
            )
        if "diversity" in held_out:
            add(
                _percent(held_out["diversity"]),
                "of the distance between a prompt's pictures remains",
            )
        if "strength" in result:
            add(f"{result['strength']['chosen']:g}", "of what was learned was kept (the strength)")
    minutes, seconds = divmod(round(result["seconds"]), 60)
    add(
        f"{minutes} min {seconds:02d} s",
        f"in all, {result['network_calls']} network calls, peak "
        f"{_bytes(result['peak_memory_bytes'])}",
    )
    return facts


def _several_prompts(result: dict[str, Any]) -> bool:
    return len({row["prompt"] for row in result["pictures"]}) > 1


def _curve(folder: RunFolder, result: dict[str, Any]) -> str | None:
    if "success" in result:
        return success_svg(result["success"])
    if "optimisation" in result:
        return optimisation_svg(
            folder.read_history(), result["optimisation"]["best_iteration"], sign_of(result)
        )
    return None


def _strength_curve(result: dict[str, Any]) -> str | None:
    return strength_svg(result["strength"], direction(result)) if "strength" in result else None


def _data_uri(folder: RunFolder, path: object) -> str:
    return "data:image/png;base64," + base64.b64encode(png_of(folder.path, path)).decode()


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
