"""Files of weights from elsewhere: what is read, and that nothing in them is ever run."""

import argparse
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vco.errors import UserError
from vco.storage.weights import read_weights

WEIGHTS = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}


class Calls:
    """An object that has something called when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_has_its_weights_its_averages_and_its_settings(tmp_path: Path) -> None:
    settings = argparse.Namespace(noise_scale=2.0, model="JiT-B/32", resume=None, layers=[1, 2])
    averages = {f"model_ema{n}": {k: v + n for k, v in WEIGHTS.items()} for n in (1, 2)}
    content = {"model": OrderedDict(WEIGHTS), **averages, "optimizer": {"state": {}}, "epoch": 599, "args": settings}
    torch.save(content, tmp_path / "a.pth")
    file = read_weights(tmp_path / "a.pth")
    assert {name: float(tensors["a.bias"][0]) for name, tensors in file.sets.items()} == {
        "model": 0,
        "ema-0": 1,
        "ema-1": 2,
    }
    assert (file.epoch, file.steps, file.averages, file.first) == (599, None, 2, "ema-0")
    assert file.settings == {"noise_scale": 2.0, "model": "JiT-B/32"}


@pytest.mark.parametrize("archive", [True, False])
def test_a_plain_state_dict_is_read_in_both_formats_of_torch(archive: bool, tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    assert zipfile.is_zipfile(tmp_path / "a.pth") == archive
    file = read_weights(tmp_path / "a.pth")
    assert (file.averages, file.first) == (0, "model")
    assert all(torch.equal(file.sets["model"][name], tensor) for name, tensor in WEIGHTS.items())


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert read_weights(tmp_path / "a.safetensors").sets["model"].keys() == WEIGHTS.keys()


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    ("evil", "named"),
    [
        (lambda marker: Calls(shutil.copyfile, __file__, str(marker)), "shutil.copyfile"),
        (lambda marker: Calls(exec, f"open({str(marker)!r}, 'w')"), "exec"),
        (lambda marker: Calls(getattr, Path(marker), "touch"), "getattr"),
        (lambda marker: nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_what_a_pickle_asks_for_is_named_and_not_run(evil: Any, named: str, archive: bool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = {"model": WEIGHTS, "args": evil(marker)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    told = refused(tmp_path / "a.pth")
    assert f"a.pth asks for {named} to be used when it is read" in told
    assert not marker.exists()


def test_what_another_library_has_allowed_is_refused_all_the_same(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "args": nn.Linear(2, 2)}, tmp_path / "a.pth")
    with torch.serialization.safe_globals([nn.Linear]):
        before = set(torch.serialization.get_safe_globals())
        refused(tmp_path / "a.pth")
        assert set(torch.serialization.get_safe_globals()) == before  # and is allowed as before


def test_a_bare_pickle_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Calls(shutil.copyfile, __file__, str(marker))))
    refused(tmp_path / "a.pth")
    assert not marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_truncated_file_is_one_sentence(name: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / name
    save_file(WEIGHTS, path) if path.suffix == ".safetensors" else torch.save(WEIGHTS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert f"{name} is no file of weights, or it is damaged" in refused(path)


@pytest.mark.parametrize("text", ["", "hello world\n" * 20, "PK\x03\x04 not really"])
def test_another_kind_of_file_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text(text)
    assert "is no file of weights, or it is damaged" in refused(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "holds a list and no weights by name"),
        (torch.zeros(2), "holds a Tensor and no weights by name"),
        ({}, "there are no tensors"),
        ({"model": {}}, "there are no tensors"),
        ({"model": {"a": 3}}, "'a' is no tensor"),
        ({"model": WEIGHTS, "model_ema1": {"a": "b"}}, "'a' is no tensor"),
    ],
)
def test_a_file_without_weights_is_one_sentence(content: Any, sentence: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert sentence in refused(tmp_path / "a.pth")


@pytest.mark.parametrize(("step", "steps"), [(torch.tensor(12.0), 12), (7, 7), ("x", None), (torch.zeros(2), None)])
def test_steps_are_those_of_an_adam(step: Tensor | int | str, steps: int | None, tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "optimizer": {"state": {0: {"step": step}}}}, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth").steps == steps


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing.pth") == f"there is no file {tmp_path / 'nothing.pth'}"
    assert "is a folder, and a file of weights is needed" in refused(tmp_path)
