"""Open a page in a real browser."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")


def answer_of(path):
    """Return what a page's scripts write to ``<pre id="answer">``, loaded without a network."""
    shown = subprocess.run(
        [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={path.parent / 'browser'}", "--enable-logging=stderr"),
            *("--window-size=1200,900", "--virtual-time-budget=20000", "--dump-dom"),
            path.absolute().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in shown.stderr
    return json.loads(unescape(re.search(r'<pre id="answer">(.*?)</pre>', shown.stdout)[1]))
