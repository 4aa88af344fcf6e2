"""The FID network: torch-fidelity's own answers, read from a file in its format (random weights here)."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_statistics_to_metric

import vco_plugins
from vco.api import FeatureSetting, UserError
from vco.cli import main_vco
from vco.testing.examine import examine, laws_of
from vco.testing.law import NotApplicableError
from vco.testing.subject import discover
from vco_plugins.features.inception import Inception


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Random weights under torch-fidelity's names, scaled to keep the activations alive in all layers."""
    empty = io.BytesIO()
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.save({}, empty)
        empty.seek(0)
        shapes = FeatureExtractorInceptionV3("shapes", ["2048"], feature_extractor_weights_path=empty).state_dict()
    generator = torch.Generator().manual_seed(0)

    def value(name: str, shape: torch.Size) -> torch.Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(0)
        if name.endswith("running_var"):
            return torch.ones(shape)
        fan_in = max(1, shape[1:].numel())
        return torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5

    return {name: value(name, tensor.shape) for name, tensor in shapes.items()}


@pytest.fixture(scope="module")
def file(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


def source(path: Path | str, channels: int = 3) -> Inception:
    return Inception(Inception.Config(weights=str(path)), FeatureSetting(image_shape=(channels, 32, 32)))


def loaded(path: Path, channels: int = 3) -> Inception:
    network = source(path, channels)
    network.load()
    return network


@pytest.fixture(scope="module")
def network(file: Path) -> Inception:
    return loaded(file)


def some(batch: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(batch, channels, 32, 32, generator=torch.Generator().manual_seed(batch)) * 2 - 1


def test_features_are_torch_fidelitys_for_the_same_bytes(network: Inception, file: Path) -> None:
    levels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(file))(levels)[0]
    assert expected.std() > 0.01  # random weights that killed every unit would prove nothing
    torch.testing.assert_close(network(levels / 127.5 - 1).pooled, expected, rtol=0, atol=0)


def test_logits_are_those_of_torch_fidelitys_inception_score(network: Inception, file: Path) -> None:
    levels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    theirs = FeatureExtractorInceptionV3("x", ["logits_unbiased"], feature_extractor_weights_path=str(file))
    logits = network(levels / 127.5 - 1).logits
    assert logits is not None
    assert logits.shape == (2, network.spec.classes) == (2, 1008)
    torch.testing.assert_close(logits, theirs(levels)[0], rtol=0, atol=0)


def test_images_are_rounded_to_the_nearest_byte_and_clamped(network: Inception) -> None:
    levels = torch.tensor([0.4, 127.6, 254.6, 300.0, -9.0, 3.0]).repeat(512)[:3072].reshape(1, 3, 32, 32)
    rounded = levels.round().clamp(0, 255)
    assert torch.equal(network(levels / 127.5 - 1).pooled, network(rounded / 127.5 - 1).pooled)


def test_tokens_are_the_pooled_vector_on_a_grid_of_one(network: Inception) -> None:
    features = network(some(2))
    assert torch.equal(features.tokens[:, 0], features.pooled)
    assert features.tokens.shape[1:] == network.spec.tokens == (1, 2048)
    assert features.grid == network.spec.grid == (1, 1)


def test_gray_images_are_repeated_to_three_channels(network: Inception) -> None:
    gray = some(1, channels=1)
    assert torch.equal(network(gray).pooled, network(gray.repeat(1, 3, 1, 1)).pooled)


def test_autocast_does_not_lower_its_precision(network: Inception) -> None:
    images = some(1)
    plain = network(images).pooled
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(images).pooled, plain)


def test_everything_is_frozen_and_no_gradient_is_promised(network: Inception) -> None:
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.train().modules())
    assert not network(some(1).requires_grad_()).pooled.requires_grad
    assert not network.differentiable


@pytest.mark.slow
def test_it_keeps_the_contract_of_a_source_to_score_with(file: Path) -> None:
    settings = {"features/inception": {"weights": str(file)}}
    (subject,) = (found for found in discover(vco_plugins, settings) if found.id == "features/inception")
    skipped: set[str] = set()
    for law in laws_of(subject):
        try:
            examine(law, subject)
        except NotApplicableError:
            skipped.add(law.name)
    assert skipped == {"tokens-are-row-major", "views-of-one-pass-are-the-same"}


def test_a_converted_safetensors_file_gives_the_same(
    network: Inception, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    assert torch.equal(loaded(tmp_path / "weights.safetensors")(some(1)).pooled, network(some(1)).pooled)


def test_a_missing_file_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*absent\.pth.*from --\.weights.*get https://.*--\.weights FILE"):
        source(tmp_path / "absent.pth").check()


def test_without_a_file_torch_fidelitys_download_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=rf"{tmp_path}/checkpoints/weights-inception-.*cached download"):
        source("").load()


def test_torch_fidelitys_download_is_used_where_it_is(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth").symlink_to(file)
    source("").check()


class Attack:
    def __reduce__(self) -> tuple[object, ...]:
        return (eval, ("1 / 0",))


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps(Attack(), protocol=2)])
def test_a_foreign_file_is_refused_and_never_executed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not torch-fidelity's inception state dict"):
        loaded(path)


def test_a_state_dict_that_lacks_tensors_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({name: state[name] for name in list(state)[1:]}, tmp_path / "cut.pth")
    with pytest.raises(UserError, match="not torch-fidelity's inception state dict"):
        loaded(tmp_path / "cut.pth")


def test_images_of_other_channel_counts_are_refused() -> None:
    with pytest.raises(UserError, match="1 or 3 channels"):
        source("", channels=4)


@pytest.mark.slow
def test_both_published_references_score_one_set_of_images_and_say_what_they_are(
    file: Path, network: Inception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics as JiT has them (moments alone) and as ADM has them (moments, and images for precision and recall)."""
    monkeypatch.setenv("VCO_CACHE", str(tmp_path / "cache"))
    draws = np.random.default_rng(0)
    generated, real = (draws.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8) for _ in range(2))
    (tmp_path / "images").mkdir()
    for number, image in enumerate(generated):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    features = [
        network(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).pooled.double().numpy()
        for images in (generated, real)
    ]
    moments = {"mu": features[1].mean(0), "sigma": np.cov(features[1], rowvar=False)}
    np.savez(tmp_path / "jit.npz", mu=moments["mu"].astype(np.float32), sigma=moments["sigma"])
    np.savez(tmp_path / "adm.npz", arr_0=real, mu=moments["mu"], sigma=moments["sigma"])
    weights = [part for name in ("fd", "prc") for part in (f"--metric.{name}.inception.weights", str(file))]
    command = ["eval", str(tmp_path / "images"), "--metric", "fd=inception", *weights[:2], "--labels", "balanced"]
    found = tmp_path / "found.jsonl"
    against = ["--against", str(tmp_path / "jit.npz"), "--against", str(tmp_path / "adm.npz"), "--evals", str(found)]
    assert main_vco([*command, *against]) == 0
    line = json.loads(found.read_text())
    jit, adm = line["scores"]
    statistics = {"mu": moments["mu"], "sigma": moments["sigma"]}
    mine = {"mu": features[0].mean(0), "sigma": np.cov(features[0], rowvar=False)}
    expected = fid_statistics_to_metric(mine, statistics, False)["frechet_inception_distance"]
    assert adm["value"] == pytest.approx(expected, rel=1e-6)
    assert jit["value"] == pytest.approx(expected, rel=1e-4)  # its means have 24 bits
    assert jit["protocol_hash"] != adm["protocol_hash"]
    assert {score["title"] for score in (jit, adm)} == {"FID-8"}
    assert line["notes"][-1] == "FID-8 of 8 images is not comparable with published scores, which have 50,000"
    assert main_vco(["eval", str(tmp_path / "images"), "--metric", "prc=inception", *weights[2:], *against[2:]]) == 0
    precision, recall = json.loads(found.read_text().splitlines()[-1])["scores"]
    assert precision["protocol"]["reference_images"] == recall["protocol"]["reference_images"] == 8
