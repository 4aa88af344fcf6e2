"""Images that lie in files: a folder of PNG or JPEG images, or an npz file with an array of them."""

import hashlib
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from vco.errors import UserError, one_line
from vco.evaluation.protocol import UNKNOWN
from vco.randomness import generator
from vco.sampling.labels import BALANCED, LAWS

ENDINGS: Final = (".png", ".jpg", ".jpeg")
LOSSY: Final = (".jpg", ".jpeg")
ARRAYS: Final = ("images", "arr_0")
"""Names under which an npz file holds images: ours and ADM's."""
LABELS: Final = ("labels", "arr_1")
"""Names of their classes."""
GRAY: Final = ("1", "L")
COLOR: Final = ("RGB", "P", "CMYK", "YCbCr")


class StoredImages(ABC):
    """Images of one size in a file or folder; they are read in their order, a batch at a time."""

    path: Path
    count: int
    shape: tuple[int, int, int]
    """(c, h, w)."""
    notes: Sequence[str] = ()
    """What should be known of them."""
    said: Mapping[str, Any] = {}
    """What `vco sample` has written beside them; empty for images from elsewhere."""

    @abstractmethod
    def batches(self, places: Sequence[int], size: int) -> Iterator[UInt8[Tensor, "b c h w"]]:
        """The images at some places, in rising order."""

    def part(self, count: int) -> Sequence[int]:
        """The places of so many of the images, rising and always the same ones.

        Of images by `vco sample` they are the first, which it makes when it is asked for fewer. All others are drawn at
        random, as the first by name may be those of a few classes.
        """
        if count == self.count or self.by_vco:
            return range(count)
        return sorted(torch.randperm(self.count, generator=generator(0, "images"))[:count].tolist())

    @property
    def by_vco(self) -> bool:
        """Whether `vco sample` has made them."""
        return "num" in self.said

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of what the file or folder holds."""

    @property
    def labels(self) -> Int[Tensor, " count"] | None:
        """Their classes; None if nothing says them."""
        return None

    def law(self, places: Sequence[int]) -> str:
        """The law by which the classes of the images at some places were drawn, as far as it is told."""
        if self.said.get("labels") in LAWS:
            return str(self.said["labels"])
        if self.labels is None:
            return UNKNOWN
        classes, counts = self.labels[list(places)].unique(return_counts=True)
        whole = len(classes) == int(classes[-1]) + 1  # from 0 on, without a gap
        return BALANCED if whole and int(counts.max() - counts.min()) <= 1 else UNKNOWN


def open_images(path: Path) -> StoredImages:
    """The images in a folder or an npz file.

    Raises:
        UserError: if there are none, they differ in size, or they cannot be read.
    """
    if path.is_dir():
        return FolderImages(path)
    if path.suffix == ".npz" and path.is_file():
        return NpzImages(path)
    raise UserError(
        f"{path} is neither a folder of images nor an npz file"
        + ("" if path.exists() else ": there is nothing of that name")
    )


class FolderImages(StoredImages):
    """The PNG and JPEG images in a folder and the folders below it, in the order of their names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and _is_image(file))
        self.count = len(self.files)
        if not self.files:
            raise UserError(f"there are no PNG or JPEG images in {path}")
        sizes, modes = dict[tuple[int, int], Path](), set[str]()
        for file in tqdm(self.files, desc="looking at images", unit="image", leave=False, disable=None):
            with _opened(file) as picture:
                sizes.setdefault(picture.size, file)
                modes.add(picture.mode)
            if picture.mode not in (*GRAY, *COLOR):
                raise UserError(
                    f"{file} is an image of mode {picture.mode}, which has transparency or not 8 bits a pixel; save it "
                    "as RGB or gray, as it should be looked at"
                )
        if len(sizes) > 1:
            (size, one), (second, other), *_ = sizes.items()
            raise UserError(
                f"the images in {path} differ in size: {one.relative_to(path)} is {size[0]}x{size[1]} and "
                f"{other.relative_to(path)} {second[0]}x{second[1]}; resize them alike before they are scored"
            )
        (width, height) = next(iter(sizes))
        self.shape = (1 if modes <= set(GRAY) else 3, height, width)
        about = path / "sample.json"
        self.said = _said(about.read_text(errors="replace")) if about.is_file() else {}
        if lossy := sum(file.suffix.lower() in LOSSY for file in self.files):
            self.notes = (f"{lossy:,} of {self.count:,} images are JPEG files, whose losses count in scores",)

    def batches(self, places: Sequence[int], size: int) -> Iterator[UInt8[Tensor, "b c h w"]]:
        """The images at some places, in rising order."""
        with ThreadPoolExecutor() as pool:  # decoding leaves Python's lock alone
            for start in range(0, len(places), size):
                files = [self.files[place] for place in places[start : start + size]]
                yield torch.stack(list(pool.map(self._image, files)))

    def digest(self) -> str:
        """SHA-256 of the names and contents of all images."""
        pieces = (
            f"{file.relative_to(self.path).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}"
            for file in self.files
        )
        return hashlib.sha256("\n".join(pieces).encode()).hexdigest()

    def _image(self, file: Path) -> UInt8[Tensor, "c h w"]:
        with _opened(file) as picture:
            try:
                pixels = np.array(picture.convert("L" if self.shape[0] == 1 else "RGB"))
            except (OSError, SyntaxError, ValueError) as error:
                raise UserError(f"the image {file} cannot be read ({error}); replace or remove it") from error
        return torch.from_numpy(pixels).reshape(*self.shape[1:], self.shape[0]).permute(2, 0, 1).contiguous()


def _is_image(file: Path) -> bool:
    """Whether it is a file, or a link to one that is gone: that image is missed, and not left out."""
    return file.is_file() or (file.is_symlink() and not file.exists())


def _opened(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"the image {file} cannot be read ({error}); replace or remove it") from error


class NpzImages(StoredImages):
    """An array of images uint8 [n, h, w, c] in an npz file, read row by row: it need not fit into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        arrays = array_headers(path)
        name = next((name for name in ARRAYS if name in arrays), None)
        if name is None:
            held = ", ".join(arrays) or "nothing"
            raise UserError(f"{path} holds no array of images ({' or '.join(ARRAYS)}) but {held}")
        shape, dtype = arrays[name]
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
            raise UserError(
                f"{name} in {path} is {dtype}{list(shape)}, and images are uint8 [n, height, width, 1 or 3]; "
                "round them to levels from 0 to 255 and put the channels last"
            )
        self.name = name
        self.count, height, width, channels = shape
        self.shape = (channels, height, width)
        self._labels = self._read_labels(arrays)
        self.said = _said(str(read_arrays(path, ["sample"])["sample"])) if "sample" in arrays else {}

    @property
    def labels(self) -> Int[Tensor, " count"] | None:
        """The array of classes in the file; None if it has none."""
        return self._labels

    def batches(self, places: Sequence[int], size: int) -> Iterator[UInt8[Tensor, "b c h w"]]:
        """The images at some places, in rising order."""
        rows = _rows(self.path, self.name)
        wanted, found = set(places), list[Tensor]()
        for place in range(places[-1] + 1 if places else 0):
            row = next(rows)
            if place in wanted:
                found.append(torch.from_numpy(row.copy()).permute(2, 0, 1))
            if len(found) == size or (found and place == places[-1]):
                yield torch.stack(found)
                found = []

    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_digest(self.path)

    def _read_labels(self, arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> Int[Tensor, " count"] | None:
        for name in LABELS:
            shape, dtype = arrays.get(name, ((), np.dtype(float)))
            if shape == (self.count,) and dtype.kind in "iu":
                labels = torch.from_numpy(read_arrays(self.path, [name])[name].astype(np.int64))
                if int(labels.min()) >= 0:
                    return labels
        if odd := [name for name in LABELS if name in arrays]:
            shape, dtype = arrays[odd[0]]
            held = f"{dtype}{list(shape)}" if shape != (self.count,) or dtype.kind not in "iu" else "negative numbers"
            self.notes = (f"{odd[0]} in {self.path} is no class for each image ({held}), and is not used",)
        return None


def _said(text: str) -> dict[str, Any]:
    """What `vco sample` says of images; nothing where it is not that."""
    with suppress(ValueError, RecursionError):
        found: Any = json.loads(text)
        return found if isinstance(found, dict) else {}
    return {}


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Name -> shape and type of each array in an npz file; no array is read.

    Raises:
        UserError: if it is no such file, or holds pickled objects, which could run anything.
    """
    found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    shape, _, dtype = _header(stream)
                if dtype.hasobject:
                    raise UserError(
                        f"{path} holds pickled objects ({member.removesuffix('.npy')}), which are not read because "
                        "they can run anything; save it anew with arrays of numbers alone"
                    )
                found[member.removesuffix(".npy")] = (shape, dtype)
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, NotImplementedError) as error:
        raise UserError(f"{path} is no npz file that can be read ({one_line(error)})") from error
    return found


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Some arrays of an npz file, whole; pickled objects are refused."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise UserError(f"{path} is no npz file that can be read ({one_line(error)})") from error


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _rows(path: Path, name: str) -> Iterator[NDArray[Any]]:
    """The rows of an array, one by one."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            shape, fortran, dtype = _header(stream)
            if fortran:
                yield from read_arrays(path, [name])[name]
                return
            length = int(np.prod(shape[1:])) * dtype.itemsize
            for number in range(shape[0]):
                content = stream.read(length)
                if len(content) < length:
                    raise EOFError(f"it ends in image {number} of {shape[0]}")
                yield np.frombuffer(content, dtype).reshape(shape[1:])
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); get it anew") from error
