"""Faulty inputs by the thousand, each with what must come of it: `python -m fuzz`."""

import sys
from pathlib import Path

# The tests' small pipelines. Under pytest their folder is on the path already.
_TESTS = str(Path(__file__).parents[1] / "tests")
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
