"""Data sets of Hugging Face: parquet files on disk, folders of them, or a set from the hub."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import numpy as np
import torch
from attrs.validators import and_, ge, gt, instance_of, lt, optional
from jaxtyping import UInt8
from torch import Tensor

from vco.api import Data, DataSetting, ImageSet, UserError
from vco_plugins.pictures import center_crop, ending_of, read_picture, shown
from vco_plugins.trees import share_of

HELD_OUT: Final = ("validation", "val", "test")
"""Splits that may hold the held-out images; the first that is there does."""
LABEL: Final = ("label", "labels", "fine_label", "class", "cls")
"""Usual names of the column of labels where its type does not say so; the first that is there is it."""
NO_LABELS: Final = "none"
"""Name that stands for no column of labels."""
USUAL: Final = (1000, 256)
"""Classes and size where there is nothing yet that they could be read from: ImageNet's."""
LOOKED_AT: Final = 100
"""Images that are tried to find out their size."""


class HuggingFace(Data):
    """Images in a data set of the library datasets (pip install 'vco[hf]'), cropped as image-folder does.

    `path` is a parquet file, a folder of them, or the name of a set on the hub, which is fetched when it is first used.
    The columns of images and labels are found by their types. Held out is the split validation or test; where there
    is none, a share of the rows.

    Source: Lhoest et al. 2021, "Datasets: A Community Library for Natural Language Processing".
    """

    @attrs.frozen(kw_only=True)
    class Config(Data.Config):
        """What a user may set."""

        path: str = attrs.field(default="", validator=instance_of(str), metadata={"location": True})
        """Parquet file, folder of them, or OWNER/NAME on the hub."""
        subset: str = attrs.field(default="", validator=instance_of(str))
        """Which configuration of the set, where it has several."""
        image_column: str = attrs.field(default="", validator=instance_of(str))
        """Column of the images; by default the only one of that type."""
        label_column: str = attrs.field(default="", validator=instance_of(str))
        """Column of the classes; by default the only one of that type, or the one called label. none: there are no
        classes."""
        size: int | None = attrs.field(default=None, validator=optional(ge(1)))
        """Side of the square images in pixels, at least 1; by default the largest power of 2, up to 256, that is no
        larger than the first image."""
        flip: bool = attrs.field(default=True, validator=instance_of(bool))
        """Whether half of the training images, drawn at random, are mirrored left to right."""
        held_out: float = attrs.field(default=0.1, validator=and_(gt(0.0), lt(1.0)))
        """Share of the rows that is held out where there is no split validation or test, in (0, 1)."""
        on_bad: Literal["stop", "skip"] = "stop"
        """What an image that cannot be read does: it ends the run, after saving, or the next one of its class is read
        in its place; the run folder lists them in bad-images.txt."""

    def __init__(self, config: Config, setting: DataSetting) -> None:
        self.config = config
        self._problem: UserError | None = None
        self.num_classes, size = USUAL
        try:
            if config.path:
                self.num_classes, size = len(self._names), config.size or self._size_of_first
                _ = self._parts
        except UserError as error:
            self._problem = error  # said by `check`
        self.image_shape = (3, config.size or size, config.size or size)

    def class_names(self) -> Sequence[str]:
        return self._names if self.config.path and not self._problem else super().class_names()

    def check(self) -> None:
        """Loads the set, which fetches it if it is one of the hub's, and looks for its columns."""
        if not self.config.path:
            raise UserError("it needs --data.path: a parquet file, a folder of them, or OWNER/NAME on the hub.")
        if self._problem:
            raise self._problem
        for part, what in zip(self._parts, ("training", "held-out"), strict=True):
            if not len(part.labels):
                raise UserError(f"{self._where} has no {what} images.")
            if (part.labels < 0).any():
                raise UserError(
                    f"{int((part.labels < 0).sum()):,} {what} images in {self._where} have no class, or one that no "
                    "training image has; remove these rows, or choose another column with --data.label-column."
                )

    def train(self) -> ImageSet:
        return self._images(self._parts[0], flip=self.config.flip)

    def test(self) -> ImageSet:
        return self._images(self._parts[1], flip=False)

    def _images(self, part: "_Part", *, flip: bool) -> ImageSet:
        return _Images(part, self._columns[0], self.config, size=self.image_shape[1], flip=flip)

    @property
    def _where(self) -> str:
        subset = f", subset {self.config.subset}" if self.config.subset else ""
        return f"{shown(self.config.path)} (from --data.path{subset})"

    @cached_property
    def _splits(self) -> Mapping[str, Any]:
        """Name of a split -> its rows, whose images are not decoded."""
        path = Path(self.config.path)
        of_hub = not path.is_absolute() and len(path.parts) <= 2 and ".." not in path.parts
        if not path.exists() and not of_hub:
            raise UserError(f"There is no file and no folder {self._where}; give the one that holds the parquet files.")
        try:
            import datasets
        except ImportError as error:
            raise UserError("data hf needs the package datasets: pip install datasets, or 'vco[hf]'.") from error
        try:
            found = self._load(datasets, path)
        except Exception as error:  # each format and service has its own classes of errors
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            options = "--data.path and --data.subset" if self.config.subset else "--data.path"
            raise UserError(f"{self._where} cannot be loaded ({reason}); check {options}.") from error
        return found if isinstance(found, Mapping) else {"train": found}

    def _load(self, datasets: Any, path: Path) -> Any:
        subset = self.config.subset or None
        if path.is_file():
            return datasets.load_dataset("parquet", data_files=str(path))
        if path.is_dir():
            saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
            return datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path), subset)
        return datasets.load_dataset(self.config.path, subset)

    @cached_property
    def _chosen(self) -> tuple[Any, Any | None]:
        """The rows to train on, and those held out if they are a split of their own."""
        splits = self._splits
        held_out = next((name for name in HELD_OUT if name in splits and len(splits) > 1), None)
        others = [name for name in splits if name != held_out]
        if "train" not in others and len(others) != 1:
            raise UserError(
                f"{self._where} has no split train, but {', '.join(splits)}; choose another set or --data.subset."
            )
        train = splits["train" if "train" in others else others[0]]
        return train, splits[held_out] if held_out else None

    @cached_property
    def _columns(self) -> tuple[str, str]:
        """The columns of images and of labels; that of labels is empty if there are no classes."""
        features: Mapping[str, Any] = self._chosen[0].features
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        pictures = [name for name in kinds if kinds[name] == "Image" or _holds_files(features[name])]
        image = self._column("image", self.config.image_column, pictures)
        if self.config.label_column == NO_LABELS:
            return image, ""
        typed = [name for name in kinds if kinds[name] == "ClassLabel"]
        usual = [name for name in LABEL if name in features][:1]
        return image, self._column("label", self.config.label_column, typed or usual)

    def _column(self, what: str, named: str, found: Sequence[str]) -> str:
        """The column that is named, or the only one that is found."""
        columns = list(self._chosen[0].features)
        if (named and named not in columns) or (not named and len(found) != 1):
            told = f"has no column {shown(named)}" if named else f"has {len(found)} columns that may be the {what}s"
            none = ", or none if it has no classes" if what == "label" else ""
            raise UserError(
                f"{self._where} {told}; name one of its columns {', '.join(map(shown, columns))} with "
                f"--data.{what}-column{none}."
            )
        return named or found[0]

    @cached_property
    def _parts(self) -> tuple["_Part", "_Part"]:
        """The training and the held-out images."""
        train, test = self._chosen
        if test is not None:
            return self._part(train, np.arange(len(train))), self._part(test, np.arange(len(test)))
        out = np.array([share_of(str(number)) < self.config.held_out for number in range(len(train))], dtype=bool)
        return self._part(train, (~out).nonzero()[0]), self._part(train, out.nonzero()[0])

    def _part(self, rows: Any, numbers: np.ndarray) -> "_Part":
        image, label = self._columns
        missing = [column for column in self._columns if column and column not in rows.features]
        if missing:
            raise UserError(f"The held-out rows of {self._where} have no column {missing[0]}; choose another set.")
        labels = np.zeros(len(numbers), np.int64)
        if label:
            values = np.asarray(rows.with_format("numpy")[label][:])[numbers]
            labels = self._numbers(values)
        return _Part(rows=_undecoded(rows, image), numbers=numbers, labels=labels)

    def _numbers(self, values: np.ndarray) -> np.ndarray:
        """The class of each value of the column of labels; -1 where it has none."""
        if self._values is None:
            return np.where((values >= 0) & (values < len(self._names)), values, -1).astype(np.int64)
        places = np.searchsorted(self._values, values).clip(max=len(self._values) - 1)
        return np.where(self._values[places] == values, places, -1)

    @cached_property
    def _values(self) -> np.ndarray | None:
        """The values of the column of labels, sorted; None where its type says its classes."""
        train, label = self._chosen[0], self._columns[1]
        if not label or type(train.features[label]).__name__ == "ClassLabel":
            return None
        values = np.asarray(train.with_format("numpy")[label][:])
        if values.ndim != 1 or values.dtype.kind not in "iubUTO" or any(value is None for value in values.flat):
            raise UserError(
                f"The column {shown(label)} of {self._where} holds neither whole numbers nor words; name the column of "
                f"classes with --data.label-column, or {NO_LABELS} if there are no classes."
            )
        return np.unique(values.astype(str) if values.dtype.kind in "UTO" else values)

    @cached_property
    def _names(self) -> list[str]:
        label = self._columns[1]
        if not label:
            return [""]
        values = self._values
        return list(self._chosen[0].features[label].names) if values is None else [str(value) for value in values]

    @cached_property
    def _size_of_first(self) -> int:
        """The largest power of 2, up to 256, that is no larger than the first image that can be read."""
        rows = _undecoded(self._chosen[0], self._columns[0])
        for number in range(min(LOOKED_AT, len(rows))):
            with suppress(UserError):  # said when it is read in earnest
                picture = read_picture(BytesIO(_bytes(rows, number, self._columns[0])), f"of row {number}")
                return min(USUAL[1], 2 ** (min(picture.size).bit_length() - 1))
        return USUAL[1]


@attrs.frozen(kw_only=True, eq=False)
class _Part:
    """The training or the held-out part: a table, which of its rows, and the class of each of them."""

    rows: Any
    numbers: np.ndarray
    labels: np.ndarray


class _Images(ImageSet):
    def __init__(self, part: _Part, column: str, config: HuggingFace.Config, *, size: int, flip: bool) -> None:
        self.rows, self.numbers, self.column = part.rows, part.numbers, column
        self.labels: Tensor = torch.from_numpy(part.labels)
        self.path, self.size, self.flip, self.on_bad = config.path, size, flip, config.on_bad

    def image(self, index: int, generator: torch.Generator | None) -> UInt8[Tensor, "c h w"]:
        number = int(self.numbers[index])
        content = _bytes(self.rows, number, self.column)
        picture = read_picture(BytesIO(content), f"of row {number} in {self.path}")
        pixels = torch.from_numpy(np.array(center_crop(picture, self.size))).permute(2, 0, 1)
        if self.flip and generator is not None and torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(-1)
        return pixels.contiguous()

    def file(self, index: int) -> tuple[str, bytes]:
        content = _bytes(self.rows, int(self.numbers[index]), self.column)
        return ending_of(content), content


def _holds_files(feature: Any) -> bool:
    """Whether a column that is not marked as images has the form in which they are stored."""
    return isinstance(feature, Mapping) and "bytes" in feature and "path" in feature


def _undecoded(rows: Any, column: str) -> Any:
    """The same table, whose images are given out as files."""
    import datasets

    if type(rows.features[column]).__name__ != "Image":
        return rows
    return rows.cast_column(column, datasets.Image(decode=False))


def _bytes(rows: Any, number: int, column: str) -> bytes:
    """The picture file of a row."""
    found: Any = rows[number][column]
    content: bytes | None = found.get("bytes") if isinstance(found, Mapping) else None
    try:
        if content is None and isinstance(found, Mapping) and found.get("path"):
            return Path(found["path"]).read_bytes()
    except OSError as error:
        raise UserError(
            f"The image {shown(found['path'])} of row {number} cannot be read ({error.strerror})."
        ) from error
    if content is None:
        raise UserError(f"Row {number} has no image in its column {shown(column)}; remove the row.")
    return content
