"""`python -m vco` is the command `vco`: so a launcher of several processes can start it, as in `torchrun -m vco`."""

import sys

from vco.cli import main_vco

if __name__ == "__main__":
    sys.exit(main_vco())
