"""Where published weights lie, how they are fetched and read: nothing that is missing is made up."""

import json
import pickle
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import torch

from vco.api import UserError

Read = TypeVar("Read")

SAFETENSORS: Final = ("model.safetensors", "model.safetensors.index.json")
"""Weight files of transformers, either of which will do."""
HUB_SECONDS: Final = 5.0
"""How long the hub may take to say whether it has a file."""


class Architecture(NamedTuple):
    """What must be known of a network before its weights are read."""

    kind: str
    """The library's word for its family."""
    patch: int
    """Pixels a side that one token stands for."""
    width: int
    """Width of the tokens."""
    depth: int
    """Number of blocks."""
    pooled: int = 0
    """Width of the network's own pooled vector, where it is another than that of the tokens."""
    classes: int = 0
    """Classes that it tells images into; 0 if it is no classifier."""


def read_json(path: Path, reader: Callable[[Any], Read]) -> Read:
    """What `reader` makes of a JSON file; raises `UserError` if it is not such a file as the reader expects."""
    try:
        return reader(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the {path.name} of an encoder that this source reads: {error!r}.") from error


def read_config(
    folder: Path | None,
    weights: str,
    *,
    kinds: Collection[str],
    known: Mapping[str, Architecture],
    defaults: Mapping[str, int] | None = None,
) -> Architecture:
    """The architecture from a config.json of transformers; without a folder, that of a known hub id.

    Args:
        folder: where config.json is, or None.
        weights: what the user gave, for messages and for `known`.
        kinds: the model types that the source reads.
        known: hub id -> architecture.
        defaults: sizes that the family's config files leave out.
    """

    def reader(content: Any) -> Architecture:
        kind = content["model_type"]
        if kind not in kinds:
            raise UserError(
                f"{weights} (from --.weights) holds a model of type {kind!r}; this source reads "
                f"{' and '.join(kinds)} only."
            )
        sizes = {**(defaults or {}), **content.get("vision_config", content)}
        patch, width, depth = (int(sizes[key]) for key in ("patch_size", "hidden_size", "num_hidden_layers"))
        return Architecture(kind, patch, width, depth)

    if folder is not None:
        return read_json(folder / "config.json", reader)
    if weights in known:
        return known[weights]
    raise unknown(weights, "config.json", known)


def unknown(weights: str, config_file: str, known: Collection[str]) -> UserError:
    """The error for weights that are neither here nor known by name."""
    return UserError(
        f"{weights!r} (from --.weights) is neither a folder with a file {config_file}, nor in the local "
        f"Hugging Face cache, nor one of the known ids {', '.join(known)}; give one of these."
    )


def pretrained(name: str, folder: Path, **settings: Any) -> Any:
    """The network of class `name` of transformers with the weights in a folder, float32; all of them must be there.

    Source: transformers' `from_pretrained`, which only reports missing tensors, and goes on with random ones.
    """
    import transformers

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # no list of a text tower's tensors; missing ones are an error below
    try:
        with readable(folder):
            network, report = getattr(transformers, name).from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=any((folder / file).is_file() for file in SAFETENSORS),
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
                **settings,
            )
    finally:
        transformers.logging.set_verbosity(verbosity)
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"The weights in {folder} lack {len(missing)} tensors, such as {missing[0]}; get them anew.")
    return network


def initial(name: str, folder: Path | None, sizes: Architecture, **settings: Any) -> Any:
    """The network of class `name` of transformers with the weights that it begins with, drawn from torch's generator.

    Args:
        name: class of transformers.
        folder: where a config.json is, if there is one.
        sizes: the network's, where there is none: then all else has the family's defaults, and heads are 64 wide.
        settings: what the family's defaults should be other than transformers'.
    """
    import transformers

    network = getattr(transformers, name)
    if folder is not None:
        return network(network.config_class.from_pretrained(folder, local_files_only=True, **settings))
    config = network.config_class(
        patch_size=sizes.patch,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.depth,
        num_attention_heads=max(1, sizes.width // 64),
        intermediate_size=4 * sizes.width,
        **settings,
    )
    return network(config)


@contextmanager
def readable(folder: Path) -> Generator[None]:
    """Turns what libraries raise on damaged or unfitting weights into a `UserError`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        raise UserError(f"The weights in {folder} cannot be loaded ({error}); get them anew.") from error


def cached(hub_id: str, name: str) -> Path | None:
    """A file of a hub repository in the local cache; never asks the network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(hub_id, name)
    except HFValidationError:  # a folder that does not exist is no hub id either
        return None
    return Path(path) if isinstance(path, str) else None


def why_not_on_hub(hub_id: str, name: str) -> str:
    """Asks the hub whether a file can be downloaded; returns why not, or nothing if it can.

    The hub is not asked where `HF_HUB_OFFLINE` is set.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the hub"
    try:
        get_hf_file_metadata(hf_hub_url(hub_id, name), timeout=HUB_SECONDS)
    except HfHubHTTPError as error:
        return f"the hub refuses: {str(error).splitlines()[0]}"
    except Exception as error:  # no network, in the words of whatever library is below huggingface_hub
        return f"the hub cannot be reached: {type(error).__name__}"
    return ""


def download(hub_id: str, names: Collection[str]) -> None:
    """Downloads those of these files that a hub repository has into the local cache, with a progress bar.

    Raises:
        UserError: if the download fails.
    """
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(hub_id, allow_patterns=list(names))
    except Exception as error:  # of any network library, below huggingface_hub
        raise UserError(f"the weights {hub_id} cannot be downloaded ({type(error).__name__}: {error}).") from error
