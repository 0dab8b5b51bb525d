"""Inject errors into functions of the package, effective for every reference to them."""

import importlib
import inspect
import pkgutil
from contextlib import contextmanager
from functools import cached_property, reduce
from pathlib import Path

import yolo_gradwatch

PACKAGE = Path(yolo_gradwatch.__file__).parent
FIRED = []
"""Names of the functions whose injected error was raised, in order."""

_swapped = []


def places():
    """Return every function of the package by its name: room, module, class and function."""
    found = {}
    for one in pkgutil.walk_packages(yolo_gradwatch.__path__, "yolo_gradwatch."):
        module = importlib.import_module(one.name)
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__:
                members = vars(value).items() if inspect.isclass(value) else [("", value)]
                for member, inner in members:
                    function = _function(inner)
                    if function and Path(function.__code__.co_filename).is_relative_to(PACKAGE):
                        place = one.name.removeprefix("yolo_gradwatch.")
                        found[".".join(filter(None, (place, name, member)))] = function
    return found


def _function(value):
    """Return the function behind a function, method or property."""
    for kind, inner in ((property, "fget"), (cached_property, "func"), (staticmethod, "__func__")):
        value = getattr(value, inner) if isinstance(value, kind) else value
    value = inspect.unwrap(value) if callable(value) else value
    return value if inspect.isfunction(value) else None


@contextmanager
def cleared():
    """Remove all injected errors when the block ends."""
    FIRED.clear()
    try:
        yield
    finally:
        restore()


def inject(name, *, once=False):
    """Make a function raise from now on, or only at its next call."""
    function = places()[name]
    module = function.__module__
    path = name.removeprefix(f"{module.removeprefix('yolo_gradwatch.')}.").split(".")
    known = reduce(getattr, path, importlib.import_module(module))
    getattr(known, "cache_clear", lambda: None)()  # a cached function would not be called
    _swapped.append((function, function.__code__, name, once))
    function.__code__ = _broken.__code__.replace(co_freevars=function.__code__.co_freevars)


def restore():
    """Restore the code of all functions."""
    while _swapped:
        function, code, _, _ = _swapped.pop()
        function.__code__ = code


def fire():
    """Raise the injected error."""
    _, _, name, once = _swapped[-1]
    FIRED.append(name)
    if once:
        restore()
    raise ZeroDivisionError("injected")


def _broken(*_args, **_options):
    import injected  # runs with the globals of the replaced function

    injected.fire()
