"""The report in a real browser: every picture is decoded, nothing is fetched, nothing complains."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.report import write_report

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
COUNT = (
    "<script>const seen = [...document.images].filter(i => i.complete && i.naturalWidth > "
    "0).length;document.title = seen + '/' + document.images.length</script>"
)


def browse(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    base = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
        "--enable-logging=stderr",
    ]
    return subprocess.run(
        [CHROMIUM, *base, *flags, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_a_browser_shows_every_picture_without_a_complaint(folder: RunFolder, tmp_path) -> None:
    page = write_report(folder)
    counted = tmp_path / "counted.html"
    counted.write_text(page.read_text().replace("</body>", COUNT + "</body>"))
    shown = browse(counted, tmp_path / "profile", "--dump-dom")
    title = re.search(r"<title>(\d+)/(\d+)</title>", shown.stdout)
    assert title is not None
    assert title[1] == title[2] == "6"
    assert "CONSOLE" not in shown.stderr, shown.stderr
    browse(
        page,
        tmp_path / "profile",
        f"--screenshot={tmp_path / 'page.png'}",
        "--window-size=1000,1400",
    )
    picture = Image.open(tmp_path / "page.png").convert("L")
    low, high = picture.getextrema()
    assert high - low > 100
