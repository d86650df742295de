"""Where the example logs, and the plans and run files that go with them, are on this machine."""

import functools
import hashlib
import tempfile
from pathlib import Path

from convlib.cache import cache_folder
from convlib.datasets import shop, shop_model
from convlib.documents import find_wrong_choice
from convlib.errors import ParamError

NAMES = ("oulad", "shop")


def dataset_path(name: str) -> Path:
    """Return the Parquet file of an example log; the shop's is simulated at first use and kept in the cache folder.

    Args:
        name: `oulad` or `shop`.

    Returns:
        The file.

    Raises:
        ParamError: There is no such example.
    """
    _check_name(name)
    return Path(__file__).parent / "oulad" / "events.parquet" if name == "oulad" else _simulated_shop()


def params_folder(name: str) -> Path:
    """Return the folder with an example's `plan.yaml`, `segments.yaml` and `weekly.yaml`.

    Args:
        name: `oulad` or `shop`.

    Returns:
        The repository's own folder, or the one that the installed package brings.

    Raises:
        ParamError: There is no such example.
    """
    _check_name(name)
    return workbook_folder() / "params" / name


def workbook_folder() -> Path:
    """Return the folder with the `notebooks` and `params` to start from: an installed package's, or the repository."""
    package = Path(__file__).parents[1]
    installed = package / "workbook"
    return installed if installed.is_dir() else package.parent


def _check_name(name: str) -> None:
    if problems := find_wrong_choice("name", name, NAMES):
        raise ParamError(*problems)


def _simulated_shop() -> Path:
    folder = cache_folder()
    path = folder / f"shop-{_digest_generator()}.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        events, _ = shop.shop_events()
        # Written beside its place and moved there whole: another process must never read half of it.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            written = Path(scratch) / path.name
            events.to_parquet(written, index=False, compression="zstd")
            written.replace(path)
    return path


@functools.cache
def _digest_generator() -> str:
    """A changed generator makes another file, so that an old log never stands beside a new truth."""
    sources = [Path(str(module.__file__)).read_bytes() for module in (shop_model, shop)]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:16]
