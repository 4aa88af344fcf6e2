"""Pictures of samples and of features: contact sheets, animations, and features as colours."""

from collections.abc import Sequence
from io import BytesIO
from typing import Final

import attrs
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK: Final = (34, 34, 34)
PAPER: Final = (255, 255, 255)
SMALLEST: Final = 64
"""Least height of a cell in pixels: smaller images are enlarged by a whole factor."""
LARGEST: Final = 128
"""Greatest height of a cell: larger images are shrunk to it."""
GAP: Final = 4
LINE: Final = 15
"""Height of a line of text."""
LAST: Final = 1500
"""Milliseconds that an animation stays at its end."""


@attrs.frozen
class Basis:
    """The three leading principal components of some features, as the colours red, green and blue."""

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "d 3"]
    low: Float[Tensor, " 3"]
    """What is shown as 0."""
    high: Float[Tensor, " 3"]
    """What is shown as 255."""

    @classmethod
    def of(cls, features: Float[Tensor, "n d"]) -> "Basis":
        """The basis of these features; the second and the 98th hundredth of each component span its colours.

        Components that are not there, as in features of two dimensions or all alike, are shown as the middle.
        """
        values = features.double()
        mean = values.mean(0)
        _, strengths, directions = torch.linalg.svd(values - mean, full_matrices=False)
        components = values.new_zeros(values.shape[1], 3)
        known = int((strengths[:3] > 1e-9 * strengths[0].clamp(min=1e-30)).sum())
        leading = directions[:known].T
        # an eigenvector has no sign of its own: its largest entry is positive
        largest = leading.gather(0, leading.abs().argmax(0, keepdim=True))
        components[:, :known] = leading * largest.sign()
        ends = torch.quantile((values - mean) @ components, values.new_tensor([0.02, 0.98]), dim=0)
        flat = ends[1] - ends[0] < 1e-9
        return cls(mean, components, torch.where(flat, -1.0, ends[0]), torch.where(flat, 1.0, ends[1]))

    def colours(self, features: Float[Tensor, "*shape d"]) -> UInt8[Tensor, "*shape 3"]:
        """Red, green and blue of each feature vector."""
        projected = (features.double() - self.mean) @ self.components
        return ((projected - self.low) / (self.high - self.low) * 255).round().clamp(0, 255).to(torch.uint8)


def sheet(
    titles: Sequence[str],
    rows: Sequence[tuple[str, Sequence[UInt8[Tensor, "_ _ _"]]]],
    *,
    corner: str = "",
    rows_per_block: int,
) -> Image.Image:
    """A table of small pictures.

    Args:
        titles: text above each column.
        rows: text to the left of each row, and its pictures; they may be of any size, and the first one decides that
            of all.
        corner: text in the upper left corner.
        rows_per_block: rows that belong together; more room is left between those that do not.
    """
    font = ImageFont.load_default(12)
    height, width = rows[0][1][0].shape[1:]
    scale = max(1, -(-SMALLEST // height)) if height < SMALLEST else min(1.0, LARGEST / height)
    cell = (round(width * scale), round(height * scale))

    def lines(texts: Sequence[str]) -> list[str]:
        return [line for text in texts for line in text.split("\n")]

    left = 3 * GAP + max(round(font.getlength(line)) for line in lines([corner, *(text for text, _ in rows)]))
    step = (max(cell[0], *(round(font.getlength(line)) for line in lines(titles))) + GAP, cell[1] + GAP)
    top = 2 * GAP + LINE * max(text.count("\n") + 1 for text in (corner, *titles))
    blocks = (len(rows) - 1) // rows_per_block
    size = (left + step[0] * len(titles), top + step[1] * len(rows) + 2 * GAP * blocks)
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    draw.multiline_text((GAP, GAP), corner, INK, font, spacing=3)
    for column, text in enumerate(titles):
        draw.multiline_text((left + step[0] * column, GAP), text, INK, font, spacing=3)
    for number, (text, cells) in enumerate(rows):
        y = top + step[1] * number + 2 * GAP * (number // rows_per_block)
        draw.multiline_text((GAP, y), text, INK, font, spacing=3)
        for column, content in enumerate(cells):
            picture.paste(_scaled(content, cell), (left + step[0] * column, y))
    return picture


def _scaled(content: UInt8[Tensor, "c h w"], size: tuple[int, int]) -> Image.Image:
    """A picture in the size of a cell; what is enlarged keeps its pixels visible."""
    image = to_image(content).convert("RGB")
    shrinks = image.width > size[0] or image.height > size[1]
    return image.resize(size, Image.Resampling.LANCZOS if shrinks else Image.Resampling.NEAREST)


def to_image(content: UInt8[Tensor, "c h w"]) -> Image.Image:
    """One image, gray or of colours."""
    pixels = content.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def png(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def animation(frames: Sequence[Image.Image], suffix: str) -> bytes:
    """Pictures one after the other, about three seconds, as a file of this suffix (.gif or .webp)."""
    buffer = BytesIO()
    durations = [*[max(40, 3000 // len(frames))] * (len(frames) - 1), LAST]
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(
        buffer, format=suffix[1:], save_all=True, append_images=frames[1:], duration=durations, loop=0, **options
    )
    return buffer.getvalue()
