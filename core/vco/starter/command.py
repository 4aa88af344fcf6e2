"""The command `vco new KIND NAME`."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from vco.errors import UserError
from vco.hooks import SECTIONS
from vco.plugins import load_catalog
from vco.registry import did_you_mean
from vco.starter.package import Package


def main(argv: Sequence[str]) -> int:
    """Writes a package and says how to go on.

    Raises:
        UserError: if there is no such kind, the name cannot be had, or the folder cannot be written.
    """
    kinds = {section: kind for kind, section in SECTIONS.items()}
    parser = argparse.ArgumentParser(
        prog="vco new",
        description="Write a plugin package with one component: it installs, passes its tests and runs at once.",
    )
    parser.add_argument("kind", metavar="KIND", help=f"kind of the component: {', '.join(kinds)}")
    parser.add_argument("name", metavar="NAME", help="its name, as in my-loss")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="folder to write [vco_NAME, as in vco_my_loss]")
    args = parser.parse_args(argv)
    if args.kind not in kinds:
        near = did_you_mean(args.kind, kinds)
        raise UserError(f"there is no kind of component named {args.kind!r}{near}; kinds are {', '.join(kinds)}")
    package = Package(kind=kinds[args.kind], name=args.name)
    package.check(load_catalog())
    folder: Path = args.folder or Path(package.module)
    package.write(folder)
    print(f"wrote {folder}:")
    for path in package.texts():
        print(f"  {path}" + ("  <- edit this file" if path == package.component else ""))
    commands = (f"cd {shlex.quote(str(folder))}", "pip install -e '.[test]'", "pytest", package.run)
    print("\n  ".join(["next:", *commands]), flush=True)
    return 0
