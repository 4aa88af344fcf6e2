"""The one test command: style, types, import rules, tests. Stops at the first that fails and exits with its status."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKS = {
    "ruff format": ["ruff", "format", "--check", "--quiet", "."],
    "ruff": ["ruff", "check", "--quiet", "."],
    "import-linter": ["lint-imports", "--no-cache"],
    "pyright": ["pyright"],
    "pytest": ["pytest", "-q"],
}


def main() -> int:
    bin_folder = Path(sys.executable).parent
    for name, command in CHECKS.items():
        print(f"== {name}", flush=True)
        extra = sys.argv[1:] if name == "pytest" else []
        status = subprocess.run([str(bin_folder / command[0]), *command[1:], *extra], cwd=ROOT).returncode
        if status:
            print(f"{name} failed", flush=True)
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
