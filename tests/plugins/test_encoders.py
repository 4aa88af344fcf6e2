"""The encoders of published ViTs: against the libraries' own forward passes, and what must never happen silently."""

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import attrs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_encoders import CASES, CLIP_CASE, DEPTH, ODD, PATCH, SIDE, TIMM_CASE, TIMM_FAMILIES, WIDTH, Case

from vco.api import FeatureSetting, UserError
from vco_plugins.pretrained import Architecture

ALL = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
WITH_FAMILIES = pytest.mark.parametrize("case", [*CASES, *TIMM_FAMILIES], ids=lambda case: case.id)
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}  # float32 rounding, enlarged by the norm

Folders = Callable[[Case], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    written: dict[str, Path] = {}

    def folder(case: Case) -> Path:
        if case.id not in written:
            written[case.id] = tmp_path_factory.mktemp(case.id)
            case.save(written[case.id])
        return written[case.id]

    return folder


@pytest.fixture
def copied(folders: Folders, tmp_path: Path) -> Folders:
    """Copies that a test may spoil."""

    def folder(case: Case) -> Path:
        for path in folders(case).iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and no way to the network."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def some(batch: int, side: int = SIDE, channels: int = 3) -> torch.Tensor:
    return torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(side)) * 2 - 1


def plain(case: Case, tokens: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(tokens, (WIDTH,), eps=case.eps)


@WITH_FAMILIES
def test_forward_is_the_librarys_last_block_under_a_plain_norm(case: Case, folders: Folders) -> None:
    images = some(WIDTH)  # batch = width: broadcasting along the wrong axis shows
    features = case.load(folders(case))(images)
    with torch.no_grad():
        expected = plain(case, case.library(folders(case), SIDE)(case.normalised(images)).hidden[-1])
    assert features.grid == (SIDE // PATCH, SIDE // PATCH)
    torch.testing.assert_close(features.tokens, expected[:, case.prefix :], **CLOSE)


@WITH_FAMILIES
def test_perceive_is_the_librarys_stock_output(case: Case, folders: Folders) -> None:
    images = some(3)
    features = case.load(folders(case)).perceive(images)
    expected = case.library(folders(case), SIDE)(case.normalised(images))
    torch.testing.assert_close(features.tokens, expected.tokens)
    torch.testing.assert_close(features.pooled, expected.pooled)


@pytest.mark.parametrize("resolution", [16, 24, 56])
@ALL
def test_other_sizes_than_that_of_pretraining_are_the_librarys(case: Case, resolution: int, folders: Folders) -> None:
    images = some(2, resolution)
    source = case.load(folders(case), resolution=resolution)
    expected = case.library(folders(case), resolution)(case.normalised(images))
    torch.testing.assert_close(source.perceive(images).tokens, expected.tokens)
    torch.testing.assert_close(source(images).tokens, plain(case, expected.hidden[-1])[:, case.prefix :], **CLOSE)
    assert source.spec.tokens == expected.tokens.shape[1:]


@WITH_FAMILIES
def test_both_views_of_images_that_are_not_resized_come_out_of_one_pass(case: Case, folders: Folders) -> None:
    source, images = case.load(folders(case)), some(2)
    perceived, alone = source(images).perceived, source.perceive(images)
    assert perceived is not None
    for ours, theirs in ((perceived.tokens, alone.tokens), (perceived.pooled, alone.pooled)):
        assert torch.equal(ours, theirs)
    assert source(some(2, 2 * SIDE)).perceived is None  # the views resize differently
    assert case.load(folders(case), layers=(1,))(images).perceived is None


@pytest.mark.parametrize("layers", [(1,), (DEPTH,), (1, 3), (2, 2, 3)])
@ALL
def test_layers_are_averaged(case: Case, layers: tuple[int, ...], folders: Folders) -> None:
    images = some(2)
    features = case.load(folders(case), layers=layers, norm="none")(images)
    hidden = case.library(folders(case), SIDE)(case.normalised(images)).hidden
    expected = torch.stack([hidden[layer - 1] for layer in layers]).mean(0)
    torch.testing.assert_close(features.tokens, expected[:, case.prefix :])


@ALL
def test_the_norm_comes_after_the_mean_of_the_layers(case: Case, folders: Folders) -> None:
    images = some(2)
    raw = case.load(folders(case), layers=(1, 2), norm="none")(images)
    normed = case.load(folders(case), layers=(1, 2))(images)
    torch.testing.assert_close(normed.tokens, plain(case, raw.tokens), **CLOSE)


@ALL
def test_affine_is_the_stock_norm(case: Case, folders: Folders) -> None:
    source, images = case.load(folders(case), norm="affine"), some(2)
    torch.testing.assert_close(source(images).tokens, source.perceive(images).tokens)


@WITH_FAMILIES
def test_forwards_pooled_is_the_class_token_or_else_the_stock_one(case: Case, folders: Folders) -> None:
    images = some(2)
    source = case.load(folders(case))
    expected = case.library(folders(case), SIDE)(case.normalised(images))
    pooled = plain(case, expected.hidden[-1])[:, 0] if case.prefix else expected.pooled
    torch.testing.assert_close(source(images).pooled, pooled, **CLOSE)
    assert pooled.shape[1] == source.spec.pooled


@settings(deadline=None, max_examples=3)
@given(place=st.integers(0, (SIDE // PATCH) ** 2 - 1), mark=st.sampled_from([-1.0, 0.6, 1.0]))
@WITH_FAMILIES
def test_a_marked_patch_moves_the_token_at_its_row_major_place_most(
    case: Case, place: int, mark: float, folders: Folders
) -> None:
    row, column = divmod(place, SIDE // PATCH)
    images = some(1).repeat(2, 1, 1, 1) * 0.3
    images[1, :, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = mark
    tokens = case.load(folders(case), layers=(1,), norm="none")(images).tokens
    assert (tokens[1] - tokens[0]).norm(dim=-1).argmax() == place


@ALL
def test_every_pixel_counts(case: Case, folders: Folders) -> None:
    resolution = 24  # not that of pretraining
    images = some(1, resolution).requires_grad_()
    case.load(folders(case), resolution=resolution)(images).tokens[..., 0].square().sum().backward()
    assert images.grad is not None
    assert images.grad.ne(0).all()


@ALL
def test_it_is_in_eval_mode_and_stays_so(case: Case, folders: Folders) -> None:
    source, images = case.load(folders(case)), some(2)
    assert not any(module.training for module in source.modules())
    assert torch.equal(source.train()(images).tokens, source(images).tokens)


@pytest.mark.parametrize("view", ["forward", "perceive"])
@ALL
def test_other_images_are_resized(case: Case, view: str, folders: Folders) -> None:
    mode, antialias = case.mode if view == "forward" or case.id == "dinov3" else ("bilinear", False)
    source, images = case.load(folders(case), shape=(3, 50, 50)), some(2, 50)
    resized = F.interpolate(images, size=(SIDE, SIDE), mode=mode, align_corners=False, antialias=antialias)
    torch.testing.assert_close(getattr(source, view)(images).tokens, getattr(source, view)(resized).tokens, **CLOSE)


@ALL
def test_gray_images_are_repeated_to_three_channels(case: Case, folders: Folders) -> None:
    gray = some(2, channels=1)
    ours = case.load(folders(case), shape=(1, SIDE, SIDE))(gray).tokens
    torch.testing.assert_close(ours, case.load(folders(case))(gray.repeat(1, 3, 1, 1)).tokens)


@ALL
def test_features_are_float32_under_autocast(case: Case, folders: Folders) -> None:
    source = case.load(folders(case), norm="none")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = [source(some(1).bfloat16()), source.perceive(some(1).bfloat16())]
    assert {part.dtype for view in views for part in (view.tokens, view.pooled)} == {torch.float32}


@ALL
def test_gradient_reaches_the_images_and_no_weight(case: Case, folders: Folders) -> None:
    source, images = case.load(folders(case)), some(2).requires_grad_()
    source.perceive(images).pooled[:, 1].sum().backward()
    assert images.grad is not None
    assert images.grad.flatten(1).any(1).all()
    assert not any(parameter.requires_grad for parameter in source.parameters())


@ALL
def test_a_pass_leaves_nothing_behind_in_the_network(case: Case, folders: Folders) -> None:
    source = case.load(folders(case), layers=(1, 2))
    source(some(1))
    assert not any(module._forward_hooks for module in source.modules())


@ALL
def test_a_checkpoint_that_lacks_tensors_is_refused(case: Case, copied: Folders) -> None:
    file = copied(case) / case.weights
    tensors = load_file(file)
    del tensors[case.lost]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"(lack|Missing)(.|\n)*1\.(mlp\.)?(fc1|c_fc|up_proj)\.weight"):
        case.load(file.parent)


@ALL
def test_a_cut_file_is_refused(case: Case, copied: Folders) -> None:
    file = copied(case) / case.weights
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cannot be loaded"):
        case.load(file.parent)


@ALL
def test_a_resolution_that_would_crop_is_refused(case: Case, folders: Folders) -> None:
    with pytest.raises(UserError, match=r"--\.resolution 60 .* patch size 8 .* take 64\."):
        case.construct(folders(case), resolution=60)


@pytest.mark.parametrize("shape", [(4, 32, 32), (3, 32, 40)])
@ALL
def test_images_it_would_distort_or_misread_are_refused(case: Case, shape: Any, folders: Folders) -> None:
    with pytest.raises(UserError, match=f"{case.source.name} reads square images of 1 or 3 channels"):
        case.construct(folders(case), shape=shape)


@ALL
def test_a_block_that_does_not_exist_is_refused(case: Case, folders: Folders) -> None:
    with pytest.raises(UserError, match=r"--\.layers asks for block 4; .* has 3\."):
        case.construct(folders(case), layers=(1, 4))


@ALL
def test_tokens_that_are_not_one_a_patch_are_refused(case: Case, folders: Folders) -> None:
    source = case.load(folders(case))
    source.network = attrs.evolve(source.network, prefix=case.prefix + 1)
    with pytest.raises(UserError, match="cannot tell which patch is which"):
        source(some(1))


@ALL
def test_weights_in_the_hub_cache_are_found_without_the_network(case: Case, folders: Folders, cache: Path) -> None:
    case.put_in_cache(folders(case), cache)
    ours = case.load(case.hub_id)(some(2)).tokens
    torch.testing.assert_close(ours, case.load(folders(case))(some(2)).tokens)


@ALL
def test_missing_weights_are_an_error_that_says_how_to_get_them(case: Case, cache: Path) -> None:
    source = case.construct(case.hub_id, resolution=448)
    for act in (source.check, source.load):
        with pytest.raises(UserError, match=f"hf download {case.hub_id} --local-dir FOLDER"):
            act()


@ALL
def test_known_hub_ids_have_a_spec_without_any_file(case: Case, cache: Path) -> None:
    source = case.construct(case.hub_id, resolution=448)
    side = 448 // case.known.patch
    assert source.architecture == case.known
    assert source.spec.grid == (side, side)
    assert source.spec.tokens == (side * side, case.known.width)


@ALL
def test_the_default_weights_are_known_and_fit_the_default_resolution(case: Case, cache: Path) -> None:
    source = case.source(case.source.Config(), FeatureSetting(image_shape=(3, 256, 256)))
    assert source.spec.tokens[0] == 256
    with pytest.raises(UserError, match="hf download"):
        source.check()


@ALL
def test_weights_are_downloaded_where_there_is_a_network(
    case: Case, folders: Folders, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot(hub_id: str, allow_patterns: list[str]) -> None:
        asked.append((hub_id, allow_patterns))
        case.put_in_cache(folders(case), cache)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, timeout: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    tiny = case.construct(folders(case)).architecture  # which the hub id's own network is not
    monkeypatch.setattr(case.source, "describe", lambda self, folder: tiny)
    source = case.construct(case.hub_id)
    source.check()
    assert asked == []  # a dry run downloads nothing
    source.load()
    ((hub_id, files),) = asked
    assert hub_id == source.hub_id
    assert {source.config_file, case.weights} <= set(files)
    torch.testing.assert_close(source(some(2)).tokens, case.load(folders(case))(some(2)).tokens)


class ConnectError(Exception):
    """An error of a network library that nobody has heard of."""


@pytest.mark.parametrize("error", [ConnectionError("no route"), ConnectError("no route")])
def test_a_hub_that_cannot_be_reached_is_said(error: Exception, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, timeout: float) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    case = CASES[0]
    with pytest.raises(UserError, match=rf"and the hub cannot be reached: {type(error).__name__}; run `hf download"):
        case.construct(case.hub_id, resolution=448).check()


def test_a_download_that_breaks_off_is_one_sentence(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(hub_id: str, allow_patterns: list[str]) -> None:
        raise OSError("broken pipe")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, timeout: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    case = CASES[0]
    with pytest.raises(UserError, match=r"cannot be downloaded \(OSError: broken pipe\)"):
        case.construct(case.hub_id, resolution=448).load()


def test_weights_older_than_safetensors_are_no_missing_model(copied: Folders) -> None:
    case = next(case for case in CASES if case.id == "dinov2")
    folder = copied(case)
    (folder / case.weights).rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no model.safetensors, but the older pytorch_model.bin; convert it once"):
        case.construct(folder).check()


@ALL
def test_a_folder_without_weights_is_named(case: Case, copied: Folders) -> None:
    folder = copied(case)
    (folder / case.weights).unlink()
    with pytest.raises(UserError, match=rf"has no {case.weights}; run `hf download \w+/\S+ --local-dir FOLDER`"):
        case.construct(folder).check()


@pytest.mark.parametrize("weights", ["someone/some-model", "absent/folder/there"])
@ALL
def test_weights_that_are_nowhere_are_named(case: Case, weights: str, cache: Path) -> None:
    with pytest.raises(UserError, match=f"'{weights}' .*--\\.weights.* is neither a folder"):
        case.construct(weights)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_cfg": 1, "architecture": 2, "model_type": "bert"}'])
@ALL
def test_a_foreign_config_file_is_refused(case: Case, content: str, tmp_path: Path) -> None:
    (tmp_path / case.config).write_text(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        case.construct(tmp_path)


@pytest.mark.parametrize("case", [c for c in CASES if c.config == "config.json" and c != TIMM_CASE], ids=lambda c: c.id)
def test_the_checkpoints_own_preprocessor_file_decides_the_statistics(case: Case, copied: Folders) -> None:
    folder = copied(case)
    content = dict(zip(("image_mean", "image_std"), ODD, strict=True))
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    assert_uses(replace(case, statistics=ODD), folder)


@pytest.mark.parametrize(("case", "section"), [(CLIP_CASE, "preprocess_cfg"), (TIMM_CASE, "pretrained_cfg")])
def test_the_checkpoints_own_config_decides_the_statistics(case: Case, section: str, copied: Folders) -> None:
    path = copied(case) / case.config
    content = json.loads(path.read_text())
    content[section].update(zip(("mean", "std"), ODD, strict=True))
    path.write_text(json.dumps(content))
    assert_uses(replace(case, statistics=ODD), path.parent)


def assert_uses(case: Case, folder: Path) -> None:
    images = some(2)
    expected = case.library(folder, SIDE)(case.normalised(images))
    torch.testing.assert_close(case.load(folder).perceive(images).tokens, expected.tokens)


def test_mae_reads_files_older_than_safetensors(copied: Folders, folders: Folders) -> None:
    case = next(case for case in CASES if case.id == "mae")
    folder = copied(case)
    torch.save(load_file(folder / case.weights), folder / "pytorch_model.bin")
    (folder / case.weights).unlink()
    images = some(2)
    torch.testing.assert_close(case.load(folder)(images).tokens, case.load(folders(case))(images).tokens)


@pytest.mark.parametrize("model_type", ["siglip", "siglip2"])
def test_sizes_that_siglips_config_files_leave_out_are_the_familys(model_type: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.id == "siglip2")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "vision_config": {}}))
    assert case.construct(tmp_path, resolution=256).architecture == Architecture(model_type, 16, 768, 12)


@pytest.mark.parametrize(
    ("section", "content", "said"),
    [
        ("vision_cfg", {"timm_model_name": "vit_base_patch16_siglip_224"}, "another vision tower"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "another vision tower"),
        ("text_cfg", {"hf_model_name": "xlm-roberta-base"}, r"text tower \(xlm-roberta-base\)"),
    ],
)
def test_towers_that_open_clip_builds_otherwise_are_refused(
    section: str, content: dict[str, Any], said: str, copied: Folders
) -> None:
    path = copied(CLIP_CASE) / CLIP_CASE.config
    whole = json.loads(path.read_text())
    whole["model_cfg"][section].update(content)
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=said):
        CLIP_CASE.construct(path.parent)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "cait_xxs24_224", "hiera_tiny_224"])
def test_networks_of_timm_that_are_neither_plain_vits_nor_convnets_are_refused(name: str, cache: Path) -> None:
    with pytest.raises(UserError, match=f"{name} is neither a plain ViT nor a ConvNet"):
        TIMM_CASE.construct(name, resolution=224)


@pytest.mark.parametrize("weights", ["vit_base_patch16_224.mae", "timm/vit_base_patch16_224.mae"])
def test_a_name_of_timm_stands_for_its_hub_repository(weights: str, folders: Folders, cache: Path) -> None:
    TIMM_CASE.put_in_cache(folders(TIMM_CASE), cache, "timm/vit_base_patch16_224.mae")
    TIMM_CASE.construct(weights).check()
