"""The fit stage and its cache."""

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from vco.training.fitting import _hash, cache_folder
from vco_plugins.adapters.rms import RMS
from vco_plugins.features.digits_vit import DigitsViT

OPTIONS = ("--adapter", "rms", "--train.fit-samples", "60")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VCO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fits"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each fit that is really done."""
    done: list[str] = []
    fit = RMS.fit
    monkeypatch.setattr(RMS, "fit", lambda self, batches: (done.append("fit"), fit(self, batches)))  # pyright: ignore
    return done


def fitted(folder: Path, *options: str) -> dict[str, Tensor]:
    return dict(tiny.prepare(folder, *OPTIONS, *options).objective.adapter.state_dict())


def test_another_seed_finds_the_fit_again(tmp_path: Path, fits: list[str], cache: Path) -> None:
    one, other = fitted(tmp_path / "1"), fitted(tmp_path / "2", "--seed", "7")
    assert fits == ["fit"]
    assert len(list(cache.iterdir())) == 1
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "options",
    [
        ("--adapter.scale", "2"),
        ("--features", "digits-cnn"),
        ("--train.fit-samples", "61"),
        ("--adapter.per", "channel"),
    ],
)
def test_what_the_fit_depends_on_makes_it_another_one(
    tmp_path: Path, fits: list[str], options: tuple[str, ...]
) -> None:
    fitted(tmp_path / "1")
    fitted(tmp_path / "2", *options)
    assert fits == ["fit", "fit"]


def test_other_weights_of_the_encoder_make_it_another_one(tmp_path: Path, fits: list[str]) -> None:
    fitted(tmp_path / "1")
    load = DigitsViT.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DigitsViT, "load", lambda self: (load(self), self.network.positions.data.add_(1e-3)))  # pyright: ignore
        fitted(tmp_path / "2")
    assert fits == ["fit", "fit"]


def test_other_images_in_the_same_place_make_it_another_one(tmp_path: Path, fits: list[str]) -> None:
    from vco_plugins.data import digits

    fitted(tmp_path / "1")
    train = digits.Digits.train

    def brighter(self: digits.Digits) -> object:
        images = train(self)
        image = images.image
        images.image = lambda index, generator: image(index, generator) | 1  # pyright: ignore
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits.Digits, "train", brighter)
        fitted(tmp_path / "2")
    assert fits == ["fit", "fit"]


def test_batch_size_does_not_make_it_another_one(tmp_path: Path, fits: list[str]) -> None:
    fitted(tmp_path / "1")
    fitted(tmp_path / "2", "--train.batch-size", "10")
    assert fits == ["fit"]


def test_a_file_cut_short_is_fitted_and_written_again(tmp_path: Path, fits: list[str], cache: Path) -> None:
    one = fitted(tmp_path / "1")
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    other = fitted(tmp_path / "2")
    assert fits == ["fit", "fit"]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert file.read_bytes() == whole


def test_without_a_folder_to_write_to_the_run_goes_on(
    tmp_path: Path, fits: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.parent.write_text("a file where the folder would be")
    fitted(tmp_path / "1")
    assert fits == ["fit"]
    assert "not kept" in capsys.readouterr().out


def test_weights_that_the_fit_does_not_set_belong_to_the_seed(tmp_path: Path) -> None:
    options = ("--adapter", "coredi", "--adapter.init", "pca", "--adapter.vf", "0.1")
    one, other = fitted(tmp_path / "1", *options), fitted(tmp_path / "2", *options, "--seed", "7")
    assert torch.equal(one["projection"], other["projection"])
    assert not torch.equal(one["lift"], other["lift"])


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache" / "fits"
    monkeypatch.delenv("VCO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "vco" / "fits"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "vco" / "fits"


# ---------------------------------------------------------------------------------------------- a cache that is damaged


def damaged(cache: Path, how: str) -> None:
    """Spoils the one fit that is kept."""
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    if how == "bit":
        content[-3] ^= 0x10
        path.write_bytes(bytes(content))
    elif how == "cut":
        path.write_bytes(bytes(content[:-5]))
    elif how == "empty":
        path.write_bytes(save({}))
    else:
        tensors = load_file(path)
        other = {"nothing-of-the-kind": torch.ones(3)} if how == "other" else {n: v[None] for n, v in tensors.items()}
        path.write_bytes(save(other, {"sha256": _hash(other)}))


@pytest.mark.parametrize("how", ["bit", "cut", "empty", "other", "shape"])
def test_a_fit_that_is_damaged_is_said_and_done_anew(
    how: str, tmp_path: Path, fits: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = fitted(tmp_path / "1")
    damaged(cache, how)
    again = fitted(tmp_path / "2")
    assert fits == ["fit", "fit"]
    assert "is damaged (" in capsys.readouterr().out
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    fitted(tmp_path / "3")
    assert fits == ["fit", "fit"]  # what was fitted anew is kept
