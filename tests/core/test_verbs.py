"""The command `vco`: its verbs, each with options of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vco.cli import VERBS, main_vco

Capture = pytest.CaptureFixture[str]
VCO = "import sys; from vco.cli import VERBS, main_vco; sys.exit(main_vco(sys.argv[1:]))"


def test_the_help_lists_every_verb(capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main_vco(["--help"])
    out = capsys.readouterr().out
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("    ") and line[4] != " "]
    assert listed[-1 - len(VERBS) :] == ["plugins", *VERBS]


@pytest.mark.parametrize(
    ("verb", "option"),
    [("plugins", "--no-plugin"), ("check", "--xfail"), ("new", "--folder"), ("sample", "--trajectory")],
)
def test_each_verb_has_help_of_its_own(verb: str, option: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main_vco([verb, "--help"])
    out = capsys.readouterr().out
    assert f"usage: vco {verb} " in out
    assert option in out


def test_alone_it_lists_its_verbs(capsys: Capture) -> None:
    assert main_vco([]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("usage: vco ")
    assert all(f"\n    {verb}" in error for verb in ("plugins", *VERBS))


@pytest.mark.parametrize(
    ("verb", "near"), [("smple", "; did you mean 'sample'?"), ("evaluate", "; did you mean 'eval'?"), ("xyzzy", "")]
)
def test_a_verb_that_is_none_is_one_sentence(verb: str, near: str, capsys: Capture) -> None:
    assert main_vco([verb, "runs/a", "--num", "3"]) == 2
    assert capsys.readouterr().err == f"vco: there is no verb {verb!r}{near} (`vco --help` lists them)\n"


@pytest.mark.parametrize("argv", [["plugins", "--nope"], ["check"], ["check", "m", "--nope"], ["new", "loss"]])
def test_what_a_verb_does_not_know_is_refused(argv: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main_vco(argv)
    error = capsys.readouterr().err
    assert "usage: vco " in error
    assert "unrecognized arguments: --nope" in error or "arguments are required" in error


def test_the_package_is_the_command_for_launchers_of_several_processes() -> None:
    command = [sys.executable, "-m", "vco", "plugins", "--no-plugin", "nobody"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "jit-dual" in done.stdout, done.stderr) == (0, True, "")


def test_a_verbs_mistake_is_one_sentence_with_status_2(capsys: Capture) -> None:
    assert main_vco(["check", "no_such_plugin"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vco check: the plugin no_such_plugin cannot be used")


@pytest.mark.parametrize("verb", ["plugins", "check", "new", "sample"])
def test_help_waits_for_no_heavy_import(verb: str) -> None:
    code = f"import sys\ntry: from vco.cli import VERBS, main_vco; main_vco([{verb!r}, '--help'])\n" + (
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_streams_that_are_closed_do_not_matter(closed: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m vco new loss a {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) != []
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m vco new nonsense b {closed}"], cwd=tmp_path)
    assert done.returncode == 2


@pytest.mark.parametrize(
    "argv", [["plugins"], ["check", "vco_plugins", "--only", "solver/euler"], ["new", "loss", "a"]]
)
def test_a_reader_that_leaves_early_gets_no_traceback(argv: list[str], tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-c", VCO, *argv]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")
