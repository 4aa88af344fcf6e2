"""Files of tensors in safetensors' format; a tensor stands in one of them whole, or in those of several processes.

A process of many writes `model.00000-of-00002.safetensors`: its rows of the tensors that processes share out, and the
first process all that each of them holds whole. The entry "pieces" of a file's metadata tells, as JSON, the first row
and the shape of the whole tensor of each name that stands for some rows only.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vco.pieces import Piece, local, piece_of
from vco.storage.files import fingerprint, fsync

Pieces = Mapping[str, Mapping[str, Piece]]
"""File stem ("model", "ema-0", "optimizer") -> name -> what a process holds of the tensor."""
NAME: Final = re.compile(r"(?P<stem>.+?)(\.\d{5}-of-\d{5})?\.safetensors")


class HostCopies:
    """Copies of tensors in the host's memory, which is taken once and then used again.

    From a CUDA device they go into page-locked memory, which is several times as fast.
    """

    def __init__(self) -> None:
        self._memory: dict[tuple[str, str], Tensor] = {}

    def of(self, tensors: Mapping[str, Mapping[str, Tensor]], rank: int = 0) -> dict[str, dict[str, Piece]]:
        """This process's pieces of all tensors, copied; what every process holds whole is left to the first.

        Args:
            tensors: file stem -> name -> tensor.
            rank: number of this process.
        """
        copies: dict[str, dict[str, Piece]] = {}
        on_device = False
        for stem, part in tensors.items():
            copies[stem] = {}
            for name, tensor in part.items():
                piece = piece_of(tensor)
                if not _is_written(piece, rank):
                    continue
                on_device |= piece.rows.is_cuda
                rows = self._room((stem, name), piece.rows).copy_(piece.rows, non_blocking=True)
                copies[stem][name] = Piece(rows=rows, start=piece.start, shape=piece.shape)
        if on_device:
            torch.cuda.current_stream().synchronize()
        return copies

    def _room(self, key: tuple[str, str], like: Tensor) -> Tensor:
        room = self._memory.get(key)
        if room is None or room.shape != like.shape or room.dtype != like.dtype:
            room = torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)
            self._memory[key] = room
        return room


def _is_written(piece: Piece, rank: int) -> bool:
    """Whether this process writes it: the first one what all hold whole, and each its own rows of all else."""
    return rank == 0 if piece.is_whole else piece.rows.shape[0] > 0


def write_pieces(folder: Path, pieces: Pieces, rank: int = 0, count: int = 1) -> dict[str, dict[str, Any]]:
    """Writes a process's files, and waits until they have reached the disk.

    Args:
        folder: where to.
        pieces: tensors on the CPU, none of which shares memory with another one.
        rank: number of this process.
        count: number of processes that write.

    Returns:
        Name of each file -> its size and SHA-256.

    Raises:
        OSError, SafetensorError: if one cannot be written.
    """
    ending = f".{rank:05d}-of-{count:05d}.safetensors" if count > 1 else ".safetensors"
    written: dict[str, dict[str, Any]] = {}
    for stem, part in pieces.items():
        path = folder / f"{stem}{ending}"
        rows = {name: {"start": p.start, "shape": p.shape} for name, p in part.items() if not p.is_whole}
        metadata = {"pieces": json.dumps(rows)} if rows else None
        save_file({name: piece.rows for name, piece in part.items()}, path, metadata)
        fsync(path)
        written[path.name] = fingerprint(path)
    return written


class StoredTensors(Mapping[str, Tensor]):
    """Tensors in files, each read when it is asked for, whole or some of its rows; the files stay open."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Shape of each tensor; nothing is read for that."""
        self._found: dict[str, list[tuple[int, int, Any]]] = {}

    def add(self, path: Path) -> None:
        """Opens a file.

        Raises:
            OSError, SafetensorError, ValueError: if it is none, or says of a tensor what another one denies.
        """
        file: Any = safe_open(path, framework="pt")
        try:
            rows: dict[str, Any] = json.loads((file.metadata() or {}).get("pieces", "{}"))
            for name in file.keys():  # noqa: SIM118 (no mapping)
                here = tuple(file.get_slice(name).get_shape())
                piece: Mapping[str, Any] = rows.get(name, {"start": 0, "shape": here})
                shape, start = tuple(map(int, piece["shape"])), int(piece["start"])
                if self.shapes.setdefault(name, shape) != shape or shape[1:] != here[1:]:
                    raise ValueError(f"the pieces of {name} are of tensors of several shapes")
                self._found.setdefault(name, []).append((start, here[0] if here else 1, file))
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path.name} does not say what its pieces are of") from error

    def require_whole(self) -> None:
        """Raises `ValueError` if rows of a tensor are missing, or stand there twice."""
        for name, found in self._found.items():
            found.sort(key=lambda piece: piece[0])
            row = 0
            for start, rows, _ in found:
                if start != row:
                    raise ValueError(f"the pieces of {name} do not make a whole")
                row += rows
            if row != (self.shapes[name] or (1,))[0]:
                raise ValueError(f"the pieces of {name} do not make a whole")

    def __getitem__(self, name: str) -> Tensor:
        found = self._found[name]
        if len(found) == 1:
            return found[0][2].get_tensor(name)
        return self.rows(name, 0, self.shapes[name][0])

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a tensor; no others are read."""
        parts: list[Tensor] = []
        for first, rows, file in self._found[name]:
            low, high = max(start, first), min(stop, first + rows)
            if low < high:
                parts.append(file.get_slice(name)[low - first : high - first])
        if not parts:
            return self._found[name][0][2].get_slice(name)[0:0]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def open_tensors(folder: Path) -> dict[str, StoredTensors]:
    """The tensors of a folder by the stem of their files.

    Raises:
        OSError, SafetensorError, ValueError: if files are damaged, or do not make whole tensors.
    """
    stored: dict[str, StoredTensors] = {}
    for path in sorted(folder.glob("*.safetensors")):
        stored.setdefault(NAME.sub(r"\g<stem>", path.name), StoredTensors()).add(path)
    for tensors in stored.values():
        tensors.require_whole()
    return stored


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name; of stored ones nothing is read."""
    if isinstance(tensors, StoredTensors):
        return tensors.shapes
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def fill(target: Tensor, tensors: Mapping[str, Tensor], name: str) -> None:
    """Gives a tensor the values of another one of its shape: its own rows of it, where processes share it out."""
    local(target).copy_(rows_for(target, tensors, name))


def rows_for(target: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Of a tensor the rows that this process holds of another one of its shape."""
    piece = piece_of(target)
    if piece.is_whole:
        return tensors[name]
    start, stop = piece.start, piece.start + len(piece.rows)
    return tensors.rows(name, start, stop) if isinstance(tensors, StoredTensors) else tensors[name][start:stop]
