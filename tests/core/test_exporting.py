"""Exported runs: they open like a run, say what they are, and can be put on the Hugging Face Hub."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
import tiny
import torch
import yaml
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

import vco
from vco.commands.exporting import main
from vco.errors import UserError
from vco.folder import RunFolder
from vco.storage import files, hub
from vco.training.loop import Training

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a score, whose averages differ."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    options = (*tiny.ONE_STREAM, "--train.steps", "4", "--train.checkpoint-every", "2")
    training: Training = tiny.prepare(folder, *options)
    tiny.scramble(training, 1)
    training.train()
    RunFolder(folder).record(tiny.invocation(folder, *options), training.run.facts)
    score = {"metric": "FD (x)", "title": "FD-1k (x)", "value": 1.25, "real_value": 0.5, "protocol": {"images": 1000}}
    line = {"step": 4, "ema_decay": 0.99, "seed": 3, "guidance": {"name": "cfg", "scale": 1.5}, "scores": [score]}
    (folder / "eval.json").write_text(json.dumps({**line, **score}))
    return folder


def export(run: Path, out: Path, *options: str) -> Path:
    assert main([str(run), "--out", str(out), *options]) == 0
    return out


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("exported") / "mine", "--licence", "cc-by-4.0")


@pytest.mark.parametrize(
    ("options", "step", "ema"),
    [((), 4, 0), (("--ema", "1"), 4, 1), (("--ema", "none"), 4, None), (("--step", "2"), 2, 0)],
)
def test_it_opens_as_the_weights_that_were_asked_for(
    options: tuple[str, ...], step: int, ema: int | None, run: Path, tmp_path: Path
) -> None:
    there, here = vco.open_run(run, step=step, ema=ema), vco.open_run(export(run, tmp_path / "out", *options))
    expected = there.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in here.model.state_dict().items())
    assert (here.step, here.ema_decay) == (there.step, there.ema_decay)
    assert torch.equal(here.sample([1, 2], seed=3), there.sample([1, 2], seed=3))


def test_it_holds_one_set_of_weights_and_no_state_of_an_optimizer(exported: Path) -> None:
    assert [path.name for path in exported.rglob("*.safetensors")] == ["ema-0.safetensors"]
    assert {path.name for path in exported.iterdir()} == {
        "README.md", "checkpoints", "config.yaml", "facts.yaml", "plugins.yaml", "samples.png",
    }  # fmt: skip


def test_the_last_weights_are_not_in_it(exported: Path) -> None:
    with pytest.raises(UserError, match=r"holds no last weights, as it was exported; it has average 0 \(decay 0\.99\)"):
        _ = vco.open_run(exported, ema=None).model


def test_it_can_be_exported_again(exported: Path, tmp_path: Path) -> None:
    again = vco.open_run(export(exported, tmp_path / "again"))
    assert again.ema_decay == 0.99
    assert torch.equal(again.sample([1]), vco.open_run(exported).sample([1]))


def test_another_run_can_begin_with_it_but_it_cannot_go_on(exported: Path, tmp_path: Path, capsys: Capture) -> None:
    training = tiny.prepare(tmp_path / "run", *tiny.ONE_STREAM, "--from", str(exported))
    expected = vco.open_run(exported).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in training.objective.state_dict().items())
    assert f"begun with the first running average of step 4 of {exported}" in capsys.readouterr().out
    copied = Path(shutil.copytree(exported, tmp_path / "copied"))
    with pytest.raises(UserError, match=r"which cannot go on; begin a new run with them: --from .*copied"):
        tiny.prepare(copied, *tiny.ONE_STREAM)


def test_the_model_card_says_what_it_is_how_it_was_scored_and_how_to_load_it(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["library_name"] == "vco"
    for text in (
        "# mine", 'vco.open_run("mine")', "| backbone | jit, ", "| training | 4 steps; running average 0.99 |",
        "| data | digits: 10 classes, 1x8x8 |", "| FD-1k (x) | 1.25 | 0.5 |", "| guidance.scale | 1.5 |",
        "| protocol: images | 1000 |", "![samples", "## Licence\n\ncc-by-4.0",
    ):  # fmt: skip
        assert text in card


def test_scores_of_other_weights_are_not_on_the_card(run: Path, tmp_path: Path) -> None:
    for options in (("--ema", "1"), ("--step", "2")):
        card = (export(run, tmp_path / options[0], *options) / "README.md").read_text()
        assert "Of these weights none was measured." in card
        assert "Not stated. Ask those who published it before you use it." in card
        assert "license:" not in card


def test_the_code_on_the_card_runs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (exported / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(exported.parent)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["images"].shape == (2, 1, 8, 8)


def test_places_on_this_machine_are_not_given_away(run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    plain = yaml.safe_load((copied / "config.yaml").read_text())
    plain |= {"start_from": "/home/me/other", "output_dir": "/home/me/run"}
    plain["data"] = {"name": "image-folder", "root": "/home/me/images", "size": 8, "classes": 10}
    (copied / "config.yaml").write_text(yaml.safe_dump(plain))
    out = export(copied, tmp_path / "out")
    texts = {path.name: path.read_text() for path in out.rglob("*") if path.suffix in (".yaml", ".md", ".json")}
    assert [name for name, text in texts.items() if "/home/me" in text or str(tmp_path) in text] == []
    assert "| begun with | other |" in texts["README.md"]
    assert vco.open_run(out).config.part("data").config.root == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--step", "3"], r"there is no checkpoint of step 3 in .*; there are those of steps 2, 4"),
        (["--ema", "2"], r"has no running average number 2; it has 0 \(decay"),
        (["--push", "nobody"], r"--push nobody: a repository is written OWNER/NAME"),
        (["--licence", "do what you like"], r"--licence do what you like: give an identifier"),
    ],
)
def test_what_is_not_there_is_one_sentence(options: list[str], sentence: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        main([str(run), "--out", str(tmp_path / "out"), *options])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_or_is_no_run_is_one_sentence(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="exists already; choose another --out"):
        main([str(run), "--out", str(tmp_path)])
    with pytest.raises(UserError, match="is not the folder of a run"):
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_an_export_that_fails(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device", "README.md")

    monkeypatch.setattr(files, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        main([str(run), "--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- the Hub


class Hub:
    """What an upload asks of the Hub; repositories are folders."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self.folder, self.error = folder, error

    def create_repo(self, repository: str, *, exist_ok: bool) -> None:
        if self.error is not None:
            raise self.error
        assert exist_ok
        (self.folder / repository).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        assert commit_message
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)

    def fetch(self, repository: str, allow_patterns: object = None) -> str:
        if not (self.folder / repository).is_dir():
            raise OfflineModeIsEnabled("there is no network.")
        return str(self.folder / repository)


def test_a_pushed_run_is_opened_from_the_hub(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    there = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: there)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", there.fetch)
    out = export(run, tmp_path / "out", "--push", "me/mine")
    assert 'pushed to me/mine: vco.open_run("hf://me/mine") opens it' in capsys.readouterr().out
    assert 'run = vco.open_run("hf://me/mine")' in (tmp_path / "hub/me/mine/README.md").read_text()
    fetched = vco.open_run("hf://me/mine")
    assert torch.equal(fetched.sample([1]), vco.open_run(out).sample([1]))
    training = tiny.prepare(tmp_path / "run", *tiny.ONE_STREAM, "--from", "hf://me/mine@4")
    expected = fetched.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in training.objective.state_dict().items())
    with pytest.raises(
        UserError, match=r"^hf://me/none cannot be fetched \(HF_HUB_OFFLINE is set, and there is no copy in the cache\)"
    ):
        vco.open_run("hf://me/none")


def answer(kind: Any) -> Exception:
    response = Mock(status_code=404, headers={}, request=Mock())
    return kind("404 Client Error", response=response) if issubclass(kind, HfHubHTTPError) else kind("404 Client Error")


@pytest.mark.parametrize(
    ("error", "offline", "why"),
    [
        (RepositoryNotFoundError, False, "there is no such repository, or it is private; `hf auth login` says"),
        (GatedRepoError, False, "its owner gives access to those who ask for it on its page"),
        (LocalEntryNotFoundError, False, "the Hugging Face Hub does not answer, and there is no copy in the cache"),
        (LocalEntryNotFoundError, True, "HF_HUB_OFFLINE is set, and there is no copy in the cache"),
        (ValueError, False, "ValueError: 404 Client Error"),
    ],
)
def test_what_keeps_a_run_on_the_hub_away_is_one_sentence(
    error: Any, offline: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*given: object, **more: object) -> str:
        raise answer(error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    for ask in (hub.local_path, lambda place: hub.require_run(place[5:])):
        with pytest.raises(UserError, match=rf"^hf://me/none cannot be fetched \({re.escape(why)}.*\); give") as caught:
            ask("hf://me/none")
        assert "\n" not in str(caught.value)


def test_a_repository_that_holds_no_run_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def fetch(repository: str, allow_patterns: object) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(UserError, match=r"\(the repository holds no run: it has no config\.yaml\)"):
        hub.require_run("me/none")
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    hub.require_run("me/none")
    assert asked == [["config.yaml"]] * 2


@pytest.mark.parametrize(
    "error",
    [
        LocalTokenNotFoundError("Token is required, but no token found.\nLog in first."),
        OfflineModeIsEnabled("Cannot reach https://hub: offline mode is enabled."),
        ConnectionError("Network is unreachable"),
        ValueError("not a repository"),
    ],
)
def test_an_upload_that_fails_is_one_sentence_and_the_folder_stays(
    error: Exception, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(tmp_path / "hub", error))
    with pytest.raises(
        UserError, match=r"could not be pushed to me/mine \(.*`hf upload me/mine .*out` does it"
    ) as caught:
        main([str(run), "--out", str(tmp_path / "out"), "--push", "me/mine"])
    assert "\n" not in str(caught.value)
    assert vco.open_run(tmp_path / "out").step == 4


@pytest.mark.parametrize("verb", ["import", "export"])
def test_the_help_of_both_verbs_waits_for_no_heavy_import(verb: str) -> None:
    code = f"import sys\ntry: from vco.cli import main_vco; main_vco([{verb!r}, '--help'])\n" + (
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert f"usage: vco {verb} " in done.stdout
