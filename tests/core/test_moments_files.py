"""Files with moments of real images: our own, published ones, and the cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vco.api import Moments
from vco.errors import UserError
from vco.evaluation import moments as moments_module
from vco.evaluation.moments import Cache, is_moments_file, read_moments, write_moments

ENCODER = {"name": "an-encoder", "settings": {"norm": "affine"}, "weights": "a" * 64}
INCEPTION = {"name": "inception", "settings": {}, "weights": "b" * 64}
SHAPE = (1, 8, 8)
ABOUT = {"name": "training split of digits", "images": "c" * 64, "count": 7, "image_shape": [1, 8, 8],
         "labels": "data", "encoder": ENCODER}  # fmt: skip


def some(width: int = 4, count: int | None = 7) -> Moments:
    draws = torch.randn(50, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Moments(mean=draws.mean(0), covariance=draws.T.cov(), count=count)


@pytest.mark.parametrize("ending", ["safetensors", "npz"])
def test_what_is_written_is_read_with_all_that_was_said(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"reference.{ending}"
    write_moments(path, some(), ABOUT)
    found = read_moments(path)
    assert is_moments_file(path)
    assert torch.equal(found.moments.mean, some().mean)
    assert torch.equal(found.moments.covariance, some().covariance)
    assert found.moments.count == 7
    assert found.name == "training split of digits"
    assert found.about["encoder"] == ENCODER
    found.require(ENCODER, SHAPE)


def test_other_tools_find_mu_and_sigma_in_our_npz(tmp_path: Path) -> None:
    write_moments(tmp_path / "reference.npz", some(), ABOUT)
    with np.load(tmp_path / "reference.npz") as file:
        np.testing.assert_array_equal(file["mu"], some().mean.numpy())
        np.testing.assert_array_equal(file["sigma"], some().covariance.numpy())


@pytest.mark.parametrize(
    ("encoder", "shape", "said"),
    [
        ({**ENCODER, "name": "other"}, SHAPE, r"another extractor, an-encoder \(weights aaaaaaaaaaaa\), than other"),
        ({**ENCODER, "weights": "d" * 64}, SHAPE, r"than an-encoder \(weights dddddddddddd"),
        ({**ENCODER, "settings": {"norm": "plain"}}, SHAPE, r"\{'norm': 'plain'\}"),
        (ENCODER, (1, 16, 16), r"images of 1x8x8, and these are 1x16x16"),
    ],
)
def test_a_reference_of_another_extractor_or_size_is_refused(
    encoder: dict[str, object], shape: tuple[int, int, int], said: str, tmp_path: Path
) -> None:
    write_moments(tmp_path / "reference.safetensors", some(), ABOUT)
    with pytest.raises(UserError, match=said):
        read_moments(tmp_path / "reference.safetensors").require(encoder, shape)


def published(path: Path, width: int = 2048, dtype: type = np.float64) -> Path:
    np.savez(path, mu=np.zeros(width, dtype), sigma=np.eye(width, dtype=dtype))
    return path


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_published_statistics_are_inceptions(dtype: type, tmp_path: Path) -> None:
    found = read_moments(published(tmp_path / "stats.npz", dtype=dtype))
    assert found.moments.mean.dtype == torch.float64
    assert found.moments.count is None
    assert found.name == "moments in stats.npz"
    found.require(INCEPTION, (3, 256, 256))
    with pytest.raises(UserError, match="read as Inception's, of 2048, and not as those of an-encoder"):
        found.require(ENCODER, SHAPE)
    with pytest.raises(UserError, match="holds 64 means"):
        read_moments(published(tmp_path / "other.npz", 64)).require(INCEPTION, SHAPE)


def test_a_file_that_everybody_uses_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    content = published(tmp_path / "stats.npz", 4).read_bytes()
    beginning = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()[:8]  # as `git hash-object` has it
    monkeypatch.setattr(moments_module, "PUBLISHED", {beginning: "JiT's statistics"})
    assert read_moments(tmp_path / "stats.npz").name == "JiT's statistics"


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"mean": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="no moments that `vco eval reference` has written"):
        read_moments(tmp_path / "weights.safetensors")
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(UserError, match=r"no mean of d numbers .* \[3\] and \[4, 4\]"):
        read_moments(tmp_path / "odd.npz")
    np.savez(tmp_path / "nan.npz", mu=np.full(3, np.nan), sigma=np.eye(3))
    with pytest.raises(UserError, match="are not finite"):
        read_moments(tmp_path / "nan.npz")
    np.savez(tmp_path / "objects.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))
    with pytest.raises(UserError, match="pickled objects"):
        is_moments_file(tmp_path / "objects.npz")
    with pytest.raises(UserError, match=r"written as .safetensors or as .npz"):
        write_moments(tmp_path / "reference.txt", some(), ABOUT)


def test_the_cache_gives_back_what_has_the_same_key(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), {"images": "a", "encoder": ENCODER, "shape": [1, 8, 8]}
    assert cache.get(key) is None
    cache.put(key, some())
    found = cache.get(key)
    assert found is not None
    assert torch.equal(found.covariance, some().covariance)
    assert found.count == 7
    assert cache.get({**key, "images": "b"}) is None


def test_a_damaged_or_foreign_file_in_the_cache_counts_as_none(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), {"images": "a"}
    cache.put(key, some())
    (file,) = tmp_path.iterdir()
    write_moments(file, some(), {"key": {"images": "b"}})
    assert cache.get(key) is None
    file.write_bytes(b"nothing")
    assert cache.get(key) is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "below")
    cache.put({"images": "a"}, some())
    assert cache.get({"images": "a"}) is None


def test_the_cache_lies_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("VCO_CACHE", raising=False)
    assert Cache().folder == tmp_path / "xdg" / "vco" / "moments"
    monkeypatch.setenv("VCO_CACHE", str(tmp_path / "own"))
    assert Cache().folder == tmp_path / "own" / "moments"
