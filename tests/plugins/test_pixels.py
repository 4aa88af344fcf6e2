import pytest
import torch

from vco.api import CodecSetting
from vco_plugins.codecs.pixels import Pixels

SETTING = CodecSetting(image_shape=(3, 4, 6))


def test_the_stream_is_the_images_themselves() -> None:
    codec = Pixels(Pixels.Config(), SETTING)
    images = torch.rand(2, 3, 4, 6) * 2 - 1
    assert torch.equal(codec.encode(images, None), images)
    assert torch.equal(codec.decode(images), images)
    assert codec.spec.shape == (3, 4, 6)
    assert codec.noise_shape is None


def test_the_noise_scale_is_an_option() -> None:
    assert Pixels(Pixels.Config(), SETTING).spec.noise_scale == 1.0
    assert Pixels(Pixels.Config(noise_scale=2.0), SETTING).spec.noise_scale == 2.0
    with pytest.raises(ValueError, match="noise_scale"):
        Pixels.Config(noise_scale=0.0)
