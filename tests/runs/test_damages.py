"""Every kind of damage to a run's files: each reader says in one sentence where it is."""

import errno
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
from commands import content, outcome
from damages import (
    JSON,
    REMARKED,
    RESULTS,
    TABLES,
    UNREADABLE,
    cell,
    instead,
    spoil,
    whole_run,
    with_crlf,
)

from yolo_gradwatch import FormatError, load_run
from yolo_gradwatch.runs.schema import ALERTS_FILE, META_FILE, RUN_FILES, WINDOWS_FILE
from yolo_gradwatch.runs.tail import Tail

pytestmark = pytest.mark.slow  # whole trainings of a fake trainer, or many runs

DAMAGES = {**TABLES, **JSON}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = whole_run(tmp_path_factory.mktemp("whole") / "run")
    return {name: (folder / name).read_bytes() for name in RUN_FILES}


@pytest.fixture
def run(files, tmp_path):
    for name, whole in files.items():
        (tmp_path / name).write_bytes(whole)
    return tmp_path


def refusal(folder):
    with pytest.raises(FormatError) as caught:
        load_run(folder)
    return caught.value


CASES = [
    *((name, "LF") for name in DAMAGES),
    *(pytest.param(name, "CRLF", marks=pytest.mark.slow) for name in TABLES),
]


@pytest.mark.parametrize(("name", "end"), CASES)
def test_every_reader_names_the_place_of_the_damage(run, name, end):
    damage = DAMAGES[name]
    spoil(run, damage.file, damage.change, end)
    error = refusal(run)
    assert (error.path, error.line) == (run / damage.file, damage.line)
    assert (error.column, error.place) == (damage.column, damage.place)
    assert outcome("review", run) == (2, "", f"Error: {error}\n")


FOLLOWED = [
    *JSON,
    *(name for name, one in TABLES.items() if one.file == WINDOWS_FILE and one.line),
]


@pytest.mark.parametrize("name", FOLLOWED)
def test_tail_refuses_what_a_review_refuses(run, name):
    damage = DAMAGES[name]
    spoil(run, damage.file, damage.change)
    with pytest.raises(FormatError) as caught:
        Tail(run).look()
    assert caught.value.path == run / damage.file
    if damage.line == 1 or damage.place:
        assert vars(caught.value) == vars(refusal(run))


@pytest.mark.parametrize("column", UNREADABLE)
def test_unreadable_cell_is_named(run, column):
    whole = (run / WINDOWS_FILE).read_bytes()
    for number, text in enumerate(UNREADABLE[column]):
        line = 2 + number * 9  # in the last line too
        (run / WINDOWS_FILE).write_bytes(cell(line, column, text)(whole))
        error = refusal(run)
        assert (error.line, error.column) == (line, column), text


def raising(error, path, read):
    def instead(one, **options):
        if one == path:
            raise error
        return read(one, **options)

    return instead


@pytest.mark.parametrize("name", RUN_FILES)
@pytest.mark.parametrize("damage", ["removed", "a folder", "on a broken disk"])
def test_file_that_cannot_be_opened_is_named_with_a_remedy(run, monkeypatch, name, damage):
    if damage == "on a broken disk":
        refused = OSError(errno.EIO, os.strerror(errno.EIO))
        for read in ("read_bytes", "read_text"):
            monkeypatch.setattr(Path, read, raising(refused, run / name, getattr(Path, read)))
    else:
        (run / name).unlink()
    if damage == "a folder":
        (run / name).mkdir()
    error = refusal(run)
    assert (error.path, error.line, error.column, error.place) == (run / name, None, "", "")
    assert "; " in str(error)
    code, out, err = outcome("review", run)
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("end", ["LF", "CRLF"])
@pytest.mark.parametrize("name", REMARKED)
def test_partly_damaged_run_is_read_with_a_remark_by_every_reader(run, name, end):
    file, change, windows = REMARKED[name]
    spoil(run, file, change, end)
    found = load_run(run)
    (remark,) = found.remarks
    assert len(found.grid.steps) == windows
    assert content("review", run)["remarks"] == [remark]
    for command in (["review", run], ["review", run, "--csv"], ["compare", run, run]):
        code, out, err = outcome(*command)
        assert code == 0
        assert " ".join(remark.split()[:4]) in out + err


def test_messages_about_damage(run, files, golden):
    """One of each of our own messages; those of json and msgspec are left out."""
    messages = {}
    for name, damage in DAMAGES.items():
        spoil(run, damage.file, damage.change)
        what = re.sub(r"not JSON \(.*\)", "not JSON (...)", str(refusal(run)))
        kind = re.sub(r"'.*?'|-?\d+|\$[^:]*|is not a valid .*;", "", what)
        if "`" not in what and "Invalid enum" not in what:
            messages.setdefault(kind, f"{name}\n    {what.removeprefix(f'{run}/')}\n")
        (run / damage.file).write_bytes(files[damage.file])
    for name, (file, change, _) in REMARKED.items():
        spoil(run, file, change)
        messages[name] = f"{name}\n    {load_run(run).remarks[0]}\n"
        (run / file).write_bytes(files[file])
    golden("damages", "".join(messages.values()))


def test_compare_names_the_unreadable_run(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for name in RUN_FILES:
        shutil.copy(run / name, other)
    spoil(other, WINDOWS_FILE, instead(RESULTS))
    for folders in ((run, other), (other, run)):
        assert outcome("compare", *folders, "--csv") == (2, "", f"Error: {refusal(other)}\n")


@pytest.mark.parametrize("options", ["--csv", "--json", "--module=*", "--fail-on=dead"])
def test_unreadable_run_leaves_no_partial_output(run, options):
    spoil(run, WINDOWS_FILE, cell(5, "steps", "x"))
    assert outcome("review", run, options) == (2, "", f"Error: {refusal(run)}\n")


def test_following_an_unreadable_run_ends_with_the_error(run):
    spoil(run, META_FILE, instead("[1]"))
    code, _, err = outcome("review", run, "--follow")
    assert code == 2
    assert err.endswith(f"Error: {refusal(run)}\n")


@pytest.mark.parametrize("change", [with_crlf, lambda old: b"\xef\xbb\xbf" + old])
def test_line_ends_and_byte_order_mark_do_not_matter(run, change):
    before = content("review", run)
    for name in (WINDOWS_FILE, ALERTS_FILE):
        spoil(run, name, change)
    assert content("review", run) == before


def test_format_error_survives_pickling(run):
    spoil(run, WINDOWS_FILE, cell(5, "steps", "x"))
    error = refusal(run)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert (str(copy), vars(copy)) == (str(error), vars(error))
