"""Writing shards: tar files as the webdataset library reads them, and an index to read any image of them at once.

docs/data.md describes the format. Packing that was stopped goes on after the last whole shard.
"""

import hashlib
import json
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from safetensors.numpy import load, save

from vco.errors import UserError
from vco.storage.files import fsync, lock, write_atomic

FORMAT: Final = "vco-shards-1"
INDEX: Final = "index.json"
TABLE: Final = "index.safetensors"
BAD: Final = "bad-images.txt"
UNFINISHED: Final = ".packing"
"""Folder inside of one that is being written, with what is needed to go on."""
COLUMNS: Final = {
    "shard": np.int32, "number": np.int64, "start": np.int64, "bytes": np.int64, "crc32": np.uint32, "label": np.int32,
}  # fmt: skip
"""What the table says of every image, and how it is stored."""
BLOCK: Final = 512
"""Tar files consist of blocks of so many bytes; a member has one for its name."""


@attrs.frozen(kw_only=True)
class Record:
    """An image to be packed."""

    number: int
    """Its number in the set that it comes from."""
    label: int
    ending: str
    """Ending of its file, as in "jpg"."""
    head: bytes = b""
    """What stands in its file before the bytes that are to be read."""
    content: bytes = b""
    fault: str = ""
    """Why it cannot be packed; then it has no content."""


def decoded(number: int, label: int, image: np.ndarray) -> Record:
    """The pixels of an image, as a numpy file."""
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(image))
    return Record(number=number, label=label, ending="npy", head=file.getvalue(), content=image.tobytes())


class Packing:
    """A folder of shards that is being written; it becomes `folder` with `finish`.

    Args:
        folder: what is to be written.
        job: what is packed and how; a packing that was stopped goes on only with the same.

    Raises:
        UserError: if the folder exists, another process is packing there, or a stopped packing was another job.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any]) -> None:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(f"{folder} exists already; choose another --out, or move that away")
        self.folder, self.job = folder, job
        self.aside = folder.with_name(f".{folder.name}.packing")
        self.notes = self.aside / UNFINISHED
        self._lock = lock(self.notes, "packing", "--out")
        begun = self.notes / "job.json"
        written = json.dumps(job, indent=1)
        if not begun.exists():
            write_atomic(begun, written)
        elif begun.read_text() != written:
            self._lock.close()
            raise UserError(
                f"{self.aside} holds an unfinished packing of other images or with other options; give the same ROOT "
                "and options to finish it, or remove that folder"
            )
        self._parts: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []

    def close(self) -> None:
        """Lets others write there."""
        self._lock.close()

    def resume(self, split: str) -> int:
        """Takes over the whole shards of a split that are there; the number of images that need not come again."""
        done = 0
        while (note := self._note(name := f"{split}-{self._count(split):06d}")).exists():
            rows = load(note.read_bytes())
            part = json.loads(rows.pop("about").tobytes())
            tar = self.aside / f"{name}.tar"
            if not tar.exists() or tar.stat().st_size != part["bytes"]:
                break
            self._parts.append((part, rows))
            done = part["next"]
        return done

    def write(self, split: str, records: Iterator[Record], limit: int, done: int) -> None:
        """Writes the shards of a split.

        Args:
            split: "train" or "test".
            records: the images that `resume` has not found.
            limit: bytes of a shard; one that reaches them is closed.
            done: how many images `resume` has found.
        """
        while (count := self._write_shard(split, records, limit, done)) > 0:
            done += count

    def _write_shard(self, split: str, records: Iterator[Record], limit: int, done: int) -> int:
        """Writes one shard and its note; how many records it took."""
        name = f"{split}-{self._count(split):06d}"
        aside = self.aside / f"{name}.tar.tmp"
        columns: dict[str, list[int]] = {column: [] for column in COLUMNS if column != "shard"}
        digests: list[bytes] = []
        bad: list[str] = []
        count = 0
        with aside.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for record in records:
                count += 1
                if record.fault:
                    bad.append(f"{split} {record.number}: {record.fault}")
                    continue
                start = file.tell() + BLOCK + len(record.head)
                _add(tar, f"{record.number:09d}.{record.ending}", record.head + record.content)
                _add(tar, f"{record.number:09d}.cls", str(record.label).encode())
                row = (record.number, start, len(record.content), zlib.crc32(record.content), record.label)
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
                digests.append(hashlib.sha256(record.content).digest())
                if file.tell() >= limit:
                    break
        if not count:
            aside.unlink()
            return 0
        about = {"split": split, "file": f"{name}.tar", "bytes": aside.stat().st_size, "next": done + count, "bad": bad}
        about["sha256"] = _sha256(aside)
        rows: dict[str, np.ndarray] = {name: np.array(values, COLUMNS[name]) for name, values in columns.items()}
        rows["digest"] = np.frombuffer(b"".join(digests), np.uint8)
        fsync(aside)
        aside.replace(self.aside / f"{name}.tar")
        write_atomic(self._note(name), save({**rows, "about": np.frombuffer(json.dumps(about).encode(), np.uint8)}))
        self._parts.append((about, rows))
        return count

    def finish(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the index and puts the folder in its place.

        Args:
            about: what the index says beside where images are: form, image_shape, class_names, packed_from.

        Returns:
            The index.
        """
        parts = [(part, rows) for part, rows in self._parts if len(rows["label"])]
        for part, rows in parts:
            rows["shard"] = np.full(len(rows["label"]), [other["file"] for other, _ in parts].index(part["file"]))
        table: dict[str, np.ndarray] = {}
        splits: dict[str, Any] = {}
        for split in dict.fromkeys(part["split"] for part, _ in parts):
            of_split = [rows for part, rows in parts if part["split"] == split]
            for column, kind in COLUMNS.items():
                table[f"{split}.{column}"] = np.concatenate([rows[column] for rows in of_split]).astype(kind)
            digest = hashlib.sha256(b"".join(rows["digest"].tobytes() for rows in of_split))
            splits[split] = {"images": len(table[f"{split}.label"]), "content": digest.hexdigest()}
        content = save(table)
        shards = [
            {"file": part["file"], "bytes": part["bytes"], "images": len(rows["label"]), "sha256": part["sha256"]}
            for part, rows in parts
        ]
        index = {
            "format": FORMAT, **about, "splits": splits,
            "table": {"file": TABLE, "sha256": hashlib.sha256(content).hexdigest()}, "shards": shards,
        }  # fmt: skip
        write_atomic(self.aside / TABLE, content)
        write_atomic(self.aside / INDEX, json.dumps(index, indent=1) + "\n")
        if bad := self.bad():
            write_atomic(self.aside / BAD, "\n".join(bad) + "\n")
        for file in {path.name for path in self.aside.glob("*.tar*")} - {shard["file"] for shard in shards}:
            (self.aside / file).unlink()  # a shard of damaged images alone, or what a stopped packing left
        fsync(self.aside)
        self.aside.rename(self.folder)
        shutil.rmtree(self.folder / UNFINISHED)
        return index

    def bad(self) -> Sequence[str]:
        """A sentence for each image that could not be packed."""
        return [sentence for part, _ in self._parts for sentence in part["bad"]]

    def _count(self, split: str) -> int:
        """Shards of a split that are written."""
        return sum(part["split"] == split for part, _ in self._parts)

    def _note(self, name: str) -> Path:
        """File that says what is in a whole shard."""
        return self.notes / f"{name}.safetensors"


def packed_size(image: int) -> int:
    """Bytes that an image of so many bytes takes in a shard, with its label."""
    return 3 * BLOCK + -(-image // BLOCK) * BLOCK


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file to an archive, which depends on nothing but its name and content."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, BytesIO(content))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
