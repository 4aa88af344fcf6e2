"""Laws for codecs: from images to the image stream and back."""

from typing import Any

import attrs
import torch
from torch import Tensor

from vco.api import Codec, CodecSetting
from vco.testing.case import FrozenCase, RefusedError, StreamCase
from vco.testing.law import law, require
from vco.testing.laws.frozen import FEW, ODD_SHAPES, first_accepted, load, loaded, shapes_for
from vco.testing.tensors import cast, distance, no_ambient_draws, require_same


@attrs.frozen(kw_only=True)
class CodecCase(FrozenCase, StreamCase):
    """A codec on images that fit it; its weights are loaded once."""

    kind = "codecs"
    sizes_tried = FEW

    def make(self) -> Codec:
        """The codec for the first image shape that it accepts, without weights."""
        return first_accepted(self.subject, self.config, shapes_for(self.subject), CodecSetting)[0]

    def build(self) -> Any:
        """The codec with its weights, in eval mode."""
        return loaded(self.subject, self.config, shapes_for(self.subject), CodecSetting)[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of the images that it accepts."""
        return loaded(self.subject, self.config, shapes_for(self.subject), CodecSetting)[1]

    def inputs(self, component: Any, seed: int) -> dict[str, Tensor]:
        """Random images in [-1, 1], the noise that encoding them takes, and a random stream."""
        return self.inputs_of(component, self.image_shape, seed)

    def inputs_of(self, component: Any, image_shape: tuple[int, ...], seed: int) -> dict[str, Tensor]:
        """The same for images of a certain shape."""
        draws, batch = self.generator(seed), self.sizes.batch
        inputs = {
            "images": torch.rand(batch, *image_shape, generator=draws) * 1.8 - 0.9,
            "stream": torch.randn(batch, *component.spec.shape, generator=draws),
        }
        if component.noise_shape is not None:
            inputs["noise"] = torch.randn(batch, *component.noise_shape, generator=draws)
        return inputs

    def run(self, component: Any, inputs: Any) -> dict[str, Tensor]:
        """The stream of the images, with and without noise, and the images of the stream."""
        likely = component.encode(inputs["images"], None)
        found = {"likely": likely, "decoded": component.decode(inputs["stream"]), "back": component.decode(likely)}
        return found | ({"drawn": component.encode(inputs["images"], inputs["noise"])} if "noise" in inputs else {})

    def cast(self, inputs: Any, dtype: torch.dtype) -> Any:
        """Images, noise and stream in another dtype."""
        return cast(inputs, dtype)


@law(CodecCase)
def encoding_is_as_specified(case: CodecCase) -> None:
    """Encoding gives the shape of `spec`, with noise and without, and decoding gives the images' shape back."""
    _require_shapes(case, case.build(), case.image_shape)


def _require_shapes(case: CodecCase, codec: Any, image_shape: tuple[int, ...]) -> None:
    found = case.run(codec, case.inputs_of(codec, image_shape, 1))
    for name, x in found.items():
        expected = codec.spec.shape if name in ("likely", "drawn") else image_shape
        what = {"likely": "encoded without noise", "drawn": "encoded with noise"}.get(name, "decoded")
        shape = tuple(x.shape)
        require(shape == (case.sizes.batch, *expected), f"{what}, images of {image_shape} have the shape {shape}")
    require(len(codec.spec.shape) == 3, f"the image stream has the shape {codec.spec.shape} instead of (c, h, w)")


@law(CodecCase, once=True)
def images_of_other_sizes_fit_or_are_refused(case: CodecCase) -> None:
    """Images of every size that it does not refuse are encoded as `spec` says, and decoded to their size."""
    for shape in ODD_SHAPES if case.subject.shapes.image_shape is None else ():
        try:
            codec, _ = load(case.subject, case.config, (shape,), CodecSetting)
        except RefusedError:
            continue
        _require_shapes(case, codec, shape)


@law(CodecCase, once=True)
def noise_scale_is_in_the_spec(case: CodecCase) -> None:
    """The option noise_scale, which all codecs have, is the noise scale of the image stream."""
    for scale in (1.0, 2.5):
        codec = attrs.evolve(case, config=attrs.evolve(case.config, noise_scale=scale)).construct()
        found = codec.spec.noise_scale
        require(found == scale, f"with noise_scale {scale} its spec says that the noise scale is {found}")


@law(CodecCase)
def noise_decides_what_is_encoded(case: CodecCase) -> None:
    """With noise, encoding depends on it and on nothing else that is random; without, nothing is random."""
    codec = case.build()
    inputs = case.inputs(codec, 1)
    images = inputs["images"]
    with no_ambient_draws("encode"):
        likely, again = (codec.encode(images, None) for _ in range(2))
    require_same(likely, again, "encoded twice without noise, images", 0.0)
    if "noise" not in inputs:
        return
    with no_ambient_draws("encode"):
        drawn, again = (codec.encode(images, inputs["noise"]) for _ in range(2))
    require_same(drawn, again, "encoded twice with the same noise, images", 0.0)
    other = codec.encode(images, case.inputs(codec, 2)["noise"])
    for row in range(case.sizes.batch):
        gap = distance(drawn[row], other[row])
        require(gap > 0, f"other noise changes nothing in row {row}, so that noise_shape should be None")
    nothing = codec.encode(images, torch.zeros_like(inputs["noise"]))
    further = (drawn - likely).norm() + 1e-6
    require((nothing - likely).norm() <= further, "noise of zeros is further from the likeliest stream than a draw")


@law(CodecCase)
def images_matter(case: CodecCase) -> None:
    """Other images have other streams, and other streams other images, in every row."""
    codec = case.build()
    one, other = (case.run(codec, case.inputs(codec, seed)) for seed in (1, 2))
    for name in ("likely", "decoded"):
        gap = (one[name] - other[name]).abs().flatten(1).amax(1)
        require((gap > 1e-6).all(), f"{name} values do not depend on what is given")


@law(CodecCase)
def gradients_pass_decoding(case: CodecCase) -> None:
    """A finite gradient of the decoded images reaches the stream of every sample."""
    codec = case.build()
    stream = case.inputs(codec, 1)["stream"].requires_grad_()
    decoded = codec.decode(stream)
    require(decoded.requires_grad, "no gradient passes decode()")
    weights = torch.randn(decoded.shape, generator=case.generator(3))
    (gradient,) = torch.autograd.grad((decoded * weights).sum(), stream)
    require(torch.isfinite(gradient).all(), "the gradient of the decoded images is not finite")
    require((gradient.abs().flatten(1).amax(1) > 0).all(), "no gradient of the decoded images at a stream")


@law(CodecCase, about=lambda codec: codec.load is Codec.load)
def decoded_images_are_those_encoded(case: CodecCase) -> None:
    """Encoded and decoded by a codec without weights, an image is nearer to itself than to other images."""
    codec = case.build()
    images = case.inputs(codec, 1)["images"]
    # broad shades, as no codec need keep what is different in each pixel
    shades = torch.randn(images.shape[0], images.shape[1], 2, 2, generator=case.generator(4)).clamp(-1, 1)
    images = torch.nn.functional.interpolate(shades, images.shape[2:], mode="bilinear")
    back = codec.decode(codec.encode(images, None))
    nearest = torch.cdist(back.flatten(1).float(), images.flatten(1)).argmin(1)
    if not torch.equal(nearest, torch.arange(len(images))):
        require(False, f"decoded images are nearest to the images {nearest.tolist()}")


@law(CodecCase, once=True)
def loading_is_repeatable(case: CodecCase) -> None:
    """A second instance encodes and decodes alike, whatever the ambient random state."""
    codec = case.build()
    inputs = case.inputs(codec, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        other, _ = load(case.subject, case.config, shapes_for(case.subject), CodecSetting)
    require_same(case.run(codec, inputs), case.run(other, inputs), "a second instance", 0.0)
