"""Runs on the Hugging Face Hub: fetched as a folder into its cache, and uploaded from one."""

import re
from pathlib import Path
from typing import Final

from vco.errors import UserError, one_line

ADDRESS: Final = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)")  # Path("hf://a/b") has lost a slash
"""hf://OWNER/NAME."""


def local_path(place: str | Path) -> Path:
    """A place on this disk: the path itself or, of hf://OWNER/NAME, the folder that the repository was fetched to.

    What is in the cache already is not fetched again; HF_HUB_OFFLINE=1 takes nothing but that.

    Raises:
        UserError: if there is no such repository, or it cannot be reached.
    """
    address = ADDRESS.fullmatch(str(place))
    if not address:
        return Path(place)
    import huggingface_hub  # takes a second, which whoever opens a folder need not wait for

    try:
        return Path(huggingface_hub.snapshot_download(address[1]))
    except Exception as error:  # its own errors, those of the network, and those of the disk
        raise UserError(
            f"{place} cannot be fetched ({_short(error)}); give hf://OWNER/NAME of a repository that you may read, "
            "or a folder"
        ) from error


def push(folder: Path, repository: str) -> str:
    """Uploads a folder as a model repository, which is made if there is none yet; returns its address.

    Raises:
        UserError: if that fails; the folder is as it was.
    """
    import huggingface_hub

    try:
        api = huggingface_hub.HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A run of vco")
    except Exception as error:
        raise UserError(
            f"{folder} is written, but it could not be pushed to {repository} ({_short(error)}); put that right, then "
            f"`hf upload {repository} {folder}` does it (`hf auth login` says who you are)"
        ) from error
    return f"hf://{repository}"


def _short(error: Exception) -> str:
    """The first line of an error, without its full stop."""
    text = one_line(error)
    return (text if len(text) <= 160 else f"{text[:157]}...").rstrip(". ")
