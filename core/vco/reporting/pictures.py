"""Pictures inside a page; large ones are made smaller, so that the page stays one that can be sent."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Final

import attrs
from PIL import Image

WHOLE: Final = 300_000
"""Bytes up to which a picture is taken as it is."""
QUALITY: Final = 88
"""Of JPEG, for pictures that are larger."""


@attrs.frozen
class Picture:
    """A picture as a data URL."""

    data: str
    width: int
    height: int
    large: bool
    """Whether it is a photograph rather than pixels that are to be seen."""


def embed(path: Path, widest: int = 1600) -> Picture | None:
    """A picture file as part of a page; None if there is none that can be read.

    Args:
        path: the file.
        widest: a large file is scaled down to this width.
    """
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content)) as picture:
            width, height = picture.size
            if len(content) <= WHOLE:
                return Picture(_url("png", content), width, height, large=False)
            small = picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    small.thumbnail((widest, height), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    small.save(buffer, format="JPEG", quality=QUALITY)
    return Picture(_url("jpeg", buffer.getvalue()), *small.size, large=True)


def _url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
