"""Runs on the Hugging Face Hub: fetched as a folder into its cache, and uploaded from one."""

import re
from pathlib import Path
from typing import Final

from vco.errors import UserError, one_line

ADDRESS: Final = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)")  # Path("hf://a/b") has lost a slash
"""hf://OWNER/NAME."""
SETTINGS: Final = "config.yaml"
"""The file that every run has."""


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
        raise _unreachable(address[1], error) from error


def require_run(repository: str) -> None:
    """Fetches the settings of the run in a repository, OWNER/NAME, and nothing else: a small file.

    Raises:
        UserError: if the run cannot be had.
    """
    import huggingface_hub

    try:
        found = Path(huggingface_hub.snapshot_download(repository, allow_patterns=[SETTINGS]))
        if not (found / SETTINGS).is_file():
            raise huggingface_hub.errors.EntryNotFoundError(SETTINGS)
    except Exception as error:  # as in `local_path`
        raise _unreachable(repository, error) from error


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


def _unreachable(repository: str, error: Exception) -> UserError:
    """Says why a repository cannot be fetched."""
    return UserError(
        f"hf://{repository} cannot be fetched ({_why(error)}); give hf://OWNER/NAME of a run that you may read, or a "
        "folder"
    )


def _why(error: Exception) -> str:
    """What keeps a repository from being fetched: the Hub's own messages are about its interface."""
    from huggingface_hub import constants, errors

    match error:
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hugging Face Hub does not answer"
            return f"{reason}, and there is no copy in the cache"
        case errors.GatedRepoError():
            return "its owner gives access to those who ask for it on its page"
        case errors.RepositoryNotFoundError():
            return "there is no such repository, or it is private; `hf auth login` says who you are"
        case errors.EntryNotFoundError():
            return f"the repository holds no run: it has no {SETTINGS}"
        case _:
            return _short(error)


def _short(error: Exception) -> str:
    """The first line of an error, without its full stop."""
    text = one_line(error)
    return (text if len(text) <= 160 else f"{text[:157]}...").rstrip(". ")
