from pathlib import Path

import platformdirs
import pytest

from convlib.cache import cache_folder


def test_cache_folder_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONVLIB_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_cache_folder_is_the_users_when_the_environment_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVLIB_CACHE", raising=False)
    assert cache_folder() == Path(platformdirs.user_cache_dir("convlib", appauthor=False))
