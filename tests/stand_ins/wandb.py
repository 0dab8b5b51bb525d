"""As much of Weights & Biases as Ultralytics' callbacks need."""

from pathlib import Path

__version__ = "0"
pictures = []
run = None


class Run:
    """Notes the pictures that it is given; everything else is taken and forgotten."""

    id = "run"
    summary = {}  # noqa: RUF012  # taken and forgotten

    def log(self, values, *_args, **_options):
        pictures.extend(name for name, value in values.items() if isinstance(value, Image))

    def __getattr__(self, _name):
        return self

    def __call__(self, *_args, **_options):
        return self


def Table(_columns, _rows):  # noqa: N802  # as the real one
    """Nothing."""


def Html(_text, **_options):  # noqa: N802  # as the real one
    """Nothing."""


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
