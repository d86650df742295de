import os
import shutil
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps prepared logs out of the user's own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    """Closes what a test has drawn: matplotlib warns from the 21st open figure on, and warnings are errors."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; without one the test is skipped, and in CI it fails."""
    return find_program("chromium", "chromium-browser", "google-chrome", "chrome")


def find_program(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"{names[0]} is not installed; tests/system-packages.txt lists the packages that tests need")
    return found
