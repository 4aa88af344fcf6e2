"""Images per second and core of each way to store a data set, read as training reads it.

Synthetic photographs (noise whose spectrum falls as in natural pictures, 375 x 500 pixels, JPEG) are stored as a
folder, as a zip file, as shards of the files and as decoded shards, and read by one process in random order, several
times in turn, so that a busy machine slows all ways alike. Files are in the system's cache: this is the work of the
processor, not that of the disk.

    python benchmarks/data.py [--images 400] [--size 256] [--rounds 5] [--json FILE] > rates.md
"""

import argparse
import contextlib
import io
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch
from PIL import Image
from turns import Row, write_json

from vco.api import Data, DataSetting, ImageSet
from vco.cli import main_vco
from vco.randomness import generator
from vco_plugins.data.image_folder import ImageFolder
from vco_plugins.data.shards import Shards

SHAPE: Final = (375, 500)
"""Rows and columns of a photograph: about the mean of ImageNet."""
QUALITY: Final = 90
"""JPEG quality; with it a photograph takes about 110 kB, as in ImageNet."""
CLASSES: Final = 4


def photograph(draws: np.random.Generator) -> Image.Image:
    """Coloured noise whose amplitude falls with the frequency, as it does in natural pictures."""
    rows, columns = (np.fft.fftfreq(n) for n in SHAPE)
    frequency = np.hypot(rows[:, None], columns[None, :])
    frequency[0, 0] = np.inf
    waves = np.fft.fft2(draws.standard_normal((3, *SHAPE))) / frequency
    values = np.fft.ifft2(waves).real
    values = values[:1] + 0.3 * values[1:2] * np.array([1.0, 0.0, -1.0])[:, None, None]  # colours vary less than light
    levels = (128 + 50 * values / values.std()).clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels.transpose(1, 2, 0))


def make_folder(root: Path, count: int) -> None:
    draws = np.random.default_rng(0)
    for number in range(count):
        split = "val" if number % 20 == 19 else "train"
        folder = root / split / f"class{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        photograph(draws).save(folder / f"{number:06d}.jpg", quality=QUALITY)


def ways(root: Path, size: int) -> dict[str, Data]:
    """Name of a way to store the photographs -> the data set that reads them."""
    folder = root / "folder"
    packed = Path(shutil.make_archive(str(root / "photographs"), "zip", folder))
    for name, options in (("decoded", []), ("original", ["--original"])):
        argv = ["data", "pack", str(folder), "--out", str(root / name), "--data.size", str(size), *options]
        with contextlib.redirect_stdout(io.StringIO()):
            assert main_vco(argv) == 0
    return {
        "folder of JPEG files": ImageFolder(ImageFolder.Config(root=str(folder), size=size), DataSetting()),
        "zip file of them": ImageFolder(ImageFolder.Config(root=str(packed), size=size), DataSetting()),
        "shards, `--original`": Shards(Shards.Config(root=str(root / "original"), size=size), DataSetting()),
        "shards, decoded": Shards(Shards.Config(root=str(root / "decoded")), DataSetting()),
    }


def seconds_each(images: ImageSet, round_: int) -> float:
    """Seconds that an image takes in random order and augmented; measured for at least half a second."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(round_)).tolist()
    done, began = 0, time.process_time()
    while (passed := time.process_time() - began) < 0.5:
        for index in order[:50]:
            images.image(index, generator(0, "augment", round_, index))
        done += len(order[:50])
    return passed / done


def bytes_each(root: Path, count: int) -> dict[str, float]:
    places = {"folder of JPEG files": "folder", "shards, `--original`": "original", "shards, decoded": "decoded"}
    sizes = {
        way: sum(file.stat().st_size for file in (root / place).rglob("*") if file.is_file()) / count
        for way, place in places.items()
    }
    return {**sizes, "zip file of them": (root / "photographs.zip").stat().st_size / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5, help="at least 2")
    parser.add_argument("--json", type=Path, help="file for the rows, with commit and hardware")
    args = parser.parse_args()
    if args.images < 20 or args.rounds < 2:
        parser.error(
            "a twentieth of the images is held out and rounds are compared: --images 20 and --rounds 2 at least"
        )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_folder(root / "folder", args.images)
        sets = {way: data.train() for way, data in ways(root, args.size).items()}
        sizes = bytes_each(root, args.images)
        times: dict[str, list[float]] = {way: [] for way in sets}
        for round_ in range(args.rounds):
            for way, images in sets.items():
                times[way].append(seconds_each(images, round_))
    first = next(iter(times))
    rows = [Row(title=way, ours=found, theirs=times[first]) for way, found in times.items()]
    print("| stored as | images per second and core | beside a JPEG folder | kB per image |")
    print("|---|---|---|---|")
    for row in rows:
        rate = 1 / median(row.ours)
        print(f"| {row.title} | {rate:,.0f} | {median(row.ratios):.1f} x | {sizes[row.title] / 1e3:,.0f} |")
    write_json(args.json, rows, other=first, bytes_each=sizes)


if __name__ == "__main__":
    main()
