"""A network of timm, trained on a data set's classes or, without labels, on itself."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import attrs
import torch
from attrs.validators import and_, ge, gt, instance_of, le, optional
from jaxtyping import Float, Int
from torch import Tensor, nn

from vco.api import FeatureSetting, FeatureSource, Recipe, RecipeSetting, UserError
from vco_plugins.features.timm_vit import TimmViT
from vco_plugins.recipes.views import two_views
from vco_plugins.timm_networks import arguments_of, require_readable

TOKENS: Final = 8
"""Tokens a side of a ViT, unless its patch is named."""
AVERAGED: Final = 0.998
"""Decay per step of the running average of the weights, which is what is written."""


def _json(config: Any, attribute: "attrs.Attribute[str]", value: str) -> None:
    try:
        arguments_of(value)
    except ValueError as error:
        raise ValueError(f'{value!r} is no JSON object, as in {{"drop_rate": 0.1}}: {error}') from error


class TimmRecipe(Recipe):
    """A small ViT or ConvNet of timm, from initial weights, with timm's optimizer, schedule, mixing and average.

    With classes it learns these, from crops in changed colors, mixed by Mixup or CutMix. Without, or with
    --recipe.method vicreg, it learns to see two views of an image as one (VICReg, Bardes et al. 2022, with the loss and
    head of the library lightly, `pip install 'vco[ssl]'`). A ViT has no class token and is pooled by the mean of its
    tokens, so that every token carries what is learned.

    Source: Touvron et al. 2021 (DeiT) for augmentation and rates, made smaller; Wightman 2019 (timm).
    """

    option: ClassVar[str] = "weights"

    @attrs.frozen(kw_only=True)
    class Config(Recipe.Config):
        """What a user may set."""

        model: str = attrs.field(default="vit_tiny_patch16_224", validator=instance_of(str))
        """Name in timm of a plain ViT, whose sizes are those below, or of a ConvNet, as resnet10t or convnext_atto."""
        patch: int | None = attrs.field(default=None, validator=optional(ge(1)))
        """Patch size of a ViT in pixels; by default an eighth of the image's side."""
        width: int | None = attrs.field(default=None, validator=optional(ge(1)))
        """Width of a ViT's tokens, by default 96; the fewer numbers features have, the easier they are to denoise."""
        depth: int | None = attrs.field(default=None, validator=optional(ge(1)))
        """Blocks of a ViT, by default 6."""
        heads: int | None = attrs.field(default=None, validator=optional(ge(1)))
        """Attention heads of a ViT, by default one for 32 channels; must divide the width."""
        arguments: str = attrs.field(default="{}", validator=_json)
        """What else timm is to build the network with, as a JSON object, such as {"channels": [24, 48, 80, 112]}."""
        method: Literal["auto", "supervised", "vicreg"] = "auto"
        """What it learns from: classes, or two views of each image; auto is classes where there are several."""
        learning_rate: float = attrs.field(default=1e-3, validator=gt(0.0))
        """Peak learning rate of AdamW; it grows over a twentieth of the steps and falls as a cosine to 0."""
        weight_decay: float = attrs.field(default=0.05, validator=ge(0.0))
        """Decoupled weight decay of matrices."""
        crop: float = attrs.field(default=0.5, validator=and_(gt(0.0), le(1.0)))
        """Smallest share of an image that a crop shows, in (0, 1]; for vicreg half of it."""
        mix: float = attrs.field(default=0.5, validator=and_(ge(0.0), le(1.0)))
        """Share of the batches that are mixed, half of them by Mixup and half by CutMix; supervised only."""
        half: bool = False
        """Whether weights are written in half precision, which halves the file."""

    def __init__(self, config: Config, setting: RecipeSetting) -> None:
        from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
        from timm.scheduler import CosineLRScheduler  # pyright: ignore[reportPrivateImportUsage]

        channels, height, width = setting.image_shape
        if channels not in (1, 3) or height != width:
            raise UserError(f"networks of timm read square images of 1 or 3 channels, not {setting.image_shape}.")
        self.config, self.setting, self.side = config, setting, height
        several = setting.num_classes > 1
        self.supervised = config.method == "supervised" or (config.method == "auto" and several)
        if self.supervised and not several:
            raise UserError("these images have one class, so there is nothing to tell; leave --recipe.method out.")
        self.arguments = self._arguments()
        encoder = _created(config.model, self.arguments)
        require_readable(config.model, self.arguments, self.side)
        parts = {"encoder": encoder, "average": copy.deepcopy(encoder).requires_grad_(False)}
        self.augment = self._augmentation()
        learn = self._learn_classes() if self.supervised else two_views(encoder, parts, self._viewed)
        self._learn: Callable[[Tensor, Tensor], Tensor] = learn
        self.network = self.parts = nn.ModuleDict(parts)
        self.optimizer = create_optimizer_v2(
            self.network, opt="adamw", lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.schedule = CosineLRScheduler(
            self.optimizer,
            t_initial=setting.steps,
            warmup_t=setting.steps // 20,
            warmup_lr_init=config.learning_rate / 100,
            warmup_prefix=False,
            t_in_epochs=False,
        )

    def loss(self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"]) -> Tensor:
        return self._learn(images.expand(-1, 3, -1, -1), labels)

    def before_step(self, step: int) -> None:
        self.schedule.step_update(step)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        decay = min(AVERAGED, (1 + step) / (10 + step))  # so that initial weights are soon forgotten
        now, average = self.parts["encoder"].state_dict(), self.parts["average"].state_dict()
        for name, tensor in average.items():
            if tensor.is_floating_point():
                tensor.lerp_(now[name], 1 - decay)
            else:
                tensor.copy_(now[name])

    def write(self, folder: Path) -> FeatureSource:
        from timm.models import save_for_hf

        network: Any = copy.deepcopy(self.parts["average"]).cpu().eval()
        network = network.half() if self.config.half else network
        half = (0.5, 0.5, 0.5)  # pixels in [0, 1] then become images in [-1, 1], which it was trained on
        own: dict[str, Any] = {"mean": half, "std": half, "input_size": (3, self.side, self.side), "crop_pct": 1.0}
        own |= {"tag": "vco", "license": None}  # not those of the weights that timm has of this network
        about = {"pretrained_cfg": own, "num_classes": network.num_classes}
        about |= {"label_names": list(self.setting.class_names)} if network.num_classes else {}
        save_for_hf(
            network,
            str(folder),
            model_config=about,
            model_args=self.arguments,
            data_config=own,
            safe_serialization=True,
        )
        source = TimmViT(TimmViT.Config(weights=str(folder)), FeatureSetting(image_shape=self.setting.image_shape))
        source.load()
        return source

    def _arguments(self) -> dict[str, Any]:
        """What timm builds the network with."""
        import timm

        config = self.config
        if not timm.is_model(config.model):
            near = ", ".join(timm.list_models(f"*{config.model.partition('_')[0]}*")[:5]) or "vit_tiny_patch16_224"
            raise UserError(f"--recipe.model {config.model}: timm has no such network; take one such as {near}.")
        sizes = {name: getattr(config, name) for name in ("patch", "width", "depth", "heads")}
        more = {"num_classes": self.setting.num_classes if self.supervised else 0, **arguments_of(config.arguments)}
        if not config.model.startswith("vit_"):
            if named := [name for name, value in sizes.items() if value is not None]:
                raise UserError(
                    f"--recipe.{named[0]} is for ViTs of timm (vit_...); give {config.model} its sizes as "
                    "--recipe.arguments JSON."
                )
            return more
        patch, width = config.patch or max(1, self.side // TOKENS), config.width or 96
        heads = config.heads or max(1, width // 32)
        if self.side % patch:
            raise UserError(f"--recipe.patch {patch} does not divide the side of the images, {self.side}.")
        if width % heads:
            raise UserError(f"--recipe.heads {heads} does not divide the width {width}.")
        vit = {"img_size": self.side, "patch_size": patch, "embed_dim": width, "depth": config.depth or 6}
        vit |= {"num_heads": heads, "class_token": False, "global_pool": "avg", "drop_path_rate": 0.1}
        return {**vit, **more}

    def _augmentation(self) -> Any:
        """Crops, colors and, of classes, erased places; mirroring is the data set's business."""
        from torchvision.transforms import v2

        smallest = self.config.crop if self.supervised else self.config.crop / 2
        crop = v2.RandomResizedCrop(self.side, scale=(smallest, 1.0), ratio=(0.8, 1.25), antialias=True)
        if self.supervised:
            return v2.Compose([crop, v2.ColorJitter(0.3, 0.3, 0.3, 0.03), v2.RandomErasing(0.25)])
        colors = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8)
        return v2.Compose([crop, colors, v2.RandomGrayscale(0.2)])

    def _viewed(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Each image augmented on its own."""
        return torch.stack([self.augment(image) for image in images / 2 + 0.5]) * 2 - 1

    def _learn_classes(self) -> Callable[[Tensor, Tensor], Tensor]:
        from timm.data import Mixup  # pyright: ignore[reportPrivateImportUsage]
        from timm.loss import SoftTargetCrossEntropy  # pyright: ignore[reportPrivateImportUsage]

        mixed = Mixup(
            mixup_alpha=0.3, cutmix_alpha=1.0, prob=self.config.mix, label_smoothing=0.1,
            num_classes=self.setting.num_classes,
        )  # fmt: skip
        criterion = SoftTargetCrossEntropy()

        def learn(images: Tensor, labels: Tensor) -> Tensor:
            even = len(images) // 2 * 2  # images are mixed in pairs
            views, targets = mixed(self._viewed(images[:even]), labels[:even])
            return criterion(self.parts["encoder"](views), targets)

        return learn


def _created(model: str, arguments: Mapping[str, Any]) -> Any:
    """The network with initial weights; raises `UserError` if timm cannot build it so, or we could not read it."""
    import timm

    try:
        network = timm.create_model(model, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"timm cannot build {model} with {dict(arguments)}: {error}.") from error
    return network
