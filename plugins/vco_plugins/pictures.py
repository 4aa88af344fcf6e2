"""Image files of any kind as RGB pictures: what they show is what is read, or they are refused."""

import warnings
from io import BufferedReader, BytesIO
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from vco.api import UserError

MOST_PIXELS: Final = 89_000_000
"""Pixels above which a file is taken for a mistake, or for an attack on the memory; Pillow warns there too."""
LONGEST: Final = 8
"""A picture that is longer than this many times its width is cut to that before it is resized."""
ENDINGS: Final = {"JPEG": "jpg", "TIFF": "tif"}
"""Format as Pillow calls it -> usual ending, where that is another word."""


def read_picture(opened: BufferedReader | BytesIO, path: str) -> Image.Image:
    """The picture in a file, upright and in RGB.

    Orientation tags are obeyed. Sixteen bits a channel become eight; of animations the first frame is read.

    Args:
        opened: the file; it is closed.
        path: what it is called in messages.

    Raises:
        UserError: if it cannot be read, is too large, or has floating-point pixels, whose range nobody knows.
    """
    try:
        with warnings.catch_warnings(), opened, Image.open(opened) as file:
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are checked here
            if file.width * file.height > MOST_PIXELS:
                raise UserError(
                    f"The image {shown(path)} has {file.width} x {file.height} pixels, and more than {MOST_PIXELS:,} "
                    "are not read; make it smaller or remove it."
                )
            picture = ImageOps.exif_transpose(file)
            if picture.mode == "F":
                raise UserError(
                    f"The image {shown(path)} has floating-point pixels, whose range is not known; save it with 8 or "
                    "16 bits a channel."
                )
            if picture.mode.startswith("I"):
                levels = np.asarray(picture).astype(np.int64).clip(0, 65535)
                picture = Image.fromarray((levels / 257).round().astype(np.uint8))
            return picture.convert("RGB")
    # Pillow has no common base class for what its decoders raise on damaged files
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, Image.DecompressionBombError) as error:
        raise UserError(f"The image {shown(path)} cannot be read ({error}); replace or remove it.") from error


def ending_of(content: bytes) -> str:
    """The usual ending of a picture file that can be read, by its content: "jpg", "png", ..."""
    with Image.open(BytesIO(content)) as file:
        return ENDINGS.get(file.format or "", (file.format or "img").lower())


def shown(path: str) -> str:
    """A path for a message, without control characters that a terminal would obey."""
    return path if path.isprintable() else ascii(path)


def center_crop(picture: Image.Image, size: int) -> Image.Image:
    """The central square, `size` pixels wide, of a picture resized until its shorter side is `size`.

    Source: `center_crop_arr` of Dhariwal & Nichol 2021 (ADM): averaging halves while possible, then bicubic. A picture
    more than `LONGEST` times longer than wide is cut first, as resizing it whole would take any amount of memory.
    """
    short = min(picture.size)
    if max(picture.size) > LONGEST * short:
        width, height = (min(side, LONGEST * short) for side in picture.size)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))
