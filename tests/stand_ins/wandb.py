"""As much of Weights & Biases as Ultralytics' callbacks need."""

from pathlib import Path

__version__ = "0"
pictures = []
run = None


class Run:
    """Records pictures; accepts and ignores everything else."""

    id = "run"
    summary = {}  # noqa: RUF012  # ignored

    def log(self, values, *_args, **_options):
        pictures.extend(name for name, value in values.items() if isinstance(value, Image))

    def __getattr__(self, _name):
        return self

    def __call__(self, *_args, **_options):
        return self


def Table(_columns, _rows):  # noqa: N802  # as the real one
    """Do nothing."""


def Html(_text, **_options):  # noqa: N802  # as the real one
    """Do nothing."""


class Image:
    def __init__(self, path):
        assert Path(path).read_bytes().startswith(b"\x89PNG")


def init(**_options):
    global run  # noqa: PLW0603  # as the real one
    run = Run()


def finish(**_options):
    global run  # noqa: PLW0603  # as the real one
    run = None


def Artifact(**_options):  # noqa: N802  # as the real one
    return Run()
