"""Where prepared data are kept between notebooks: safe to delete."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the folder that the environment variable CONVLIB_CACHE names, else the user's own cache folder."""
    return Path(os.environ.get("CONVLIB_CACHE") or platformdirs.user_cache_dir("convlib", appauthor=False))
