"""How a run was started: what sessions.jsonl notes every time that it begins or goes on."""

import hashlib
import inspect
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
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


def changed_code(sessions: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> list[str]:
    """A sentence for each component whose code is not what it was when the run was last started.

    Args:
        sessions: what was noted before, in order.
        now: what is to be noted this time.
    """
    before: Mapping[str, Any] = sessions[-1].get("code", {}) if sessions else {}
    return [
        f"the code of {part} has changed since the run was last started, so that it may go on otherwise"
        for part, digest in now["code"].items()
        if before.get(part, digest) != digest
    ]


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
        "sharding": invocation.config.train.sharding if accelerator.num_processes > 1 else "none",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "vco": __version__,
        "commit": _commit(),
        "code": {part.title: _code(part.component) for part in invocation.config.parts},
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def _code(component: type[Any]) -> str:
    """A hash of the module that a component is written in; empty where its source is not at hand."""
    with suppress(OSError, TypeError):
        source = inspect.getsource(sys.modules[component.__module__])
        return hashlib.sha256(source.encode()).hexdigest()[:12]
    return ""


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
