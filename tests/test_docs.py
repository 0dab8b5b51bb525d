"""README and documentation: quotes, numbers, links, and code that runs."""

import json
import re
import runpy
import shlex
import shutil
import sys

import pytest
from places import REPOSITORY
from short import blank_pictures
from sybil import Document
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer
from training import TINY, data_folder, fast_trainer, outlines, shapes, small, train

from yolo_gradwatch.cli.main import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))]
RESULTS = (REPOSITORY / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
LESSONS = DOCS / "pictures" / "lessons.json"


def name_of(page):
    return page.relative_to(REPOSITORY).as_posix()


def blocks():
    """Each fenced block with its page, its language and its line."""
    for page in PAGES:
        document = Document(page.read_text(encoding="utf-8"), str(page))
        for block in FencedCodeBlockLexer(r"\w*")(document):
            line = document.text.count("\n", 0, block.start) + 1
            language, code = block.lexemes["language"], block.lexemes["source"].text
            yield pytest.param(language, code, id=f"{name_of(page)}:{line}")


BLOCKS = list(blocks())


def of(*languages):
    return [one for one in BLOCKS if one.values[0] in languages]


# --- code -----------------------------------------------------------------------------------------


def test_every_code_block_has_a_known_language():
    assert {one.values[0] for one in BLOCKS} == {"python", "bash", "text", "toml"}


@pytest.fixture(scope="module")
def docs_folder(tmp_path_factory):
    """A folder with the files that the blocks use: checkpoints, data sets, two runs."""
    from ultralytics import YOLO

    from yolo_gradwatch import GradWatch

    folder = tmp_path_factory.mktemp("docs")
    runs = folder / "runs" / "detect"
    with pytest.MonkeyPatch.context() as patch:
        blank_pictures(patch)
        watch = GradWatch(live=False)
        model = train(runs, watch=watch, model=small(), data=shapes(24), name="train")
    shutil.copytree(runs / "train", runs / "train-2")
    shutil.copy(model.trainer.last, folder / "yolo26n.pt")
    shutil.copy(small(), folder / "yolo26n.yaml")
    shutil.copy(shapes(24), folder / "coco8.yaml")
    YOLO(small("Segment", 8, 16), task="segment").save(folder / "yolo26n-seg.pt")
    shutil.copy(outlines(24), folder / "coco8-seg.yaml")
    return folder


@pytest.fixture
def brief(docs_folder, monkeypatch):
    """Train a small model on small images for an epoch, in a folder with the files of the docs."""
    from ultralytics.engine.model import Model

    real = Model.train
    less = {**TINY, "save": False}
    del less["name"], less["exist_ok"]

    def train_briefly(self, trainer=None, **given):
        trainer = trainer or fast_trainer(self._smart_load("trainer"), saves_last=True)
        return real(self, trainer=trainer, **{**given, **less, "project": str(docs_folder / "new")})

    data_folder()
    blank_pictures(monkeypatch)
    monkeypatch.chdir(docs_folder)
    monkeypatch.setattr(Model, "train", train_briefly)


@pytest.mark.train
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(("language", "code"), of("python"))
def test_python_code_runs(language, code, docs_folder):
    (docs_folder / "block.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(docs_folder / "block.py"), run_name="block")


def commands(code):
    """Return the words of each command, without comments."""
    joined = re.sub(r"\\\n", " ", code)
    lines = (shlex.split(line, comments=True) for line in joined.splitlines())
    return [words for words in lines if words]


@pytest.mark.train
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(("language", "code"), of("bash"))
def test_commands_run(language, code, capsys):
    """Run those of `yolo-gradwatch`; other tests install the package and use the Makefile."""
    for program, *words in commands(code):
        if program == "yolo-gradwatch":
            arguments = words[: words.index(">")] if ">" in words else words
            assert main(arguments) == 0, words
            assert capsys.readouterr().out
        else:
            assert (program, *words) == ("pip", "install", ".")


@pytest.mark.parametrize(("language", "code"), of("toml"))
def test_toml_blocks_change_limits(language, code):
    from yolo_gradwatch import Thresholds

    assert Thresholds.from_mapping(tomllib.loads(code)) != Thresholds()


# --- numbers --------------------------------------------------------------------------------------

NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)*(?:e[+-]?\d+)?(?![\w])")
GENERATED = "<!-- sections: written by"
UNTESTED = {"docs/api.md", "docs/architecture.md", "docs/changelog.md"}
"""Pages that only include other files."""

EXEMPT = {
    "README.md": {"3.10"},  # version of Python
    "docs/start.md": {"3.10"},  # version of Python
    "docs/accuracy.md": {
        "3.10",  # version of Python
        "2.14",  # version of torch
        "1e-5",  # the injected fault that is missed, and the tolerance of the tests
        "1e18",  # squares of larger numbers overflow float32
        "245",  # steps from 1,200 to 1,445, both in the results
    },
    "docs/files.md": {"1.8e19"},  # square root of the largest float32
    "docs/gradients.md": {"4,096"},  # 2 to the power of 12
}
"""Numbers that are not measured, by page."""


def quoted(page):
    """Return the numbers in prose and tables of a page, without code, addresses and versions."""
    text = page.read_text(encoding="utf-8").partition(GENERATED)[0]
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!-- (\w+) -->.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]+`|\]\([^)]*\)|<[^>]*>|^> .*$", " ", text, flags=re.MULTILINE)
    found = {number.rstrip(",") for number in NUMBER.findall(text)}
    return {number for number in found if number.count(".") < 2}  # versions have three parts


def is_measured(number, known):
    """Return whether a number, possibly rounded, is among the measured ones."""
    value = float(number.replace(",", ""))
    digits = len(re.sub(r"e.*|[.,]", "", number).lstrip("0"))
    return any(one == value or float(f"{one:.{max(digits, 1)}g}") == value for one in known)


def numbers_of(text):
    found = [number for number in NUMBER.findall(text) if number.count(".") < 2]
    return {float(number.replace(",", "")) for number in found}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_number_is_in_the_results(page):
    if name_of(page) in UNTESTED:
        return
    own = LESSONS.read_text(encoding="utf-8") if page.name == "gradients.md" else ""
    known = numbers_of(RESULTS) | numbers_of(own)
    unknown = {number for number in quoted(page) if not is_measured(number, known)}
    assert unknown == EXEMPT.get(name_of(page), set())  # no more and no less


def newest(title):
    """Return the newest section of the results with this title."""
    return re.split(rf"^## {title}, .*$", RESULTS, flags=re.MULTILINE)[-1].partition("\n## ")[0]


def test_accuracy_page_has_the_newest_table_of_remedies():
    page = (DOCS / "accuracy.md").read_text(encoding="utf-8")
    assert "\n".join(re.findall(r"^\|.*\|$", newest("Remedies"), re.MULTILINE)) in page


def test_accuracy_page_has_the_newest_totals_of_causes():
    page = (DOCS / "accuracy.md").read_text(encoding="utf-8")
    line = r"^(Looked at|Held out): call right in (\d+)/(\d+) \(\d+%\), mechanism in \2/\3 "
    totals = re.findall(line, newest("Causes"), re.MULTILINE)
    assert len(totals) == 2
    for name, right, count in totals:
        rows = re.findall(rf"^\| {name.lower()}.* \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
        assert rows[-1] == (count, right)


def test_accuracy_page_has_the_newest_detection_rows():
    page = (DOCS / "accuracy.md").read_text(encoding="utf-8")
    own = [row for row in re.findall(r"^\|.*\|$", page, re.MULTILINE) if "/45 (" in row]
    known = [row for row in re.findall(r"^\|.*\|$", RESULTS, re.MULTILINE) if "/45 (" in row]
    last = {row.split("|")[1]: row for row in known}  # the newest row of each name
    assert len(own) == 8
    assert all(last[row.split("|")[1]].startswith(row) for row in own)


def test_readme_has_the_newest_figures():
    """Each figure must be next to its description."""
    text = " ".join(PAGES[0].read_text(encoding="utf-8").split())
    (cells,) = re.findall(r"^\| yolo_gradwatch \|(.*)\|$", newest("Detection"), re.MULTILINE)
    flagged, early, found, right, delay, *_ = (
        cell.split(" (")[0].strip() for cell in cells.split("|")
    )
    few, healthy = flagged.split("/")
    assert early == "0"
    assert f"{few} of the {healthy} runs that the limits were tuned on" in text
    assert (
        f"{found.replace('/', ' of ')} injected faults, {right.replace('/', ' of ')} in the" in text
    )
    median, most = delay.split(", max ")
    assert f"after a median of {median} steps and at most {most}." in text
    (helped,) = re.findall(r"^The first advice helped in (\d+ of \d+)\.$", RESULTS, re.MULTILINE)[
        -1:
    ]
    assert f"the first suggestion helped in {helped} injected faults" in text
    stood, count = re.findall(r"held-out faults stand at (\d+) of (\d+)", RESULTS)[-1]
    (now,) = re.findall(r"^Held out: call right in (\d+)/", newest("Causes"), re.MULTILINE)
    assert f"right in {stood} of {count} held-out runs on the first try; we then fixed" in text
    assert f"two bugs found on these runs ({now} of {count})" in text


# --- pages ----------------------------------------------------------------------------------------


def test_findings_page_is_up_to_date(request):
    """``pytest --rewrite-golden`` rewrites it."""
    script = runpy.run_path(str(REPOSITORY / "scripts" / "docs_findings.py"))
    if request.config.getoption("--rewrite-golden"):
        script["main"]()
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"]()


def _plain(number):
    """Format a number with three digits and without an exponent."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def test_lessons_page_quotes_the_measured_numbers():
    page = (DOCS / "gradients.md").read_text(encoding="utf-8")
    for row in json.loads(LESSONS.read_text(encoding="utf-8"))["stacks"].values():
        if "end" in row:
            assert f"| {_plain(row['end'])} | {_plain(row['begin'])} |" in page


def test_readme_is_short_and_pictures_are_small():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) < 160
    pictures = [one for one in DOCS.rglob("*") if one.suffix in {".png", ".svg", ".json"}]
    assert sum(one.stat().st_size for one in pictures) < 3_000_000


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_existing_files(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert not [link for link in links if not (page.parent / link).exists()]


def test_pictures_are_used_and_pages_are_in_the_navigation():
    texts = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = [one.name for one in DOCS.rglob("*") if one.suffix in {".png", ".svg"}]
    assert not [name for name in pictures if name not in texts]
    navigation = (REPOSITORY / "zensical.toml").read_text(encoding="utf-8")
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES[1:]]
    assert not [page for page in pages if f'"{page}"' not in navigation]
