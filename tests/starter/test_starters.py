"""What `vco new` copies keeps the contracts where it is, so that no copy begins broken."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import starters

from vco import starter
from vco.kinds import SECTIONS
from vco.testing import Check, contract_checks

FOLDER = Path(starter.__path__[0])


@contract_checks(starters)
def test_contract(check: Check) -> None:
    check()


@pytest.mark.slow
def test_slow_laws_hold_too_in_a_process_without_type_checks() -> None:
    code = "import sys; from vco.cli import main_vco; sys.exit(main_vco(['check', 'starters', '--slow']))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent).returncode == 0


@pytest.mark.parametrize("section", SECTIONS)
def test_a_starter_has_an_option_of_its_own_and_is_read_in_one_look(section: str) -> None:
    source = (FOLDER / f"{section}.py").read_text()
    assert re.search(
        rf'^class My{section.capitalize()}\((?s:.*?)    class Config\(.*\n        """.*"""\n\n        \w+: ',
        source,
        re.M,
    )
    assert len(source.splitlines()) <= 120
