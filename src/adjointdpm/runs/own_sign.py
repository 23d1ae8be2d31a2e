"""A reward's figures as the reward has them: what is minimised is its negative."""

from collections.abc import Sequence
from typing import Any


def direction(result: dict[str, Any]) -> str:
    """Which way the metric of a result is better, in words."""
    return "higher is better" if sign_of(result) < 0 else "lower is better"


def sign_of(result: dict[str, Any]) -> int:
    """−1 if the metric of a result is a reward."""
    return result.get("metric", {}).get("sign", 1)


def in_own_sign(result: dict[str, Any], views: Sequence[str]) -> dict[str, Any]:
    """The result with the means, the change, the parts and the curve of rewards times −1.

    Args:
        result: what `result.json` holds.
        views: the names of what was drawn, "before" to "after".

    """
    held_out, sign = dict(result.get("held_out", {})), sign_of(result)
    if "parts" in held_out:
        held_out["parts"] = {
            name: _turned(values, views, values.get("sign", 1))
            for name, values in held_out["parts"].items()
        }
    held_out = _turned_change(_turned(held_out, views, sign), sign)
    if "since" in held_out:
        held_out["since"] = {
            view: _turned_change(found, sign) for view, found in held_out["since"].items()
        }
    turned: dict[str, Any] = {"held_out": held_out} if "held_out" in result else {}
    if "metric" in result:
        turned["metric"] = _turned(result["metric"], ["before", "after"], sign)
    if "strength" in result:
        turned["strength"] = _turned_curve(result["strength"], sign)
    return result | turned


def _turned_change(found: dict[str, Any], sign: int) -> dict[str, Any]:
    """A change and its interval."""
    found = _turned(found, ["change"], sign)
    if sign < 0 and "interval" in found:
        low, high = found["interval"]
        found["interval"] = [-high, -low]
    return found


def _turned_curve(found: dict[str, Any], sign: int) -> dict[str, Any]:
    """The curve of strengths; its guard may be a reward too."""
    of_guard = found.get("guard_sign", 1)
    rows = [_turned(_turned(row, ["metric"], sign), ["guard"], of_guard) for row in found["curve"]]
    return _turned(found, ["guard_limit"], of_guard) | {"curve": rows}


def _turned(values: dict[str, Any], names: Sequence[str], sign: int) -> dict[str, Any]:
    return values | {name: sign * values[name] for name in names if name in values}
