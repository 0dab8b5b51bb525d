from dataclasses import FrozenInstanceError, fields

import pytest

from yolo_gradwatch.thresholds import Thresholds, check_count

NAMES = [field.name for field in fields(Thresholds)]


@pytest.fixture
def file(tmp_path):
    """Write a TOML file and return its path."""

    def write(content):
        path = tmp_path / "limits.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-1, 0])
def test_a_limit_below_one_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be an integer of at least 1, got {value}$"):
        Thresholds(**{name: value})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [1, 2, 10**9])
def test_a_limit_from_one_on_is_taken(name, value):
    assert getattr(Thresholds(**{name: value}), name) == value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [True, False, 3.0, "3", None, float("nan"), [3]])
def test_a_limit_that_is_no_integer_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be an integer of at least 1, got "):
        Thresholds(**{name: value})


def test_limits_are_named_and_frozen():
    with pytest.raises(TypeError, match="positional argument"):
        Thresholds(3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'patience'"):
        Thresholds(patience=3)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'amp_grace'"):
        Thresholds().amp_grace = 3


def test_check_count_names_its_argument():
    check_count("interval", 1)
    with pytest.raises(ValueError, match=r"^interval must be an integer of at least 1, got 0$"):
        check_count("interval", 0)


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_file_sets_limits_and_leaves_the_others(file, kind):
    path = file("# mine\ndead_windows = 7\n")
    assert Thresholds.from_toml(kind(path)) == Thresholds(dead_windows=7)


def test_an_empty_file_leaves_the_defaults(file):
    assert Thresholds.from_toml(file("")) == Thresholds()


def test_a_file_can_set_every_limit(file):
    content = "".join(f"{name} = {i}\n" for i, name in enumerate(NAMES, 20))
    limits = Thresholds.from_toml(file(content))
    assert [getattr(limits, name) for name in NAMES] == list(range(20, 20 + len(NAMES)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("amp_grace = 0", r"amp_grace must be an integer of at least 1, got 0$"),
        ("amp_grace = true", r"amp_grace must be an integer of at least 1, got True$"),
        ("dead_windows = 2.5", r"dead_windows must be an integer of at least 1, got 2\.5$"),
        ("dead_windows = 'few'", r"dead_windows must be an integer of at least 1, got 'few'$"),
        ("amp_grace = {a = 1}", r"amp_grace must be an integer of at least 1, got "),
        ("dead_window = 3", rf"unknown threshold 'dead_window'; known: {', '.join(NAMES)}$"),
        ("[limits]\namp_grace = 3", rf"unknown threshold 'limits'; known: {', '.join(NAMES)}$"),
        ("amp_grace = \n", r"cannot read thresholds: .*line 1"),
        ("amp_grace = 3\namp_grace = 4\n", r"cannot read thresholds: .*line 2"),
        ("amp_grace: 3\n", r"cannot read thresholds: .*line 1"),
        ("amp_grace = 3 # Schwelle für AMP".encode("latin-1"), r"cannot read thresholds: "),
        ("amp_grace = 3".encode("utf-16"), r"cannot read thresholds: "),
        (b"\x00", r"cannot read thresholds: "),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_it(file, content, said):
    with pytest.raises(ValueError, match=rf"limits\.toml: {said}"):
        Thresholds.from_toml(file(content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"limits\.toml: cannot read thresholds: .*No such file"):
        Thresholds.from_toml(tmp_path / "limits.toml")


def test_a_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path.name}: cannot read thresholds: "):
        Thresholds.from_toml(tmp_path)
