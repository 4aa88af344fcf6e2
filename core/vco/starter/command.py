"""The command `vco new KIND NAME`."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from vco.errors import UserError, did_you_mean
from vco.kinds import SECTIONS
from vco.plugins.discovery import load_catalog
from vco.starter.package import Package


def main(argv: Sequence[str]) -> int:
    """Writes a package and says how to go on.

    Raises:
        UserError: if there is no such kind, the name cannot be had, or the folder cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="vco new",
        description="Write a plugin package with one component: it installs, passes its tests and runs at once.",
    )
    parser.add_argument("kind", metavar="KIND", help=f"kind of the component: {', '.join(SECTIONS)}")
    parser.add_argument("name", metavar="NAME", help="its name, as in my-loss")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="folder to write [vco_NAME, as in vco_my_loss]")
    args = parser.parse_args(argv)
    if args.kind not in SECTIONS:
        near = did_you_mean(args.kind, SECTIONS)
        raise UserError(f"there is no kind of component named {args.kind!r}{near}; kinds are {', '.join(SECTIONS)}")
    package = Package(kind=SECTIONS[args.kind], name=args.name)
    package.check(load_catalog())
    folder: Path = args.folder or Path(package.module)
    package.write(folder)
    print(f"wrote {folder}:")
    for path in package.texts():
        print(f"  {path}" + ("  <- edit this file" if path == package.component else ""))
    commands = (f"cd {shlex.quote(str(folder))}", "pip install -e '.[test]'", "pytest", package.run)
    print("\n  ".join(["next:", *commands]), flush=True)
    return 0
