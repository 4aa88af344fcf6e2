"""Published checkpoints become runs that predict what the published code predicts; what does not fit is refused."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.goldens import assert_close, load_golden, thinned
from parity.official_names import translate
from parity.published_files import OFFICIAL, content_of, options_for, write_golden
from PIL import Image

import vco
from vco.api import FEATURES, IMAGE, Condition
from vco.cli import main_run
from vco.commands.importing import import_weights, main
from vco.errors import UserError

PRESET = "imagenet256-b16"
TABLE = content_of()["model"]["net.pos_embed"]
JOINT = ["--backbone", "jit-joint", "--backbone.fusion"]


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return content_of()


@pytest.fixture(scope="module")
def options(content: dict[str, Any]) -> list[str]:
    return options_for(content["model"])


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the import of the official file says."""
    return []


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, options: list[str], said: list[str]) -> Path:
    """The run folder of the official file."""
    folder = tmp_path_factory.mktemp("imported") / "run"
    said += import_weights(OFFICIAL, PRESET, folder, options)
    return folder


def spoilt(content: dict[str, Any], path: Path, **changes: Any) -> Path:
    """A file with other tensors (None takes one away) in each of its sets."""
    sets = {key: dict(content[key]) for key in ("model", "model_ema1", "model_ema2")}
    for weights in sets.values():
        weights |= {f"net.{name.replace('__', '.')}": tensor for name, tensor in changes.items()}
        for name in [name for name, tensor in weights.items() if tensor is None]:
            del weights[name]
    torch.save({**content, **sets}, path)
    return path


# ----------------------------------------------------------------------------------------------------- what is imported


def test_the_run_predicts_what_the_published_code_predicts(imported: Path) -> None:
    golden = load_golden("official_checkpoint_ema1_forward")
    noisy = {IMAGE: golden.inputs["x"], FEATURES: golden.inputs["z"]}
    times = dict.fromkeys(noisy, golden.inputs["t"])
    backbone = vco.open_run(imported).model.backbone
    with torch.no_grad():
        clean = thinned(backbone(noisy, times, Condition(labels=golden.inputs["y"])).clean)
    assert_close(clean[IMAGE], golden.outputs["pixel"])
    assert_close(clean[FEATURES], golden.outputs["feature"])


@pytest.mark.parametrize(("ema", "key"), [(None, "model"), (0, "model_ema1"), (1, "model_ema2")])
def test_the_run_has_the_last_weights_and_both_averages(
    ema: int | None, key: str, imported: Path, content: dict[str, Any]
) -> None:
    state = vco.open_run(imported, ema=ema).model.backbone.state_dict()
    expected = translate(content[key])
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_the_folder_says_where_the_weights_are_from(imported: Path, content: dict[str, Any]) -> None:
    (state,) = imported.glob("checkpoints/*/state.json")
    published = json.loads(state.read_text())["published"]
    assert (published["file"], published["epoch"]) == (OFFICIAL.name, content["epoch"])
    assert published["settings"]["noise_scale"] == content["args"].noise_scale
    assert len(published["sha256"]) == 64
    assert vco.open_run(imported).run.facts.num_classes == content["args"].class_num


def test_it_is_said_what_was_left_out_and_what_is_not_trained(imported: Path, said: list[str]) -> None:
    assert imported.is_dir()
    assert "2 running averages" in said[0]
    assert said[1] == "left out of the file: img_mean, img_std, drifting_dinov2"
    assert said[2] == "not in the file, so with initial weights: adapter rms of dinov2"


def test_the_run_can_be_sampled_from_without_data_and_encoder(imported: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(imported, tmp_path / "moved")
    images = vco.open_run(moved).sample([0, 1], steps=2)
    assert (images.shape, images.dtype) == ((2, 3, 256, 256), torch.uint8)
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize(
    ("golden", "preset", "more"),
    [
        ("jit_forward", "vco-table1-jit", []),
        ("jit_dual_shared_qkv_forward", "vco-table2", [*JOINT, "shared-qkv"]),
        ("jit_token_concat_forward", "vco-table2", [*JOINT, "token-concat"]),
    ],
)
def test_files_of_the_other_networks_are_read_too(golden: str, preset: str, more: list[str], tmp_path: Path) -> None:
    weights = write_golden(golden, tmp_path / "file.pth")
    import_weights(tmp_path / "file.pth", preset, tmp_path / "run", [*more, *options_for(weights)])
    state, expected = vco.open_run(tmp_path / "run").model.backbone.state_dict(), translate(weights)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_the_steps_are_those_that_the_optimizer_has_counted(
    content: dict[str, Any], options: list[str], tmp_path: Path
) -> None:
    state = {number: {"step": torch.tensor(750_600.0), "exp_avg": torch.zeros(2)} for number in range(3)}
    torch.save({**content, "optimizer": {"state": state, "param_groups": []}}, tmp_path / "file.pth")
    import_weights(tmp_path / "file.pth", PRESET, tmp_path / "run", options)
    assert vco.open_run(tmp_path / "run").step == 750_600


def test_weights_without_averages_are_sampled_from_as_they_are(
    content: dict[str, Any], options: list[str], tmp_path: Path
) -> None:
    torch.save(content["model_ema1"], tmp_path / "file.pth")
    (first, *_) = import_weights(tmp_path / "file.pth", PRESET, tmp_path / "run", options)
    assert "no running average" in first
    assert vco.open_run(tmp_path / "run").ema_decay is None


# ------------------------------------------------------------------------------------------------------ what is refused


def refused(path: Path, preset: str, options: list[str], tmp_path: Path) -> str:
    """The sentence with which an import is refused; nothing is left behind."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as caught:
        import_weights(path, preset, tmp_path / "run", options)
    assert sorted(tmp_path.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_preset_of_another_size_is_told_the_options_that_fit(options: list[str], tmp_path: Path) -> None:
    told = refused(OFFICIAL, PRESET, [], tmp_path)
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    for option in ("width", "depth", "heads", "bottleneck", "context-tokens"):
        assert f"--backbone.{option} {pairs[f'--backbone.{option}']}" in told
    assert "--backbone.patch" not in told  # it is the file's
    assert f"{pairs['--data.classes']} classes instead of 1000 (as with --data.classes" in told
    weights = pairs["--features.weights"]
    assert re.search(
        rf"features \d+ wide instead of \d+ \(as with --features dinov2 --features.weights {weights} ", told
    )


def test_the_options_that_a_refusal_names_are_those_that_fit(tmp_path: Path) -> None:
    told = refused(OFFICIAL, PRESET, [], tmp_path)
    more = re.findall(r"(--[\w.-]+) ([\w/.-]+)", told.partition("the file needs")[2])
    import_weights(OFFICIAL, PRESET, tmp_path / "run", [part for pair in more for part in pair])
    assert vco.open_run(tmp_path / "run").step == 0


def test_the_training_that_an_import_proposes_is_a_command_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_golden("jit_forward", tmp_path / "file.pth")
    classes = int(options_for(weights)[-1])
    for number in range(classes):
        (tmp_path / "images" / str(number)).mkdir(parents=True)
        for image in range(30):
            Image.new("RGB", (16, 16), (number, image, 0)).save(tmp_path / f"images/{number}/{image}.png")
    monkeypatch.chdir(tmp_path)
    said = import_weights(tmp_path / "file.pth", "vco-table1-jit", Path("run"), options_for(weights))
    (train,) = re.findall(r"`(vco-run [^`]+)`", said[-1])
    assert train == "vco-run --config run/config.yaml --name tuned --from run --data.root ROOT"
    _, *argv = shlex.split(train.replace("ROOT", str(tmp_path / "images")))
    short = ["--train.steps", "1", "--train.batch-size", "2", "--metric", "none", "--sample.steps", "1"]
    assert main_run([*argv, *short, "--sample.grid-rows", "1", "--train.workers", "0"]) == 0
    assert "begun with the first running average of step 0 of run" in capsys.readouterr().out
    assert vco.open_run("runs/tuned").step == 1


def test_a_published_size_is_told_by_its_letter(tmp_path: Path) -> None:
    weights = {name: torch.empty(tensor.shape) for name, tensor in content_of()["model"].items()}
    wide = {"t_embedder.mlp.2.bias": [1024], "x_embedder.pix_proj1.weight": [128, 3, 16, 16]}
    wide |= {f"blocks.{n}.q_norm_pixel.weight": [64] for n in range(24)} | {"in_context_posemb": [1, 32, 1024]}
    torch.save(weights | {f"net.{name}": torch.empty(shape) for name, shape in wide.items()}, tmp_path / "large.pth")
    told = refused(tmp_path / "large.pth", PRESET, [], tmp_path)
    assert re.search(r"the file needs --backbone\.size L, \d+ classes", told)


@pytest.mark.parametrize("preset", ["vco-table1-jit", "vco-table1-token-concat"])
def test_a_preset_of_another_network_is_told_which_one_it_takes(preset: str, tmp_path: Path) -> None:
    told = refused(OFFICIAL, preset, [], tmp_path)
    assert "the file holds the weights of --backbone jit-dual; choose a preset with that backbone" in told


def test_a_preset_of_other_images_is_told_their_size(options: list[str], tmp_path: Path) -> None:
    more = ["--data.size", "128", "--features.resolution", "112"]
    assert "images of 256x256 instead of 128x128 (as with --data.size 256)" in refused(
        OFFICIAL, PRESET, [*options, *more], tmp_path
    )


def test_another_scale_of_the_noise_is_refused(options: list[str], tmp_path: Path) -> None:
    told = refused(OFFICIAL, PRESET, [*options, "--codec.noise-scale", "2"], tmp_path)
    assert told.endswith("the file needs --codec.noise-scale 1.0")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"blocks__1__qkv_dino__weight": None}, r"blocks\.1\.attention\.features\.qkv\.weight is missing there and \["),
        (
            {"blocks__1__qkv_dino__bias": torch.zeros(5)},
            r"attention\.features\.qkv\.bias is \[5\] there and \[\d+\] here",
        ),
        ({"extra__linear__weight": torch.zeros(5)}, r"holds net\.extra\.linear\.weight, which is no layer of the"),
        ({"pos_embed": TABLE + 0.01}, r"net\.pos_embed in the file has other values than the fixed table"),
        ({"y_embedder__embedding_table__weight": None}, "is none of JiT or V-Co: it holds no y_embedder"),
        ({"t_embedder__mlp__2__bias": None}, r"cut short: it holds no t_embedder\.mlp\.2\.bias"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(
    changes: dict[str, Any], sentence: str, content: dict[str, Any], options: list[str], tmp_path: Path
) -> None:
    path = spoilt(content, tmp_path / "file.pth", **changes)
    with pytest.raises(UserError, match=sentence):
        import_weights(path, PRESET, tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


def test_a_backbone_that_knows_no_published_file_says_so(tmp_path: Path) -> None:
    told = refused(OFFICIAL, "vco-table1-jit", ["--backbone", "dino-forcing"], tmp_path)
    assert "backbone dino-forcing: it knows no published weights; its author can name them" in told


def test_averages_whose_decay_is_not_said_are_refused(options: list[str], tmp_path: Path) -> None:
    told = refused(OFFICIAL, PRESET, [*options, "--train.ema-decays", "0.9"], tmp_path)
    assert "it has 2 running averages and the preset 1; say how fast" in told


def test_a_folder_that_is_there_is_not_overwritten(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    assert "exists already" in refused(OFFICIAL, PRESET, options, tmp_path)
    assert (tmp_path / "run" / "mine.txt").read_text() == "precious"


def test_a_run_need_not_be_imported(imported: Path, tmp_path: Path) -> None:
    assert "is the folder of a run already" in refused(imported, PRESET, [], tmp_path)


@pytest.mark.parametrize("option", [["--dry-run"], ["--resume", "x"], ["--name", "x"]])
def test_options_of_training_alone_are_refused(option: list[str], tmp_path: Path) -> None:
    assert "is an option of training" in refused(OFFICIAL, PRESET, option, tmp_path)


def test_the_command_takes_options_on_top_of_the_preset(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(OFFICIAL), "--as", PRESET, "--out", str(tmp_path / "run"), *options]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {tmp_path / 'run'}: ")
    assert vco.open_run(tmp_path / "run").config.output_dir == str(tmp_path / "run")


def test_options_may_stand_before_the_file_and_unknown_ones_are_refused(options: list[str], tmp_path: Path) -> None:
    assert main([*options, "--as", PRESET, "--out", str(tmp_path / "run"), str(OFFICIAL)]) == 0
    with pytest.raises(UserError, match=r"--bakcbone\.depth: unknown option"):
        main([str(OFFICIAL), "--as", PRESET, "--out", str(tmp_path / "other"), "--bakcbone.depth", "2"])
    with pytest.raises(UserError, match=r"the following arguments are required: --out"):
        main([str(OFFICIAL), "--as", PRESET])
