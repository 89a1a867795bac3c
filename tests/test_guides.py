"""README and the guides: each command and Python block runs, and each link leads somewhere.

A reader starts with `my_pictures` and a checkpoint in an empty folder, runs the README, and then
any guide, from top to bottom. Python names last from block to block of a document. `keras-sanet`
runs in this process by the function of its console script; programs, and commands that change the
process, run in one of their own.
"""

import contextlib
import dataclasses
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from PIL import Image

from keras_sanet import cli
from keras_sanet.datasets import scenes

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "examples/guides").glob("*.md"))
RESULTS = [ROOT / "examples/results/speed.md", ROOT / "examples/results/README.md"]
DOCUMENTS = [README, *GUIDES, *RESULTS]

# What a document says -> what the test runs instead, so that it is small and needs no network.
SMALLER = {
    r'(?<=SANet\(data.num_classes, )"resnet18"': '"resnet_tiny", aggregator_filters=8, bins=(1, 2)',
    r"(?<=backbone )resnet(18|50)(?= --[ws])": "resnet_tiny --aggregator-filters 8",
    r"\bresnet(18|50)\b": "resnet_tiny",
    r"\bimagenet\b": "resnet_tiny.safetensors",
    r"include_top=False": "include_top=False, weights=None",
    r"\b(320|473)\b": "32",
    r"\b144 192\b": "32 48",
    r"(?<=\bepochs[= ])\d+": "1",
    r"(?<=batch[-_]size[= ])\d+": "2",
    r"keras-sanet demo$": "keras-sanet demo --epochs 1 --lovasz-epochs 0",
}
# What a block or command needs: what it says -> the packages, by the backends that can run it.
NEEDS = {
    "keras_cv": {"tensorflow": ["keras_cv"]},
    "litert": {"tensorflow": []},
    "onnx": {"tensorflow": ["tf2onnx", "onnxruntime"], "torch": ["onnxscript", "onnxruntime"]},
    "openvino": {
        "tensorflow": ["openvino", "nncf"],
        "torch": ["openvino", "nncf", "onnxscript", "onnxruntime"],
    },
    "plot_": dict.fromkeys(("tensorflow", "jax", "torch"), ["matplotlib"]),
    "tf_saved_model": {"tensorflow": [], "jax": ["tensorflow"]},
    "--devices": {"tensorflow": [], "jax": []},
}
# What is not run: what it says -> why.
NOT_RUN = {
    "://": "needs the network",
    "python3 -m venv": "makes the environment that the tests run in",
    "pip install": "installs what the tests run with",
    "-m pytest": "runs the tests",
    "tests/benchmarks/": "takes minutes, and needs packages that no extra installs",
}
# Data that only the reader has, such as CITYSCAPES: the command must get as far as to miss it.
ABSENT = re.compile(r"\b[A-Z][A-Z0-9]{4,}\b")


@dataclasses.dataclass(frozen=True)
class Unit:
    """A Python block or a command line: its document, the number of its first line, its text."""

    document: Path
    line: int
    is_python: bool
    text: str

    def __str__(self):
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def small(self):
        text = self.text
        for pattern, smaller in SMALLER.items():
            text = re.sub(pattern, smaller, text)
        return text

    @property
    def reason(self):
        """Why it can't run here, or None."""
        for words, why in NOT_RUN.items():
            if words in self.text:
                return why
        backend = keras.backend.backend()
        chosen = re.match(r"KERAS_BACKEND=(\w+) ", self.text)
        backend = chosen[1] if chosen else backend
        packages = [backend]
        for word, needs in NEEDS.items():
            if word in self.text:
                if backend not in needs:
                    return f"{word} is not for {backend}"
                packages += needs[backend]
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        return f"{', '.join(missing)} not installed" if missing else None


def units(document):
    """Its Python blocks and commands, in order."""
    text, found = document.read_text("utf-8"), []
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text[: block.start(2)].count("\n") + 1
        assert block[1] in ("python", "bash", "text"), f"{document}:{line - 1} names no language."
        if block[1] == "python":
            found.append(Unit(document, line, True, block[2]))
        if block[1] == "bash":
            found += [
                Unit(document, line + index, False, command.removeprefix(".venv/bin/"))
                for index, commands in enumerate(block[2].splitlines())
                for command in commands.split(" && ")
            ]
    return found


UNITS = {document: units(document) for document in DOCUMENTS}
ALL = [unit for document in DOCUMENTS for unit in UNITS[document]]


class Reader:
    """Somebody who runs documents in the current folder, which is empty."""

    def __init__(self, state):
        self.names, self.done = {document: {} for document in DOCUMENTS}, set()
        for index in range(10):
            image, mask = scenes.draw(seed=0, index=index, size=(32, 48))
            name = "street" if index == 0 else str(index)
            for kind, array, suffix in (("images", image, "jpg"), ("masks", mask, "png")):
                path = Path("my_pictures", kind, f"{name}.{suffix}")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
        Path("my_pictures/classes.txt").write_text("\n".join(scenes.CLASS_NAMES), "utf-8")
        Path("holiday").mkdir()
        for name in ("1.jpg", "2.jpg"):
            shutil.copy(f"my_pictures/images/{name}", "holiday")
        safetensors = pytest.importorskip("safetensors.numpy")
        safetensors.save_file(state, "resnet_tiny.safetensors")

    def read(self, unit):
        """Runs a unit, after all before it in its document and in the README."""
        before = [] if unit.document == README else UNITS[README]
        for other in (*before, *UNITS[unit.document]):
            if other not in self.done and not other.reason:
                self.done.add(other)
                self._run(other)
            if other == unit:
                return
            if other == UNITS[README][-1]:
                self._stop_a_run()

    def _stop_a_run(self):
        """runs/stopped: the run of the README, as if it had been stopped in its evaluation."""
        if not Path("runs/stopped").exists():
            shutil.copytree("runs/shell", "runs/stopped")
            Path("runs/stopped/evaluation.json").unlink()

    def _run(self, unit):
        if unit.is_python:
            code = compile("\n" * (unit.line - 1) + unit.small, unit.document, "exec")
            exec(code, self.names[unit.document])
        else:
            code, error = run_command(unit.small)
            if absent := ABSENT.findall(unit.text):
                assert code == 1 and any(name in error for name in absent), error
            else:
                assert code == 0, error
        keras.config.set_dtype_policy("float32")


def run_command(command):
    """Exit code and stderr of a command line."""
    words = shlex.split(command)
    environment = {}
    while "=" in words[0]:
        name, _, environment[name] = words.pop(0).partition("=")
    program, *arguments = words
    arguments = [str(ROOT / a) if a.startswith("examples/") else a for a in arguments]
    if program == "keras-sanet" and not environment and "--devices" not in arguments:
        error = io.StringIO()
        with contextlib.redirect_stderr(error):
            try:
                code = cli.main(arguments)
            except SystemExit as usage:  # argparse's
                code = usage.code
        return code, error.getvalue()
    assert program in ("keras-sanet", "python"), command
    module = ["-m", "keras_sanet"] if program == "keras-sanet" else []
    ran = subprocess.run(
        [sys.executable, *module, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )
    return ran.returncode, ran.stderr[-3000:]


@pytest.fixture(scope="module")
def reader(tmp_path_factory, random_checkpoint):
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("KERAS_HOME", str(folder / "keras"))  # where the scenes are drawn
        for split in scenes.SPLITS:
            patch.setitem(scenes.SPLITS, split, 8)
        yield Reader(random_checkpoint("resnet_tiny"))
    shutil.rmtree(folder)  # hundreds of megabytes


@pytest.mark.slow
@pytest.mark.parametrize("unit", ALL, ids=str)
def test_a_block_or_command_runs(reader, unit):
    if unit.reason:
        if unit.is_python:
            compile(unit.text, unit.document, "exec")
        pytest.skip(unit.reason)
    reader.read(unit)


@pytest.mark.parametrize(
    "entry", [*SMALLER, *(re.escape(words) for words in (*NEEDS, *NOT_RUN))], ids=str
)
def test_an_entry_of_the_tables_above_is_used(entry):
    assert any(re.search(entry, unit.text) for unit in ALL)


def test_ci_runs_the_test_command_of_the_readme():
    (command,) = re.findall(r"^python3 .* -m pytest$", README.read_text("utf-8"), re.MULTILINE)
    lines = (ROOT / ".ci/run").read_text("utf-8").splitlines()
    assert command in [line.strip() for line in lines]


def test_the_readme_installs_extras_that_exist():
    extras = {
        e for unit in UNITS[README] for e in re.findall(r"pip install .*\[(\w+)\]", unit.text)
    }
    assert extras
    for extra in extras:
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_the_readme_is_read_in_five_minutes():
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1500


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_has_150_lines_at_most(guide):
    assert len(guide.read_text("utf-8").splitlines()) <= 150


def prose(document):
    """Its text without code blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(document):
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_a_link_or_image_leads_to_what_exists(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def paper_to_code():
    """Rows of the README's table: files and names in them."""
    section = README.read_text("utf-8").partition("## Paper to code")[2].partition("\n## ")[0]
    rows = [row.split(" | ")[1] for row in section.splitlines() if row.startswith("| ")]
    return [re.findall(r"`([\w/.]+)`", row) for row in rows[1:]]


@pytest.mark.parametrize("names", paper_to_code(), ids=" ".join)
def test_paper_to_code_names_files_and_what_is_in_them(names):
    files = [ROOT / "keras_sanet" / name for name in names if name.endswith(".py")]
    source = "".join(path.read_text("utf-8") for path in files)
    for name in names:
        assert name.endswith(".py") or re.search(rf"^(def|class) {name}\b", source, re.MULTILINE)


def help_of(*words):
    """What a command prints that asks for help."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main(words)
    return out.getvalue()


def test_every_option_that_is_named_exists():
    commands = re.findall(r"^    ([a-z-]+)", help_of("--help"), re.MULTILINE)
    helps = [help_of(command, flag) for command in commands for flag in ("--help", "--help-all")]
    known = {option for text in helps for option in re.findall(r"--[a-z-]+", text)}
    programs = [*ROOT.glob("examples/*.py"), *ROOT.glob("tests/benchmarks/*.py")]
    known |= {o for path in programs for o in re.findall(r'"(--[a-z-]+)"', path.read_text("utf-8"))}
    for document in DOCUMENTS:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", document.read_text("utf-8")))
        assert named - known == set(), document
