"""`vco new`: what it writes, and what it refuses."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from environments import Shell

import vco
from vco import starter
from vco.cli import main_vco
from vco.kinds import SECTIONS, Kind
from vco.plugins.discovery import with_modules
from vco.plugins.registry import Catalog

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "write_a_plugin.md").read_text()
SHORT = (
    "--train.steps 2 --train.batch-size 20 --train.samples-per-class 2 --train.fit-samples 60 --sample.steps 1 "
    "--sample.grid-rows 1 --eval.samples 20"
)


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder is an empty one, and what it adds to the import path is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def refusal(capsys: Capture, *argv: str) -> str:
    """What is said about a command that cannot be obeyed."""
    assert main_vco(["new", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


# ---------------------------------------------------------------------------------------------------- what it writes


def test_a_package_is_complete_and_the_command_says_how_to_go_on(tmp_path: Path, capsys: Capture) -> None:
    assert main_vco(["new", "loss", "fresh-loss", "--folder", "in here/mine"]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "in here" / "mine"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    module = {"vco_fresh_loss/__init__.py", "vco_fresh_loss/loss.py"}
    assert files == {"README.md", "pyproject.toml", "tests/test_contract.py", *module}
    assert all(f"  {path}" in out for path in files)
    assert "vco_fresh_loss/loss.py  <- edit this file" in out
    commands = ["cd 'in here/mine'", "pip install -e '.[test]'", "pytest", "vco-run --loss fresh-loss"]
    assert out.endswith("next:\n" + "".join(f"  {command}\n" for command in commands))


@pytest.mark.parametrize("kind", SECTIONS.values(), ids=lambda kind: kind.section)
def test_what_is_written_is_tidy_named_anew_everywhere_and_loads(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = kind.section
    name, module = f"relational-{section}-of-mine", f"vco_relational_{section}_of_mine"
    assert main_vco(["new", section, name]) == 0
    folder = tmp_path / module
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        assert not re.findall(r"\b[Mm]y[-_A-Z]\w+|\$", path.read_text()), path
    for config in ([], ["--config", ROOT / "pyproject.toml"]):  # of the package, and ours
        for tool in (["check"], ["format", "--check"]):
            command = [Path(sys.executable).with_name("ruff"), *tool, "--no-cache", *config, folder]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout
    monkeypatch.syspath_prepend(folder)
    component = with_modules(Catalog(), [module]).get(kind.name, name).load()
    assert component.__qualname__ == f"Relational{section.capitalize()}OfMine"


def test_what_is_written_keeps_its_contract_before_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main_vco(["new", "process", "fresh-process"]) == 0
    monkeypatch.chdir("vco_fresh_process")
    assert main_vco(["check", "vco_fresh_process"]) == 0


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert main_vco(["new", "loss", "fresh-loss", "--folder", "mine"]) == 0
    assert (tmp_path / "mine" / "pyproject.toml").is_file()


def test_the_wheel_brings_all_that_is_copied(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    folder = Path(starter.__path__[0])
    copied = [*folder.glob("files/*"), *(folder / f"{section}.py" for section in SECTIONS)]
    assert len(copied) == 4 + len(SECTIONS)
    assert {f"vco/starter/{path.relative_to(folder)}" for path in copied} <= set(zipfile.ZipFile(wheel).namelist())


# --------------------------------------------------------------------------------------------------- what it refuses

REFUSED = {
    "an unknown kind": (["los", "mine"], ["'los'", "did you mean 'loss'?", ", ".join(SECTIONS)]),
    "another spelling": (["loss", "My_Loss"], ["'My_Loss'", "is not kebab-case, as in 'my-name'"]),
    "a path": (["loss", "../mine"], ["'../mine'", "is not kebab-case"]),
    "what means none": (["loss", "none"], ["'none'", "stands for nothing chosen"]),
    "a built-in": (["loss", "repa"], ["'repa'", f"vco {vco.__version__} (entry point builtins) has one of this name"]),
    "a plugin": (["loss", "builtins"], ["'builtins'", "there is a plugin of this name"]),
    "vco": (["loss", "vco"], ["'vco'", "there is a plugin of this name"]),
    "an installed module": (["loss", "plugins"], ["'plugins'", "vco_plugins would hide that of", "__init__.py"]),
    "a stream": (["loss", "image"], ["'image'", "vco itself uses this name"]),
    "an attribute": (["loss", "train"], ["'train'", "vco itself uses this name"]),
    "an imported class": (["adapter", "features"], ["'features'", "called Features, which stands for something else"]),
    "another class of the file": (["data", "bars"], ["'bars'", "called Bars"]),
    "the class of options": (["solver", "config"], ["'config'", "called Config"]),
    "a word of Python": (["backbone", "none"], ["'none'", "called None"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_name_that_cannot_be_had_is_refused_and_nothing_is_written(
    mistake: str, tmp_path: Path, capsys: Capture
) -> None:
    argv, words = REFUSED[mistake]
    line = refusal(capsys, *argv)
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir())


def test_names_are_unique_within_a_kind_only() -> None:
    assert main_vco(["new", "adapter", "repa"]) == 0


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "vco_mine").mkdir()
    (tmp_path / "vco_mine" / "precious").write_text("precious")
    assert f"{tmp_path / 'vco_mine'} exists and is not empty; choose another --folder" in refusal(
        capsys, "loss", "mine"
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["vco_mine", "precious"]


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("file", "exists and is not empty"),
        ("file/mine", "cannot write"),
        (".", "is the current folder"),
        ("/proc/mine", "cannot write"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named(folder: str, reason: str, tmp_path: Path, capsys: Capture) -> None:
    if folder.startswith("file"):
        (tmp_path / "file").write_text("precious")
    before = list(tmp_path.rglob("*"))
    line = refusal(capsys, "loss", "mine", "--folder", folder)
    assert reason in line
    assert "--folder" in line
    assert list(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_nothing(
    error: BaseException, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    write = Path.write_text

    def fail_at_the_third(path: Path, text: str, encoding: str | None = None) -> int:
        written.append(path)
        if len(written) == 3:
            raise error
        return write(path, text, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", fail_at_the_third)
    if isinstance(error, OSError):
        assert "cannot write" in refusal(capsys, "loss", "mine")
    else:
        assert main_vco(["new", "loss", "mine"]) == 130
    assert len(written) == 3
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------- in an environment of its own


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("environment"))


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_the_commands_that_it_names_do_what_they_should(section: str, shell: Shell, tmp_path: Path) -> None:
    name = f"fresh-{section}"
    *commands, run = shell(f"vco new {section} {name}", tmp_path).partition("next:\n")[2].splitlines()
    out = shell(" && ".join([*commands, f"vco check {name}", f"{run} {SHORT}"]), tmp_path)
    assert re.search(r"\d+ passed", out)
    assert f"{section}/{name}" in out
    assert " 0 broken" in out
    assert "after 2 steps" in out
    (config,) = tmp_path.glob("*/runs/*/config.yaml")
    assert f"{name}\n" in config.read_text()


@pytest.mark.slow
def test_the_page_for_plugin_authors_installs_such_a_package(shell: Shell, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks if "vco_my_loss" in block for line in block.splitlines()]
    assert any(line.startswith("pip install") for line in lines)
    for line in ("vco new loss my-loss", *lines):
        shell(line, tmp_path)
