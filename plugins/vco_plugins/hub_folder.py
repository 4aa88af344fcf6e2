"""Published weights of a codec: a folder with a config.json and a file of weights, on this machine or on the hub."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
from torch import Tensor

from vco.api import UserError
from vco_plugins.pretrained import cached, download, why_not_on_hub

Read = TypeVar("Read")


@attrs.frozen(kw_only=True)
class HubFolder:
    """Where the files of a network lie."""

    given: str
    """What the user gave: a folder, a hub id, or a name of `bundled`."""
    usual: str
    """The hub id to download, where a folder lacks files."""
    files: tuple[str, ...]
    """Names of the files, that of the settings first."""
    option: str = "--.weights"
    """The option that gave it, for messages."""
    bundled: Mapping[str, Path] = attrs.field(factory=dict[str, Path])
    """Name of a network that ships with the package -> its folder."""

    @property
    def place(self) -> Path | None:
        """The folder or cached snapshot with the settings, if there is one; never asks the network."""
        folder = self.bundled.get(self.given, Path(self.given))
        path = folder / self.files[0] if folder.is_dir() else cached(self.given, self.files[0])
        return path.parent if path is not None and path.is_file() else None

    @property
    def is_here(self) -> bool:
        """Whether all files are on this machine."""
        place = self.place
        return place is not None and all((place / name).is_file() for name in self.files)

    def check(self) -> None:
        """Raises `UserError` if files are neither here nor on the hub: what is missing and how to get it."""
        if self.is_here:
            return
        folder, where = Path(self.given), f"{self.given} (from {self.option})"
        if folder.is_dir():
            missing = [name for name in self.files if not (folder / name).is_file()]
            wanted = f"the folder {where} has no {' and no '.join(missing)}"
        elif why_not := why_not_on_hub(self.given, self.files[0]):
            wanted = f"{where} is no folder, its {' and '.join(self.files)} are not in the local Hugging Face cache, "
            wanted += f"and {why_not}"
        else:
            return  # `fetch` downloads them
        hub_id = self.usual if folder.is_dir() else self.given
        raise UserError(
            f"the weights are missing: {wanted}; run `hf download {hub_id} --local-dir FOLDER` where there is network, "
            f"then give {self.option} FOLDER."
        )

    def fetch(self) -> Path:
        """The folder with all files, which are downloaded if need be; raises `UserError` if they cannot be had."""
        self.check()
        if not self.is_here:
            download(self.given, self.files)
        place = self.place
        if place is None or not self.is_here:
            raise UserError(f"{self.given} (from {self.option}) has no file {self.files[-1]}.")
        return place

    def described(self, reader: Callable[[dict[str, Any]], Read], known: Mapping[str, Read]) -> Read:
        """What the file of settings says, or of a known hub id what is known.

        Raises:
            UserError: if there is neither, or the file cannot be read.
        """
        place = self.place
        if place is not None:
            return read_settings(place / self.files[0], f"{self.files[0]} of an autoencoder", reader)
        if self.given in known:
            return known[self.given]
        raise UserError(
            f"{self.given!r} (from {self.option}) is neither a folder with a file {self.files[0]}, nor in the local "
            f"Hugging Face cache, nor one of the known ids {', '.join(known)}; give one of these."
        )

    def require_fitting(self, place: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
        """Raises `UserError` unless the tensors of a file have the names and shapes of a network's."""
        for name, tensor in wanted.items():
            if name not in found or found[name].shape != tensor.shape:
                what = f"{list(found[name].shape)} instead of {list(tensor.shape)}" if name in found else "missing"
                raise UserError(
                    f"the weights in {place} do not fit its {self.files[0]}: {name} is {what}; get them anew."
                )
        if odd := sorted(found.keys() - wanted.keys()):
            raise UserError(f"the weights in {place} hold {odd[0]}, which its {self.files[0]} does not ask for.")


def read_settings(path: Path, what: str, reader: Callable[[dict[str, Any]], Read]) -> Read:
    """What `reader` makes of a JSON file; raises `UserError` if it is no `what`."""
    try:
        return reader(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error!r}" if isinstance(error, KeyError | TypeError) else f"{error}"
        raise UserError(f"{path} is no {what} that can be read: {reason}.") from error
