from typing import Any

import pytest
import torch
from torch import nn

from vco.api import FEATURES, IMAGE, BackboneSetting, Condition, Streams, StreamSpec, UserError
from vco_plugins.backbones.sit import SiT
from vco_plugins.layers import CLASS_TOKEN

LATENT = StreamSpec(shape=(4, 32, 32))
TINY = {
    IMAGE: StreamSpec(shape=(2, 4, 6)),
    FEATURES: StreamSpec(shape=(24, 5), grid=(4, 6)),
    CLASS_TOKEN: StreamSpec(shape=(1, 7)),
}
SETTINGS: Any = {"width": 16, "depth": 2, "heads": 2}


def _tiny(*names: str, trained: bool = True, **changes: Any) -> SiT:
    torch.manual_seed(0)
    specs = {name: TINY[name] for name in (IMAGE, *names)}
    backbone = SiT(SiT.Config(**(SETTINGS | changes)), BackboneSetting(streams=specs, num_classes=3))
    if trained:
        for parameter in backbone.parameters():
            nn.init.normal_(parameter, std=0.3)
    return backbone


def _inputs(*names: str) -> tuple[Streams, Streams, Condition]:
    draws = torch.Generator().manual_seed(1)
    noisy = {name: torch.randn(3, *TINY[name].shape, generator=draws) for name in (IMAGE, *names)}
    t = torch.rand(3, generator=draws)
    return noisy, dict.fromkeys(noisy, t), Condition(labels=torch.tensor([0, 1, 3]))


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 131), ("L", 458), ("XL", 675)])
def test_sizes_have_the_published_number_of_parameters(size: Any, millions: int) -> None:
    with torch.device("meta"):
        backbone = SiT(SiT.Config(size=size), BackboneSetting(streams={IMAGE: LATENT}, num_classes=1000))
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert round(count / 1e6) == pytest.approx(millions, abs=1)


@torch.no_grad()
def test_an_untrained_network_predicts_no_velocity() -> None:
    noisy, times, condition = _inputs(FEATURES, CLASS_TOKEN)
    velocity = _tiny(FEATURES, CLASS_TOKEN, trained=False)(noisy, times, condition).velocity
    assert velocity.keys() == noisy.keys()
    for name, v in velocity.items():
        assert v.shape == noisy[name].shape
        assert not v.any()


@torch.no_grad()
def test_the_other_direction_is_told_the_other_time_and_predicts_the_other_velocity() -> None:
    noisy, times, condition = _inputs()
    to_data, to_noise = _tiny(), _tiny(direction="noise")
    reversed_times = {name: 1 - t for name, t in times.items()}
    expected = to_data(noisy, reversed_times, condition).velocity[IMAGE]
    torch.testing.assert_close(to_noise(noisy, times, condition).velocity[IMAGE], -expected)


@torch.no_grad()
def test_spare_outputs_are_thrown_away() -> None:
    noisy, times, condition = _inputs()
    plain, spare = _tiny(), _tiny(spare_outputs=True)
    weights = {name: w for name, w in plain.state_dict().items() if not name.startswith("head.linear")}
    spare.load_state_dict({**spare.state_dict(), **weights})
    for part in ("weight", "bias"):  # each token's numbers are (place in the patch, channel)
        whole = spare.head.linear.get_parameter(part).view(4, 4, -1)
        whole[:, :2] = plain.head.linear.get_parameter(part).view(4, 2, -1)
    torch.testing.assert_close(
        spare(noisy, times, condition).velocity[IMAGE], plain(noisy, times, condition).velocity[IMAGE]
    )


@torch.no_grad()
def test_features_are_seen_at_their_place_alone() -> None:
    noisy, backbone = _inputs(FEATURES)[0], _tiny(FEATURES)
    embedded = backbone._embedded(noisy)  # pyright: ignore[reportPrivateUsage]
    other = noisy[FEATURES].clone()
    other[:, 6 * 1 + 4] += 1  # row 1, column 4: the patch in row 0 and column 2
    changed = backbone._embedded({**noisy, FEATURES: other})  # pyright: ignore[reportPrivateUsage]
    assert (changed - embedded).abs().amax((0, 2)).nonzero().flatten().tolist() == [2]


@torch.no_grad()
def test_taps_hold_the_patches_and_the_class_token_beside_them() -> None:
    noisy, times, condition = _inputs(CLASS_TOKEN)
    tap = _tiny(CLASS_TOKEN)(noisy, times, condition, taps=(2,)).taps[2]
    assert tap.tokens.shape == (3, 6, 16)
    assert tap.positions.tolist() == list(range(6))
    assert tap.others[CLASS_TOKEN].shape == (3, 1, 16)


def test_what_does_not_fit_is_refused() -> None:
    def with_stream(name: str, spec: StreamSpec) -> SiT:
        return SiT(SiT.Config(**SETTINGS), BackboneSetting(streams={IMAGE: TINY[IMAGE], name: spec}, num_classes=3))

    with pytest.raises(UserError, match=r"have the grid \(2, 3\): set --adapter.grid image"):
        with_stream(FEATURES, StreamSpec(shape=(6, 5), grid=(2, 3)))
    with pytest.raises(UserError, match=r"--backbone.patch 4 does not divide"):
        _tiny(patch=4)
    with pytest.raises(UserError, match="A class token is one token an image"):
        with_stream(CLASS_TOKEN, StreamSpec(shape=(2, 5)))
    with pytest.raises(ValueError, match="width 18 must be a multiple of the heads"):
        SiT.Config(width=18, heads=2)
    noisy, times, condition = _inputs(CLASS_TOKEN)
    with pytest.raises(UserError, match="no times per token beside a class token"):
        _tiny(CLASS_TOKEN)(noisy, {name: torch.rand(3, 6) for name in times}, condition)
