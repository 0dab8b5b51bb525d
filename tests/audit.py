"""Record the audit events of a process that the package causes.

    python audit.py REPORT JOB ARGUMENTS

runs a function of this file under an audit hook (PEP 578) and writes the events and the function's
result to REPORT, as JSON.

The package causes an event if its code comes first when the stack is walked outwards from the
event, past the standard library and installed packages. What Ultralytics or a test's trainer does
when a wrapper or callback of the package calls it does not count.
"""

import io
import json
import os
import sys
import sysconfig
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path

OURS = str(Path(find_spec("yolo_gradwatch").origin).parent) + os.sep
ULTRALYTICS = str(Path(find_spec("ultralytics").origin).parent) + os.sep
PACKAGES = [path for path in sys.path if Path(path).name in {"dist-packages", "site-packages"}]
"""Several folders if one environment extends another."""

LIBRARIES = tuple(
    {path + os.sep for path in (*map(sysconfig.get_path, ("stdlib", "platstdlib")), *PACKAGES)}
)
LOGGERS = (
    *("tensorboard", "torch/utils/tensorboard", "tensorboardX"),
    *("wandb", "mlflow", "comet_ml", "clearml", "dvclive"),
)
"""Packages that may use files, network and processes, even if one of our adapters calls them."""

IMPORT = "<frozen importlib"

FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.chmod", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime"}
"""Events whose first argument is a path that is changed."""

MOVES = {"os.link", "os.rename", "os.symlink"}
"""Events whose first two arguments are such paths."""

OTHERS = (
    *("compile", "exec", "import", "marshal.", "pickle.", "code.__new__"),
    *("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser."),
    *("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system"),
    *("_thread.", "ctypes.", "shutil.", "tempfile.", "sqlite3.", "syslog."),
)
"""Prefixes of all other events that are recorded."""

THEIRS = (ULTRALYTICS, *(path + name + os.sep for path in LIBRARIES for name in LOGGERS))


class Witness:
    """An audit hook that records the events that the package causes.

    Attributes:
        events: One dict per event.
        during: Name of the current activity, recorded with each event.
    """

    def __init__(self):
        self.events = []
        self.during = ""

    def __call__(self, event, args):
        paths = changed_paths(event, args)
        if not (paths or event.startswith(OTHERS)):
            return
        frame = sys._getframe().f_back  # None as a thread begins
        by, is_import = cause(frame)
        if by:
            self.events.append(
                {
                    "event": event,
                    "paths": paths,
                    "args": [as_text(arg) for arg in args],
                    "by": by,
                    "from": place(frame),
                    "is_import": is_import,
                    "during": self.during,
                }
            )


class Diary(Witness):
    """The same for a process that may be killed: writes each event to a file at once, as JSON."""

    def __init__(self, path):
        super().__init__()
        self.events = self
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def append(self, event):
        self._file.write(json.dumps(event) + "\n")


def changed_paths(event, args):
    """Return the paths that an event of the file system changes, with links resolved."""
    if event == "open":
        path, mode, flags = args
        is_change = any(sign in mode for sign in "wax+") if mode else flags & FOR_WRITING
        return [os.path.realpath(os.fsdecode(path))] if is_change and is_path(path) else []
    found = args[:1] if event in CHANGES else args[:2] if event in MOVES else ()
    paths = [os.path.abspath(os.fsdecode(path)) for path in found if is_path(path)]  # noqa: PTH100  # a link stays one
    return [os.path.join(os.path.realpath(os.path.dirname(p)), os.path.basename(p)) for p in paths]  # noqa: PTH118, PTH119, PTH120


def is_path(value):
    """Return whether this is a file name rather than a descriptor."""
    return isinstance(value, (str, bytes, os.PathLike))


def cause(frame):
    """Return which of our functions causes an event, "" if none, and whether by an import."""
    is_import = False
    while frame:
        file = frame.f_code.co_filename
        if file.startswith(OURS):
            return place(frame), is_import
        is_import |= file.startswith(IMPORT)
        if file.startswith(THEIRS) or not file.startswith(("<", *LIBRARIES)):
            break
        frame = frame.f_back
    return "", is_import


def place(frame):
    """Return the module and function of a frame."""
    file = Path(frame.f_code.co_filename)
    module = file.parent.name if file.stem == "__init__" else file.stem
    return f"{module}.{frame.f_code.co_name}"


def as_text(value):
    """Return a value as text; for a code object, its file, name, names and constants."""
    if hasattr(value, "co_names"):
        return f"{value.co_filename} {value.co_name} {value.co_names} {value.co_consts}"
    if isinstance(value, bytes):
        return value[:200].decode("utf-8", "replace")
    return value if isinstance(value, str) else repr(type(value))


# --- the jobs -------------------------------------------------------------------------------------


def command(witness, *arguments):
    """Run one of our commands and return its exit code."""
    from yolo_gradwatch.cli.main import main

    return main([*arguments])


def commands(witness, lines):
    """Run named commands; return the exit code and output of each."""
    printed = {}
    for name, arguments in json.loads(lines).items():
        witness.during = name
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = command(witness, *arguments)
        printed[name] = [code, out.getvalue(), err.getvalue()]
    return printed


def training(witness, folder, *, calls=(), watched=None, **options):
    """Train ten steps with a spike in the eighth; return the rules of the findings."""
    from training import recording_trainer, shapes, small, train

    from yolo_gradwatch import GradWatch

    witness.during = "data"
    data, kind = shapes(40), recording_trainer(at=8, fault="spike")
    witness.during = "training"
    watch = GradWatch(**(watched or {}))
    options = {"model": small(), "data": data, "trainer": kind, "save": True, **options}
    train(Path(folder), watch=watch, calls=calls, **options)
    return [finding.rule for finding in watch.report().findings]


def failing(witness, folder):
    """Train two epochs, the second of which fails, then resume."""

    def fail(trainer):
        if trainer.epoch:
            raise RuntimeError("injected")

    with suppress(RuntimeError):
        training(witness, folder, calls=[("on_train_batch_end", fail)], epochs=2)
    weights = Path(folder) / "run" / "weights" / "last.pt"
    return training(witness, folder, model=str(weights), resume=True, epochs=2)


def keeping(witness, folder):
    """Train two epochs and keep a copy of each healthy checkpoint."""
    return training(witness, folder, watched={"keep_healthy": True}, epochs=2)


def shown(witness, folder):
    """Train in a stand-in for a notebook; return how often its display was drawn."""
    from kernel import Kernel
    from pytest import MonkeyPatch  # noqa: PT013  # for the stand-in

    kernel = Kernel(MonkeyPatch())
    training(witness, folder)
    return len(kernel.states)


def logging(witness, asked):
    """Train as `logged.py` does, with loggers; return the packages that were loaded.

    Each adapter also opens a socket, which shows that it is audited.
    """
    import logged

    for name in json.loads(asked)["settings"]:
        kind = logged.LOGGERS[name]
        kind.send = leaking(name, kind.send)
    sys.argv[1:] = [asked]
    witness.during = "training"
    logged.main()
    return [name for name in logged.PACKAGES.values() if name in sys.modules]


def run_as_part_of(folder, source, known):
    """Run source as if it were in a file of this folder."""
    exec(compile(source, f"{folder}injected_code.py", "exec"), known)  # noqa: S102  # the test's own


def leaking(name, method):
    """Return a method that opens a socket first, as if it were code of the package."""
    source = f"import socket\ndef {name}(*args):\n socket.socket().close()\n return method(*args)"
    known = {"method": method}
    run_as_part_of(OURS, source, known)
    return known[name]


def checked(witness):
    """Check a training from Python and by the command; return steps and exit code."""
    from training import TINY, shapes, small
    from ultralytics import YOLO

    from yolo_gradwatch import GradWatch

    witness.during = "data"
    options = {name: one for name, one in TINY.items() if name not in {"name", "exist_ok"}}
    options |= {"model": small(), "data": shapes(40)}
    given = [f"{name}={value}" for name, value in options.items()]
    witness.during = "python"
    report = GradWatch.check(YOLO(options.pop("model")), steps=3, **options)
    witness.during = "command"
    return [report.steps, command(witness, "check", "--steps", "3", *given)]


def injected(witness, code):
    """Run named pieces of code as if they were code of the package.

    They can call functions that write: ``save`` of Ultralytics, ``log`` of a logger, ``keep`` of a
    user.
    """
    known = {"keep": lambda: Path("kept").write_text("", encoding="utf-8")}
    for name, where in (("save", ULTRALYTICS), ("log", THEIRS[1])):
        source = f"def {name}(): open('by-{name}', 'w').close()"
        run_as_part_of(where, source, known)
    for name, source in json.loads(code).items():
        witness.during = name
        run_as_part_of(OURS, source, {**known})


def main(report, job, *arguments):
    """Run a job and write its report."""
    with Path(report).open("w", encoding="utf-8") as file:
        witness = Witness()
        sys.addaudithook(witness)
        outcome = globals()[job](witness, *arguments)
        witness.during = "afterwards"
        json.dump({"events": witness.events, "outcome": outcome}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
