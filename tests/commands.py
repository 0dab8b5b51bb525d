"""Run the command line as a user does."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from training import TINY, shapes, small

from yolo_gradwatch.cli.main import main

SCRIPT = "from yolo_gradwatch.cli.main import script; script()"
OF_TYPER = [f"-Wignore::DeprecationWarning:typer{part}" for part in ("", ".core")]
WARNINGS = ("-Werror", *OF_TYPER)
"""Warnings are errors, except that Typer 0.20 uses what Click 8.5 deprecates."""

SMALL = [f"{name}={value}" for name, value in TINY.items()]


def printed(*arguments, code=0):
    """Return the standard output of a command without a terminal."""
    with redirect_stdout(io.StringIO()) as out:
        assert main([*map(str, arguments)]) == code
    return out.getvalue()


def outcome(*arguments):
    """Return exit code, standard output and standard error of a command, for any text."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
        for _ in range(2)
    )
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*map(str, arguments)])
    for stream in (out, err):
        stream.flush()
    return code, *(stream.buffer.getvalue().decode() for stream in (out, err))


def trained(folder, *arguments):
    """Run a small training with these arguments in place of the defaults; return its exit code."""
    given = {a.partition("=")[0]: a for a in arguments}
    own = [f"model={small()}", f"data={shapes()}", *SMALL, f"project={folder}"]
    return main(["train", *{**{a.partition("=")[0]: a for a in own}, **given}.values()])


def failures(err):
    """Return the lines that report runs failing under --fail-on."""
    return [line for line in err.splitlines() if line.startswith("--fail-on failed: ")]


def content(*arguments):
    """Return the output of --json, parsed as strict JSON without NaN and Infinity."""
    return json.loads(printed(*arguments, "--json"), parse_constant=pytest.fail)


def process(code, *arguments, **environment):
    """Start a separate Python process with pipes."""
    return subprocess.Popen(
        [sys.executable, *WARNINGS, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **environment},
    )
