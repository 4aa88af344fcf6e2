"""A run folder knows which plugins its components came from."""

from pathlib import Path

import pytest
import yaml
from tiny import argv, invocation

from vco.cli import main_run, main_vco
from vco.config.command_line import parse
from vco.config.resolve import resolve
from vco.errors import UserError
from vco.facts import RunFacts
from vco.folder import RunFolder
from vco.plugins.discovery import load_catalog

SOURCE = """
from vco import hookimpl

@hookimpl
def vco_solvers():
    return {"acme-steps": "vco_plugins.solvers.euler:Euler"}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run with a solver of the distribution acme 0.1, which is gone again."""
    site, run = tmp_path / "site", tmp_path / "run"
    (site / "acme-0.1.dist-info").mkdir(parents=True)
    (site / "acme_steps.py").write_text(SOURCE)
    (site / "acme-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 0.1\n")
    (site / "acme-0.1.dist-info" / "entry_points.txt").write_text("[vco]\nacme = acme_steps\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(site)
        run.mkdir()
        facts = RunFacts(image_shape=(1, 8, 8), num_classes=10, features={})
        RunFolder(run).record(invocation(run, "--solver", "acme-steps"), facts)
    return run


def test_a_run_folder_records_where_its_components_came_from(folder: Path) -> None:
    record = yaml.safe_load((folder / "plugins.yaml").read_text())
    assert record["solvers/acme-steps"] == "acme 0.1 (entry point acme)"
    assert record["backbones/jit-dual"].startswith("vco ")


@pytest.mark.parametrize("how", ["command line", "configuration file"])
def test_going_on_without_the_plugin_says_in_one_sentence_what_is_missing(folder: Path, how: str) -> None:
    config = ["--config", str(folder / "config.yaml")]
    with pytest.raises(UserError) as caught:
        resolve(parse(argv(folder, "--solver", "acme-steps") if how == "command line" else config), load_catalog())
    assert "solver: no solver named 'acme-steps'" in str(caught.value)
    assert "this run had it from acme 0.1 (entry point acme), which is missing now" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_record_changes_nothing_but_the_message(folder: Path) -> None:
    (folder / "plugins.yaml").write_text("{")
    with pytest.raises(UserError, match="no solver named 'acme-steps'") as caught:
        invocation(folder, "--solver", "acme-steps")
    assert "acme 0.1" not in str(caught.value)


def test_the_commands_leave_plugins_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_vco(["plugins", "--no-plugin", "builtins"]) == 0
    assert "(entry point builtins): left out by --no-plugin" in capsys.readouterr().out
    assert main_run(["--no-plugin", "vco_plugins", "--dry-run"]) == 2
    assert "plugins not used" in capsys.readouterr().err


def test_leaving_out_what_is_not_there_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_run(["--no-plugin=bultins", "--dry-run"]) == 2
    message = "--no-plugin bultins cannot be used: it is not installed; did you mean 'builtins'?"
    assert capsys.readouterr().err == f"vco-run: {message}\n"
