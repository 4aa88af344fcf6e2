"""V-Co's objective at any size, with random weights and a frozen encoder, for measurements of speed."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import attrs
import torch
from torch import Tensor, nn

from vco.api import (
    FEATURES,
    IMAGE,
    AdapterSetting,
    BackboneSetting,
    CodecSetting,
    Features,
    FeatureSetting,
    FeatureSource,
    FeatureSpec,
    GuidanceSetting,
    LossSetting,
    ProcessSetting,
    StreamSpec,
)
from vco.objective import Draw, Objective
from vco.randomness import RowGenerator, noise
from vco.step_inputs import Inputs
from vco.training.operations import operations_counter
from vco_plugins.adapters.rms import RMS
from vco_plugins.backbones.jit_dual import JiTDual
from vco_plugins.codecs.pixels import Pixels
from vco_plugins.features.dinov2 import DINOv2
from vco_plugins.guidance.structural import Structural
from vco_plugins.layers import Block
from vco_plugins.losses.hybrid import Hybrid
from vco_plugins.processes.shared import Shared

CLASSES: Final = 1000


class TinyEncoder(FeatureSource):
    """A small frozen ViT with random weights, for machines without a GPU; its two views are one."""

    def __init__(self, config: FeatureSource.Config, setting: FeatureSetting, width: int = 96, depth: int = 2) -> None:
        super().__init__()
        channels, side, _ = setting.image_shape
        grid = (side // 16, side // 16)
        self.spec = FeatureSpec(tokens=(grid[0] * grid[1], width), grid=grid)
        self.embed = nn.Conv2d(channels, width, 16, 16)
        self.blocks = nn.ModuleList(Block(width, width // 32, 4.0, plain=True) for _ in range(depth))
        self.width = width
        self.requires_grad_(False).eval()

    def load(self) -> None:
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.05)

    def block_modules(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def forward(self, images: Tensor) -> Features:
        x = self.embed(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, x.new_ones(len(x), self.width))
        return Features(tokens=x, grid=self.spec.grid, pooled=x.mean(1))


@attrs.frozen(kw_only=True)
class Sizes:
    """What is measured."""

    size: Literal["S", "B", "L", "H"]
    depth: int | None
    side: int
    batch: int
    dinov2: bool
    """Whether the encoder is DINOv2-B with random weights."""

    @property
    def title(self) -> str:
        """As part of a row's title."""
        depth = f" of {self.depth} blocks" if self.depth else ""
        return f"{self.size}{depth}, {self.side} px, batch {self.batch}"


def make(sizes: Sizes, device: str, interval: tuple[float, float] = (0.1, 1.0)) -> Objective:
    """The objective of V-Co with loss hybrid; the same weights at every call."""
    torch.manual_seed(0)
    shape = (3, sizes.side, sizes.side)
    image = StreamSpec(shape=shape)
    setting = FeatureSetting(image_shape=shape)
    source: Any = TinyEncoder(TinyEncoder.Config(), setting)
    if sizes.dinov2:
        source = DINOv2(DINOv2.Config(weights="random"), setting)
    source.load()
    source.to(device)
    known = {"encoder": source.spec}
    adapter = RMS(RMS.Config(scale=0.485), AdapterSetting(features=known, image=image))
    specs = {IMAGE: image, **adapter.specs()}
    backbone = JiTDual(
        JiTDual.Config(size=sizes.size, depth=sizes.depth), BackboneSetting(streams=specs, num_classes=CLASSES)
    )
    low, high = interval
    guidance = Structural(Structural.Config(low=low, high=high), GuidanceSetting(streams=specs, num_classes=CLASSES))
    setting_of_loss = LossSetting(
        width=backbone.width, grid=backbone.grid, depth=backbone.depth, features=known, streams=specs,
        num_classes=CLASSES,
    )  # fmt: skip
    objective = Objective(
        backbone=backbone,
        adapter=adapter,
        losses={"hybrid": Hybrid(Hybrid.Config(), setting_of_loss)},
        guidance=guidance,
        process=Shared(Shared.Config(), ProcessSetting(streams=specs)),
        codec=Pixels(Pixels.Config(), CodecSetting(image_shape=shape)),
        sources={"encoder": source},
        specs=specs,
        stream_weights={FEATURES: 0.1},
    )
    for parameter in objective.parameters():  # heads and modulations start at zero, which would be no test
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return objective.to(device)


def batch(objective: Objective, sizes: Sizes, device: str) -> tuple[Inputs, Draw]:
    """Random images of one class a group of 128, and the random part of a step; some rows are masked."""
    labels, slots = torch.arange(sizes.batch) // 128, range(sizes.batch)
    shapes = {stream: spec.shape for stream, spec in objective.specs.items()}
    shape = (3, sizes.side, sizes.side)
    inputs = Inputs(
        images=noise({"": shape}, slots, 0, "images")[""].clamp(-1, 1).to(device),
        labels=labels.to(device),
        noise={stream: value.to(device) for stream, value in noise(shapes, slots, 0, "noise").items()},
        generator=RowGenerator((0, "draws"), slots, device),
    )
    draw = objective.draw(labels, seed=1, step=0).map(lambda tensor: tensor.to(device))
    return inputs, draw


def flops(work: Callable[[], Any]) -> float:
    """Floating-point operations of some work, counted as `cost.json` counts them."""
    with operations_counter() as counter:
        work()
    return float(counter.get_total_flops())


def peak(device: str, dtype: torch.dtype, seconds: Callable[[Callable[[], Any], int], float]) -> float:
    """FLOP/s of large matrix multiplications: the best of several tries."""
    side = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds(lambda: a @ b, 1)
    return 2 * side**3 / min(seconds(lambda: a @ b, 2) for _ in range(5))


def compile_blocks(*objectives: Objective) -> None:
    """Compiles the blocks of networks and encoders where they stand, as both variants of a comparison need it."""
    for objective in objectives:
        for part in (objective.backbone, *objective.sources.values()):
            for block in part.block_modules():
                block.compile(dynamic=False)
