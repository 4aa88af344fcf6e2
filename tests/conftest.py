"""What all tests share."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fits are kept in a folder of this session, never in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
