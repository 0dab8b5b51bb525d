"""Integrations of Ultralytics: they receive the picture, and it makes none of them fail.

They are off wherever pytest is loaded, so these trainings run in their own processes.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from logging_run import own_settings, visible
from places import TESTS
from training import TINY, shapes, small

STAND_INS = TESTS / "stand_ins"
OURS = TESTS.parent
INTEGRATED = TESTS / "integrated.py"


def train(folder, *names, python=sys.executable, stand_ins=True, watched=True):
    """Train with these integrations; exit code, last printed line, and standard error."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {**TINY, "model": small(), "data": shapes(), "project": str(folder)}
    done = subprocess.run(
        [python, INTEGRATED, json.dumps({**options, "watched": watched}), *names],
        env={
            **visible(os.environ),
            "PYTHONPATH": os.pathsep.join(map(str, [STAND_INS, OURS] if stand_ins else [OURS])),
            **own_settings(folder),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return done.returncode, {}, done.stderr
    return 0, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.train
@pytest.mark.full
def test_ultralytics_calls_the_dvclive_stand_in(tmp_path):
    """Otherwise the tests below would prove nothing: its callbacks run, without a picture."""
    assert train(tmp_path, "dvc", watched=False)[:2] == (0, {"dvclive": []})


@pytest.mark.train
def test_picture_goes_to_wandb_but_not_to_dvclive(tmp_path):
    code, pictures, said = train(tmp_path, "dvc", "wandb")
    assert code == 0, said
    assert pictures == {"dvclive": [], "wandb": ["gradwatch/flow", "gradwatch"]}
    assert "GradWatch" not in said
    assert (tmp_path / "run" / "gradwatch.png").exists()


@pytest.fixture(scope="module")
def with_dvclive(tmp_path_factory):
    """The Python of an environment with DVCLive on top of everything installed here."""
    folder = tmp_path_factory.mktemp("dvclive")
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    where = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "posix_prefix", vars=where))
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    install = [python, "-m", "pip", "install", "--quiet", "dvclive"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"DVCLive cannot be installed here: {done.stderr[-300:]}")
    return python


@pytest.mark.train
@pytest.mark.full
@pytest.mark.parametrize("has_repository", [False, True])
def test_dvclive_itself(tmp_path, with_dvclive, has_repository):
    if has_repository:
        someone = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        for command in (
            ["git", "init", "-q"],
            [with_dvclive, "-m", "dvc", "init", "-q"],
            ["git", *someone, "commit", "-q", "-m", "begin"],
        ):
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    for watched in (False, True):
        code, _, said = train(
            tmp_path, "dvc", python=with_dvclive, stand_ins=False, watched=watched
        )
        assert code == 0, said
        assert (tmp_path / "dvclive" / "metrics.json").exists()
        images = list((tmp_path / "dvclive" / "plots").glob("images/gradwatch/*.png"))
        assert len(images) == (2 if watched and has_repository else 0)
    assert (tmp_path / "run" / "gradwatch.png").exists()
