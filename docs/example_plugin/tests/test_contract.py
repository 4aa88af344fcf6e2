"""Everything the package offers keeps the contracts of vco."""

import vco_relation

from vco.testing import Check, contract_checks


@contract_checks(vco_relation)
def test_contract(check: Check) -> None:
    """One case for every law and component."""
    check()
