"""The wheel that users install: its contents, and tests that run on it."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest
from places import REPOSITORY

import yolo_gradwatch
from yolo_gradwatch.runs.run import load_run

PART = ("tests/test_architecture.py", "tests/cli", "tests/demo", "tests/loggers")
"""Tests to run on the wheel: commands, exports, data of the package."""

SCRIPT = f"yolo-gradwatch{'.exe' * (os.name == 'nt')}"


def output_of(*command, folder):
    """Return the output of a command, run without the settings of this test run."""
    ours = ("COV", "PYTEST", "PYTHON")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def built(source, folder, *targets):
    """Build the targets, ``sdist`` or ``wheel``, of a source tree."""
    kinds = [word for target in targets for word in ("-t", target)]
    output_of(sys.executable, "-m", "hatchling", "build", "-d", folder, *kinds, folder=source)
    return [next(folder.glob({"sdist": "*.tar.gz", "wheel": "*.whl"}[one])) for one in targets]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist and the wheel of this checkout."""
    return built(REPOSITORY, tmp_path_factory.mktemp("dist"), "sdist", "wheel")


@pytest.fixture
def source(dist, tmp_path):
    """The unpacked sdist."""
    with tarfile.open(dist[0]) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (tree,) = (tmp_path / "source").iterdir()
    return tree


def contents(wheel):
    """Return the bytes of every file in a wheel."""
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_contains_exactly_the_package_files(dist):
    paths = (path for path in (REPOSITORY / "yolo_gradwatch").rglob("*") if path.is_file())
    files = {one.relative_to(REPOSITORY).as_posix() for one in paths if one.suffix != ".pyc"}
    info = f"yolo_gradwatch-{yolo_gradwatch.__version__}.dist-info"
    about = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    assert "yolo_gradwatch/py.typed" in files
    assert set(contents(dist[1])) == files | {f"{info}/{name}" for name in about}


def test_metadata_is_complete(dist):
    (text,) = (text for name, text in contents(dist[1]).items() if name.endswith("METADATA"))
    about = message_from_bytes(text)
    assert about["Name"] == "yolo-gradwatch"
    assert about["Version"] == yolo_gradwatch.__version__
    assert about["License-Expression"] == "AGPL-3.0-or-later"
    assert about["Requires-Python"] == ">=3.10"
    assert about["Description-Content-Type"] == "text/markdown"
    assert about.get_payload(decode=True) == (REPOSITORY / "README.md").read_bytes()


def test_sdist_builds_the_same_wheel(dist, source, tmp_path):
    (again,) = built(source, tmp_path / "again", "wheel")
    assert again.name == dist[1].name
    assert contents(again) == contents(dist[1])


def new_environment(folder, *, with_pip):
    """Create a virtual environment; return its interpreter and scripts folder."""
    builder = venv.EnvBuilder(with_pip=with_pip, symlinks=os.name != "nt")
    builder.create(folder)
    python = Path(builder.ensure_directories(folder).env_exe)
    return python, python.parent


def test_fast_tests_pass_on_the_wheel_without_the_checkout(dist, source, tmp_path):
    python, scripts = new_environment(tmp_path / "environment", with_pip=False)
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-index")
    output_of(*pip, "--no-deps", dist[1], folder=tmp_path)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(output_of(python, "-c", code, folder=tmp_path).strip())
    ours = [one for one in sys.path if one.endswith(("site-packages", "dist-packages"))]
    (packages / "dependencies.pth").write_text("\n".join(ours), encoding="utf-8")

    shutil.rmtree(source / "yolo_gradwatch")
    code = "import yolo_gradwatch; print(yolo_gradwatch.__file__)"
    found = Path(output_of(python, "-c", code, folder=source).strip())
    assert found.is_relative_to(packages)
    version = output_of(scripts / SCRIPT, "--version", folder=source)
    assert version == f"yolo-gradwatch {yolo_gradwatch.__version__}\n"
    fast = ("-m", "not train and not slow", "-p", "no:cacheprovider")
    assert " passed" in output_of(python, "-m", "pytest", "-q", *fast, *PART, folder=source)


@pytest.mark.full
def test_demo_runs_with_only_the_wheel_installed(dist, tmp_path):
    python, scripts = new_environment(tmp_path / "empty", with_pip=True)
    output_of(python, "-m", "pip", "install", dist[1], folder=tmp_path)
    output_of(scripts / SCRIPT, "demo", folder=tmp_path)
    report = load_run(tmp_path / "gradwatch-demo" / "run").report()
    assert report.healthy
    assert report.steps == 8 * 6
