"""Stored latents: written once, by any number of processes, and trained on in place of images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from parity.goldens import LATENT
from PIL import Image
from safetensors.torch import load_file
from tiny_vae import write_vae

from vco.cli import main_run, main_vco
from vco.data.reader import to_float
from vco.storage import latents
from vco_plugins.codecs.vae import VAE
from vco_plugins.data.image_folder import ImageFolder

COUNT, SIDE = 30, 16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and an autoencoder."""
    folder, draws = tmp_path_factory.mktemp("latents"), np.random.default_rng(0)
    for number in range(COUNT):
        place = folder / "images" / f"class{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(place / f"{number}.png")
    write_vae(folder / "vae")
    return folder


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "SHARD", 8)


def _options(root: Path, *more: str) -> list[str]:
    data = ["--data", "image-folder", "--data.root", str(root / "images"), "--data.size", str(SIDE)]
    return [*data, "--codec", "vae", "--codec.weights", str(root / "vae"), *more]


def _store(root: Path, out: Path, *more: str) -> Path:
    assert main_vco(["latents", *_options(root), "--out", str(out), *more]) == 0
    return out


def _run(root: Path, out: Path, *more: str) -> list[str]:
    network = "--backbone sit --backbone.width 16 --backbone.depth 2 --backbone.heads 2 --adapter none --loss none"
    sizes = "--train.steps 4 --train.batch-size 6 --train.samples-per-class 0 --train.log-every 1 --sample.steps 2"
    fixed = ["--guidance", "cfg", "--metric", "none", "--sample.grid-rows", "1", "--output-dir", str(out)]
    return [*_options(root), *network.split(), *sizes.split(), *fixed, *more]


def test_the_store_holds_what_the_codec_makes_of_each_image(root: Path, tmp_path: Path) -> None:
    out = _store(root, tmp_path / "store", "--flip", "--batch-size", "5")
    codec, data = _parts(root)
    images = data.train()
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.json",
        *(f"train-0000{k}.safetensors" for k in range(4)),
    ]
    reader = latents.LatentStore(out)
    with torch.no_grad():
        for index in (0, 7, 8, len(images) - 1):
            pixels = to_float(images.image(index, None)[None])
            torch.testing.assert_close(reader.moments(index), codec.posterior(pixels)[0])
            torch.testing.assert_close(reader.moments(index, flipped=True), codec.posterior(pixels.flip(-1))[0])


def _parts(root: Path) -> tuple[Any, Any]:
    from vco.api import CodecSetting, DataSetting

    codec = VAE(VAE.Config(weights=str(root / "vae")), CodecSetting(image_shape=(3, SIDE, SIDE)))
    codec.load()
    data = ImageFolder(ImageFolder.Config(root=str(root / "images"), size=SIDE), DataSetting())
    return codec, data


def test_a_stopped_command_goes_on_where_it_was(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _store(root, tmp_path / "store")
    whole = load_file(out / "train-00002.safetensors")
    stamps = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    (out / "manifest.json").rename(out / "begun.json")
    (out / "train-00002.safetensors").unlink()
    capsys.readouterr()
    _store(root, out)
    assert "1 shard written" in capsys.readouterr().out
    assert torch.equal(load_file(out / "train-00002.safetensors")["moments"], whole["moments"])
    for path in out.glob("*.safetensors"):
        assert path.name == "train-00002.safetensors" or path.stat().st_mtime_ns == stamps[path.name]
    assert not (out / "begun.json").exists()


@pytest.mark.parametrize("flip", ["false", "true"])
def test_training_on_the_store_is_training_on_the_images_and_reads_none(
    flip: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = _store(root, tmp_path / "store", *(["--flip"] if flip == "true" else []))
    assert main_run(_run(root, tmp_path / "images", "--data.flip", flip)) == 0
    kind: Any = type(_parts(root)[1].train())
    image, read = kind.image, list[int]()

    def noted(self: Any, index: int, generator: Any) -> torch.Tensor:
        read.append(index)
        return image(self, index, generator)

    monkeypatch.setattr("vco.training.loop.write_real_grid", lambda *given: None)
    monkeypatch.setattr(kind, "image", noted)
    assert main_run(_run(root, tmp_path / "stored", "--data.flip", flip, "--train.latents", str(out))) == 0
    one, two = (tiny.metrics(tmp_path / name) for name in ("images", "stored"))
    assert len(two) == 4
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    # the cost of a step is measured on one; none for the 24 samples of four steps
    assert len(read) < 24


def test_a_store_that_does_not_match_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _store(root, tmp_path / "store")
    write_vae(tmp_path / "other", seed=1)

    def refused(*more: str) -> str:
        capsys.readouterr()
        assert main_run(_run(root, tmp_path / "run", "--train.latents", str(out), *more)) == 2
        assert not (tmp_path / "run" / "checkpoints").exists()
        return capsys.readouterr().err

    assert "other weights of the codec" in refused("--codec.weights", str(tmp_path / "other"), "--data.flip", "false")
    assert "the store lacks mirrored images; set --data.flip false" in refused("--data.flip", "true")
    assert "holds no store of latents" in refused("--train.latents", str(tmp_path))
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "images": 29}))
    assert "another number of images" in refused("--data.flip", "false")
    (out / "manifest.json").write_text("{}")
    assert "is no manifest of stored latents" in refused("--data.flip", "false")


def test_a_folder_with_other_latents_is_not_written_to(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _store(root, tmp_path / "store")
    assert main_vco(["latents", *_options(root), "--out", str(out), "--flip"]) == 2
    assert "holds latents of mirrored images, which only one of both has" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    assert main_vco(["latents", *_options(root), "--out", str(tmp_path / "full")]) == 2
    assert "exists already and holds no latents" in capsys.readouterr().err
    assert main_vco(["latents", *_options(root), "--codec", "pixels", "--out", str(tmp_path / "pixels")]) == 2


@pytest.mark.slow
def test_two_processes_write_what_one_does(root: Path, tmp_path: Path) -> None:
    arguments = ["latents", *_options(root), "--out", str(tmp_path / "two")]
    code = f"from vco.storage import latents; latents.SHARD = 8; import vco.cli; vco.cli.main_vco({arguments!r})"
    (tmp_path / "program.py").write_text(code)
    done = tiny.launched(str(tmp_path / "program.py"))
    assert done.returncode == 0, done.stderr
    one = _store(root, tmp_path / "one")
    for path in one.glob("*.safetensors"):
        found, expected = (load_file(place / path.name)["moments"] for place in (tmp_path / "two", one))
        torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------------------------------------------- REPA's layout


def _layout(root: Path, **options: Any) -> Any:
    from vco.api import DataSetting
    from vco_plugins.data.repa_latents import RepaLatents

    return RepaLatents(RepaLatents.Config(root=str(root), **options), DataSetting())


def test_the_published_layout_is_read_and_paired_by_number(tmp_path: Path) -> None:
    source = LATENT / "latent_dataset"
    with Image.open(source / "images/00000/img00000000.png") as picture:
        size = picture.size[0]
    data = _layout(source, size=size)
    data.check()
    images = data.train()
    assert images.labels.tolist() == [795, 710, 464]
    assert data.num_classes == 796
    codec = VAE(VAE.Config(weights=str(LATENT / "vae_tiny")), _setting(size))
    codec.load()
    for index in range(3):
        pixels = to_float(images.image(index, None)[None])
        moments = images.extras(index)["moments"]
        torch.testing.assert_close(codec.posterior(pixels)[0], moments, rtol=1e-3, atol=1e-4)


def _setting(size: int) -> Any:
    from vco.api import CodecSetting

    return CodecSetting(image_shape=(3, size, size))


def test_an_image_that_is_missing_is_named_and_not_shifted(tmp_path: Path) -> None:
    from shutil import copytree

    from vco.errors import UserError

    copytree(LATENT / "latent_dataset", tmp_path / "set")
    (tmp_path / "set/images/00000/img00000001.png").rename(tmp_path / "set/images/00000/img00000009.png")
    with pytest.raises(UserError, match=r"no image for vae-sd/00000/img-mean-std-00000001\.npy \(1 are missing\)"):
        _layout(tmp_path / "set").train()
    with pytest.raises(UserError, match=r"has the label 795, and --data\.classes is 10"):
        _layout(LATENT / "latent_dataset", classes=10).train()
    with pytest.raises(UserError, match=r"is no folder with vae-sd/dataset\.json"):
        _layout(tmp_path).check()
