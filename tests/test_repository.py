"""Consistency of metadata, hooks, workflows and documents with the repository."""

import re
import shutil
import subprocess

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from places import REPOSITORY

import yolo_gradwatch

try:
    import tomllib
except ImportError:
    import tomli as tomllib

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDERS = tuple(f"{path.name}/" for path in REPOSITORY.iterdir() if path.is_dir())

LARGEST = 500_000
"""Maximum bytes of a file; files of trainings and loggers are larger."""


def content(name):
    return yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))


def test_no_training_files_are_committed():
    if not (git := shutil.which("git")):
        pytest.skip("no git on this machine")
    command = [git, "ls-files", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    kept = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    large = [path.name for path in kept if path.exists() and path.stat().st_size > LARGEST]
    assert not [path.name for path in kept if path.suffix in {".db", ".pt"}]
    assert not large


def test_hooks_match_make_lint():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", makefile, re.MULTILINE)[1]
    commands = recipe.replace("$(RUN)", "python -m").replace("$(VENV)/bin/", "").split("\n\t")
    (local,) = content(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == [one.strip() for one in commands]
    assert {hook["language"] for hook in local["hooks"]} == {"system"}


def test_all_python_versions_in_the_metadata_are_tested():
    tested = content(".github/workflows/tests.yml")["jobs"]["fast"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: 3."
    named = [one.split()[-1] for one in PROJECT["classifiers"] if one.startswith(prefix)]
    assert len(named) >= 4
    assert set(named) <= set(tested)
    assert all(one in SpecifierSet(PROJECT["requires-python"]) for one in tested)
    assert "3.9" not in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("name", ["bug", "wrong_finding"])
def test_issue_templates_require_the_files_of_the_run(name):
    body = content(f".github/ISSUE_TEMPLATE/{name}.yml")["body"]
    required = [one["attributes"]["label"] for one in body if one.get("validations")]
    assert {"gradwatch.json", "gradwatch_alerts.csv"} <= set(required)
    assert all(one["validations"] == {"required": True} for one in body if "validations" in one)
    assert len({one["id"] for one in body}) == len(body)


def test_version_is_the_same_everywhere():
    cited = content("CITATION.cff")
    versions = PROJECT["version"], cited["version"], yolo_gradwatch.__version__
    assert len(set(versions)) == 1
    assert cited["license"] == PROJECT["license"]
    assert [one["name"] for one in cited["authors"]] == [one["name"] for one in PROJECT["authors"]]


def test_paths_and_targets_in_contributing_exist():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = [one for one in re.findall(r"`([\w./-]+)`", text) if one.startswith(FOLDERS)]
    assert not [one for one in paths if not (REPOSITORY / one).exists()]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    assert paths
    assert not [one for one in targets if not re.search(rf"^{one}:", makefile, re.MULTILINE)]
