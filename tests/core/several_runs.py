"""Several runs of `vco-run` by the same processes, one after the other: `launched(COMMANDS, FOLDER)` starts them.

To begin takes most of the time of a tiny run; here it is paid once.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path

import tiny


def launched(commands: Sequence[Sequence[str]], folder: Path) -> list[tuple[int, str]]:
    """Runs each command with two processes on the CPU.

    Args:
        commands: what follows `vco-run`; RANK in it becomes the number of the process.
        folder: an empty one, for what is passed to the processes and back.

    Returns:
        Of each command, the exit status of the first process and what it wrote to standard error.
    """
    (folder / "commands.json").write_text(json.dumps([list(command) for command in commands]))
    done = tiny.launched(__file__, str(folder), timeout=1800)  # a busy machine takes ten times as long
    assert done.returncode == 0, done.stderr
    return [tuple(line) for line in json.loads((folder / "done.json").read_text())]


def _work(folder: Path) -> None:
    from accelerate.state import AcceleratorState, PartialState

    from vco.cli import main_run

    done: list[tuple[int, str]] = []
    # every run meets anew, in a store of its own
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    port = int(os.environ["MASTER_PORT"])
    for number, command in enumerate(json.loads((folder / "commands.json").read_text())):
        os.environ["MASTER_PORT"] = str(port + 1 + number)
        with (folder / f"said-{os.environ['RANK']}").open("w+") as said, redirect_stderr(said):
            status = main_run([part.replace("RANK", os.environ["RANK"]) for part in command])
            said.seek(0)
            done.append((status, said.read()))
        AcceleratorState._reset_state()
        PartialState._reset_state()
    if os.environ["RANK"] == "0":
        (folder / "done.json").write_text(json.dumps(done))


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
