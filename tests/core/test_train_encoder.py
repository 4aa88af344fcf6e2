"""`vco train-encoder`: what it writes, that it goes on after a stop, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import packed
import pytest
import torch
from safetensors.torch import load_file

from vco.api import FeatureSetting, UserError
from vco.cli import main_vco
from vco.commands import encoder_training
from vco.commands.train_encoder import main
from vco.evaluation.classes import known_by
from vco_plugins.features.timm_vit import TimmViT

SMALL = ("--recipe.width", "8", "--recipe.depth", "1", "--recipe.patch", "4", "--epochs", "2", "--batch-size", "6")
CONVNET = (
    "--recipe.model",
    "resnet10t",
    "--recipe.arguments",
    '{"channels": [8, 8, 16, 16], "stem_width": 8, "output_stride": 8}',
)
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed.pictures(tmp_path_factory.mktemp("photos") / "photos")


def train(root: Path, output: Path, *options: str) -> int:
    data = ["--data", "image-folder", "--data.root", str(root), "--data.size", "16"]
    return main([*data, "--output", str(output), *options])


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("encoders") / "vit"
    assert train(root, output, *SMALL) == 0
    return output


def opened(folder: Path, **options: Any) -> TimmViT:
    source = TimmViT(TimmViT.Config(weights=str(folder), **options), FeatureSetting(image_shape=(3, 16, 16)))
    source.load()
    return source


def test_what_is_written_is_read_by_the_feature_source_at_its_own_size(trained: Path) -> None:
    source = opened(trained)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    features = source(images)
    assert features.tokens.shape == (2, 16, 8)
    assert source.spec.classes == 3
    assert features.logits is not None
    assert features.logits.shape == (2, 3)
    own = source.perceive(images).pooled
    torch.testing.assert_close(features.logits, source.module.get_classifier()(own))


def test_what_is_stated_is_true_of_what_is_written(root: Path, trained: Path) -> None:
    stated = json.loads((trained / "training.json").read_text())
    data = packed.folder(root, size=16)

    def batches(images: Any) -> Any:
        yield torch.stack([images.image(i, None) for i in range(len(images))]), images.labels

    known = known_by(opened(trained), batches(data.train()), batches(data.test()), torch.device("cpu"))
    assert known.plain() == stated["held_out"]
    assert known.images == 9
    assert known.accuracy is not None


def test_the_log_has_a_line_for_each_epoch(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 12]
    assert lines[0]["learning_rate"] > lines[1]["learning_rate"] > 0


def test_nothing_else_is_left(trained: Path) -> None:
    assert [path.name for path in trained.parent.iterdir()] == ["vit"]
    assert str(trained.parent) not in (trained / "training.json").read_text()


def test_the_same_command_makes_the_same_weights(root: Path, trained: Path, tmp_path: Path) -> None:
    assert train(root, tmp_path / "again", *SMALL) == 0
    assert train(root, tmp_path / "other", *SMALL, "--seed", "1") == 0
    weights = [load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "again", tmp_path / "other")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(
    root: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    advance = encoder_training.EncoderTraining._advance

    def stopping(self: Any, *args: Any) -> Any:
        loss = advance(self, *args)
        if self.step == 7:
            signal.raise_signal(signal.SIGTERM)
        return loss

    monkeypatch.setattr(encoder_training.EncoderTraining, "_advance", stopping)
    assert train(root, tmp_path / "vit", *SMALL) == 128 + signal.SIGTERM
    assert not (tmp_path / "vit").exists()
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"seed: 0 there, 1 now.*give the same command as before"):
        train(root, tmp_path / "vit", *SMALL, "--seed", "1")
    assert train(root, tmp_path / "vit", *SMALL) == 0
    assert "going on after step 7 of 12" in capsys.readouterr().out
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "vit"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "vit" / "log.jsonl").read_text().splitlines()]
    assert steps == [6, 12]


def test_a_killed_training_goes_on_from_what_was_saved(root: Path, tmp_path: Path) -> None:
    options = ["--output", str(tmp_path / "vit"), *SMALL, "--epochs", "100000"]
    code = "import sys; from vco.commands import encoder_training as t, train_encoder; t.SECONDS_BETWEEN_SAVES = 0.0; "
    data = ["--data", "image-folder", "--data.root", str(root), "--data.size", "16"]
    program = [sys.executable, "-c", f"{code}train_encoder.main(sys.argv[1:])", *data, *options]
    process = subprocess.Popen(program, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    state = tmp_path / ".vit.training" / "state.pt"
    until = time.monotonic() + 60
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert torch.load(state, weights_only=True)["step"] > 0
    assert not (tmp_path / "vit").exists()


def test_a_finished_training_is_not_done_again(root: Path, trained: Path, capsys: Capture) -> None:
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert train(root, trained, *SMALL) == 0
    assert "trained before: of 9 held-out images its classifier tells" in capsys.readouterr().out
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="epochs: 2 there, 3 now"):
        train(root, trained, *SMALL, "--epochs", "3")


def test_half_precision_halves_the_file_and_what_is_stated_is_measured_with_it(
    root: Path, trained: Path, tmp_path: Path
) -> None:
    assert train(root, tmp_path / "half", *SMALL, "--recipe.half", "true") == 0
    whole, half = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "half"))
    assert all(torch.equal(whole[name].half(), half[name]) for name in whole)


def test_a_convnet_is_read_at_its_last_stage_or_at_another(root: Path, tmp_path: Path) -> None:
    assert train(root, tmp_path / "net", "--epochs", "1", "--batch-size", "6", *CONVNET) == 0
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    last, second = opened(tmp_path / "net"), opened(tmp_path / "net", layers=(2,))
    assert last.spec.tokens == (4, 16)
    assert second.spec.grid == (4, 4)
    assert second(images).tokens.shape == (2, 16, 8)
    assert second.perceive(images).tokens.shape == (2, 16, 8)
    assert second.spec.pooled == last.spec.pooled == 16
    torch.testing.assert_close(last(images).pooled, second(images).pooled)
    taken = second.module.layer1(
        second.module.maxpool(second.module.act1(second.module.bn1(second.module.conv1(images))))
    )
    torch.testing.assert_close(opened(tmp_path / "net", layers=(2,), norm="none")(images).tokens, taken.flatten(2).mT)
    with pytest.raises(UserError, match="names several stages"):
        opened(tmp_path / "net", layers=(1, 2))


def flat(root: Path, count: int) -> Path:
    """A folder of pictures without classes."""
    from PIL import Image

    root.mkdir()
    for number in range(count):
        pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(root / f"{number}.png")
    return root


def test_images_without_classes_are_learned_from_their_views(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("lightly")
    root = flat(tmp_path / "flat", 60)
    assert train(root, tmp_path / "vit", *SMALL, "--epochs", "1") == 0
    assert opened(tmp_path / "vit").spec.classes == 0
    assert "have no classes by which an encoder could be scored" in capsys.readouterr().out
    with pytest.raises(UserError, match="one class, so there is nothing to tell"):
        train(root, tmp_path / "told", *SMALL, "--recipe.method", "supervised")


def test_without_lightly_images_without_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightly.loss", None)
    with pytest.raises(UserError, match=r"needs the library lightly: pip install 'vco\[ssl\]'"):
        train(flat(tmp_path / "flat", 60), tmp_path / "vit", *SMALL)


def test_with_classes_views_can_be_learned_from_too_and_neighbours_are_stated(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightly")
    assert train(root, tmp_path / "vit", *SMALL, "--epochs", "1", "--recipe.method", "vicreg") == 0
    stated = json.loads((tmp_path / "vit" / "training.json").read_text())["held_out"]
    assert stated["accuracy"] is None
    assert 0 <= stated["neighbours"] <= 1


@pytest.mark.parametrize(("name", "epochs"), [("digits-vit", "10"), ("digits-cnn", "3")])
def test_the_embedded_networks_for_digits_are_made_by_it(name: str, epochs: str, tmp_path: Path) -> None:
    options = ["--data", "digits", "--features", name, "--output", str(tmp_path / "net"), "--epochs", epochs]
    assert main(options) == 0
    file = next((tmp_path / "net").glob("*.safetensors"))
    shipped = Path(sys.modules[f"vco_plugins.features.{name.replace('-', '_')}"].__file__ or "").with_suffix("")
    assert {n: t.shape for n, t in load_file(file).items()} == {
        n: t.shape for n, t in load_file(f"{shipped}.safetensors").items()
    }
    assert json.loads((tmp_path / "net" / "training.json").read_text())["held_out"]["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--recipe.depht", "2"],
            r"recipe.depht: unknown option; did you mean 'recipe.depth'\? \(from --recipe.depht\)",
        ),
        (["--recipe.depth", "0"], "recipe.depth: 'depth' must be >= 1"),
        (["--recipe.arguments", "{"], "is no JSON object, as in"),
        (["--recipe.arguments", '{"nonsense": 1}'], "timm cannot build vit_tiny_patch16_224 with"),
        (["--recipe.model", "vit_tny"], "timm has no such network; take one such as"),
        (["--recipe.model", "resnet10t", "--recipe.width", "8"], "--recipe.width is for ViTs of timm"),
        (["--recipe.patch", "3"], "--recipe.patch 3 does not divide the side of the images, 16"),
        (["--recipe.heads", "5"], "--recipe.heads 5 does not divide the width 96"),
        (["--features", "inception"], "only read, and not trained; choose one of .*timm"),
        (["--features", "digits-vit"], "made for 8x8 digits"),
        (["--workers", "-1"], "--workers: '-1' is no whole number from 0 on"),
        (["--recipe.depth"], "--recipe.depth needs a value"),
        (
            ["--recipe.model", "resnet10t"],
            "has a stride of 32 pixels, which does not divide the side of the images, 16",
        ),
        (["--recipe.model", "swin_tiny_patch4_window7_224"], "is neither a plain ViT nor a ConvNet"),
    ],
)
def test_what_cannot_be_is_one_sentence(options: list[str], sentence: str, root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        train(root, tmp_path / "vit", *options)
    assert not (tmp_path / "vit").exists()
    assert not (tmp_path / ".vit.training" / "state.pt").exists()


def test_a_folder_of_something_else_is_not_touched(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        train(root, tmp_path / "mine", *SMALL)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_it_needs_images_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="say on which images, and where to"):
        main(["--data", "digits"])


def test_help_is_instant_and_lists_the_recipe_of_a_named_encoder(capsys: Capture) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from vco.cli import main_vco\ntry: main_vco(['train-encoder', '--help'])\n"
         "except SystemExit: print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False"
    with pytest.raises(SystemExit):
        main_vco(["train-encoder", "--features", "timm", "--help"])
    assert "--recipe.learning-rate float" in capsys.readouterr().out
