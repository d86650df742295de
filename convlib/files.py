"""Files that appear whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

#: What is not finished begins with a dot and has this in its name.
SCRATCH = ".part"
#: A folder that another has replaced.
OLD = ".old"


def write_text(path: Path, text: str) -> None:
    """Write a text file through a temporary one beside it, so that no reader meets half of it."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it, so that no reader meets half of it, not even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}{SCRATCH}")
    try:
        with scratch.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise


def remove_folder(folder: Path) -> None:
    """Remove a folder so that nobody meets half of it: it takes another name first."""
    scratch = folder.with_name(f".{folder.name}{SCRATCH}")
    shutil.rmtree(scratch, ignore_errors=True)
    folder.rename(scratch)
    shutil.rmtree(scratch)


def sweep_scratch(folder: Path, *, before: float) -> None:
    """Remove what killed processes left unfinished.

    Args:
        folder: Where to look, with all that is below.
        before: Seconds since 1970; what was written later may belong to a process that goes on.
    """
    found = [*folder.rglob(f".*{SCRATCH}*"), *folder.rglob(f".*{OLD}")]
    for path in sorted(found, reverse=True):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.exists() and path.stat().st_mtime < before:
            path.unlink(missing_ok=True)


def digest_files(paths: Iterable[Path]) -> str:
    """Fingerprint some files' names and contents."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
