"""The one test command: style, import rules, types, docs, tests. Stops at the first that fails, with its status.

python tests/check.py                 what takes a few minutes
python tests/check.py --all           the slow tests too
python tests/check.py --slow-only     only the slow tests

Other arguments go to pytest, as in `-k loss` or `-n 0` (one process, whose output is seen at once).
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from browsers import chromium

ROOT = Path(__file__).resolve().parents[1]
STATIC = {
    "ruff format": ["ruff", "format", "--check", "--quiet", "."],
    "ruff": ["ruff", "check", "--quiet", "."],
    "import-linter": ["lint-imports", "--no-cache"],
    "pyright": ["pyright", "--pythonpath", sys.executable],
    "docs": ["sphinx-build", "-W", "-q", "-b", "dirhtml", "docs", str(Path(tempfile.gettempdir()) / "vco-site")],
}
# Tests of one file share runs that take seconds: each process begins with a stretch of neighbouring tests, and takes
# some of another's when it has nothing left. More than eight processes wait for memory.
PARALLEL = ["-n", "auto", "--maxprocesses", "8", "--dist", "worksteal"]
SELECTIONS = {"": "not slow and not gpu", "--all": "not gpu", "--slow-only": "slow and not gpu"}


def main() -> int:
    chosen = [argument for argument in sys.argv[1:] if argument in SELECTIONS]
    rest = [argument for argument in sys.argv[1:] if argument not in SELECTIONS]
    selection = chosen[-1] if chosen else ""
    checks = {} if selection == "--slow-only" else dict(STATIC)
    lacking = "" if chromium() else " and not browser"
    checks["pytest"] = ["pytest", "-q", *PARALLEL, "-m", SELECTIONS[selection] + lacking, *rest]
    bin_folder = Path(sys.executable).parent
    for name, command in checks.items():
        print(f"== {name}", flush=True)
        since = time.monotonic()
        status = subprocess.run([str(bin_folder / command[0]), *command[1:]], cwd=ROOT).returncode
        print(f"{name}: {'failed' if status else 'passed'} in {time.monotonic() - since:.0f} s", flush=True)
        if status:
            return status
    if lacking and selection != "--slow-only":
        print("NOT CHECKED: pages in a browser, as Chromium is not installed (apt-get install chromium)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
