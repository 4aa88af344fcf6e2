"""Writes the files of `--data clothing32` from a folder of the clothing data set.

    python benchmarks/make_clothing32.py ROOT [--out FOLDER]

ROOT holds train/CLASS/ and test/CLASS/ with square photographs (alexeygrigorev/clothing-dataset, CC0 1.0: 14 classes,
without "Not sure", "Skip", "Other" and classes of fewer than 80 images). Each split becomes one JPEG with the images
side by side: a file of its own would spend more bytes on tables than on pixels.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from vco.api import DataSetting
from vco.storage.files import write_atomic
from vco_plugins.data import clothing
from vco_plugins.data.image_folder import ImageFolder

COLUMNS = 72
QUALITY = 95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--out", type=Path, default=Path(clothing.__file__).parent, help="folder to write to")
    args = parser.parse_args()
    side = clothing.SIDE
    data = ImageFolder(ImageFolder.Config(root=args.root, size=side), DataSetting())
    counts: dict[str, list[int]] = {}
    for split, images in {"train": data.train(), "test": data.test()}.items():
        order = images.labels.argsort(stable=True).tolist()  # then the labels are told by a count of each class
        sheet = np.zeros((-(-len(order) // COLUMNS) * side, COLUMNS * side, 3), np.uint8)
        for place, index in enumerate(order):
            row, column = (part * side for part in divmod(place, COLUMNS))
            sheet[row : row + side, column : column + side] = images.image(index, None).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        # no subsampling of colors, and 8 divides the side: no block of the JPEG belongs to two images
        Image.fromarray(sheet).save(file, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
        write_atomic(args.out / f"clothing32_{split}.jpg", file.getvalue())
        counts[split] = images.labels.bincount(minlength=data.num_classes).tolist()
        print(f"{split}: {len(order)} images, {len(file.getvalue()) / 1e6:.2f} MB")
    about = {
        "source": "https://github.com/alexeygrigorev/clothing-dataset, commit 7ed86a9",
        "license": "CC0-1.0",
        "classes": list(data.class_names()),
        "columns": COLUMNS,
        **counts,
    }
    write_atomic(args.out / "clothing32.json", json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
