"""How a run was started: what sessions.jsonl notes every time that it begins or goes on."""

import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import Accelerator

from vco import __version__
from vco.config.resolve import Invocation

LIBRARIES: Final = ("torch", "torchvision", "accelerate", "transformers", "timm")
"""Libraries whose versions are noted, where they are installed."""


def session(invocation: Invocation, accelerator: Accelerator, step: int) -> dict[str, Any]:
    """Time, command, software and hardware, as plain data.

    Args:
        invocation: what was asked for.
        accelerator: the processes that train.
        step: optimizer steps that were done before.
    """
    device = accelerator.device
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "processes": accelerator.num_processes,
        "accumulation": invocation.config.train.accumulation,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "vco": __version__,
        "commit": _commit(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def _version(name: str) -> str:
    with suppress(PackageNotFoundError):
        return version(name)
    return ""


def _commit() -> str:
    """The commit of the source tree that vco runs from, with a plus if it was changed; empty if it is installed."""
    folder = Path(__file__).parent
    with suppress(OSError, subprocess.SubprocessError):
        git = ["git", "-C", str(folder)]
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=5)
        if tracked.returncode == 0:
            head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, timeout=5, check=True)
            changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=20)
            return head.stdout.decode().strip() + ("+" if changed.returncode else "")
    return ""
