"""What becomes of a finished run's reports: mail and messages to each audience, and its folder at a shared place."""

import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

from convlib import notify
from convlib.alert_files import read_alerts
from convlib.errors import ConvlibError, RunError, StoppedError
from convlib.files import digest_files, write_text
from convlib.notify import Channel, Message, deliver, find_channel_problem, flatten, keep_message, read_channels
from convlib.periods import tell_time
from convlib.reports.index import INDEX, render_mail, render_text, word_period, word_status
from convlib.reports.manifest import ALERTS, AUDIENCES, Manifest
from convlib.reports.run_file import Audience, RunFile, name_folder, read_run_file

if TYPE_CHECKING:
    from convlib.reports.preparation import Preparation

#: In a period's folder: messages with who has them, and uploads with what is there.
OUTBOX, UPLOADS = "delivery.json", "uploads.json"
#: Bytes of files that a mail carries; many servers refuse more than 20 MB, and mail makes a third more of it.
MOST_ATTACHED = 10_000_000
#: Seconds that all uploads of a run may take together.
DEADLINE = 600.0
#: What must be installed for an address that needs more than fsspec.
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}


def check_delivery(run_file: RunFile) -> None:
    """Find the recipients and shared places of a run file that can't be reached as they are written.

    Args:
        run_file: The run file.

    Raises:
        RunError: A variable is not set, holds no address, or its kind of address needs a package that is not
            installed; every problem is listed with its line, and no address is shown.
    """
    problems = []
    for key, audience in run_file.audiences.items():
        for number, name in enumerate(audience.recipients):
            found = find_channel_problem(name, field="recipients")
            problems += [f"{run_file.locate('audiences', key, 'recipients', number)}: {found}"] if found else []
        for number, name in enumerate(audience.upload):
            found = find_upload_problem(name)
            problems += [f"{run_file.locate('audiences', key, 'upload', number)}: {found}"] if found else []
    if problems:
        raise RunError(*problems)


def find_upload_problem(name: str) -> str:
    """Say why files can't be put where an environment variable says ("" when they can, as far as can be told here)."""
    address = os.environ.get(name, "").strip()
    if not address:
        return (
            f"the environment variable {name} is not set. Set it to a folder or an address such as "
            "s3://bucket/reports, or remove it from `upload`."
        )
    protocol = get_protocol(address)
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError:
        advice = f"Install {PACKAGES[protocol]}" if protocol in PACKAGES else "Install what fsspec names for it"
        return (
            f"the environment variable {name} holds a {protocol}:// address, for which a package is missing. {advice}, "
            "or give another address."
        )
    except ValueError:
        return (
            f"the environment variable {name} holds no address that fsspec can write to. Write it as a folder, or as "
            "s3://…, gs://… or abfs://…; docs/schedules.md shows each."
        )
    return ""


def deliver_audiences(folder: Path, manifest: Manifest, preparation: "Preparation") -> tuple[str, ...]:
    """Send each audience its report and put its folder where the run file says; what fails waits for the next run.

    An audience whose reports are not all made gets nothing yet; those who get alerts are told. Nothing is sent twice:
    each period's folder remembers who has what.

    Args:
        folder: The period's folder, with those of the audiences.
        manifest: The run's record.
        preparation: The checked run.

    Returns:
        Sentences for whoever started the run: what was held back, and what could not be sent.
    """
    notes = []
    try:
        _queue_incomplete(folder, manifest, preparation)
        for name, audience in preparation.run_file.audiences.items():
            notes += _queue_report(folder, manifest, preparation, name, audience)
    except RunError as error:
        notes += error.problems
    newest_first = sorted((path for path in folder.parent.iterdir() if path.is_dir()), reverse=True)
    return (*notes, *_send(newest_first, _read_channels(preparation)), *_upload_all(newest_first, preparation.run_file))


def _queue_report(
    folder: Path, manifest: Manifest, preparation: "Preparation", name: str, audience: Audience
) -> list[str]:
    """Note what an audience is to get, or say why it gets nothing yet."""
    if not (audience.recipients or audience.upload):
        return []
    reports = preparation.choose_reports(name, manifest.reports)
    missing = sum(report.status != "made" for report in reports)
    if missing or not reports:
        of = f"{missing} of {len(reports)} of its reports are not made" if reports else "it has no report"
        return [f"{name}: {of}, so nothing was sent to it. Continue with --resume."]
    if not (folder / AUDIENCES / name_folder(name)).exists():
        return [f"{name}: nothing was sent to it, since it has no folder. Continue with --resume."]
    if audience.recipients:
        keep_message(folder / OUTBOX, _word_report(folder, manifest, name, audience))
    _queue_uploads(folder, name, audience)
    return []


def report_failure(path: str | Path, error: ConvlibError) -> tuple[str, ...]:
    """Tell those who get a run's alerts that it could not start, or not go on.

    Args:
        path: The run file. When it can't be read, nobody is known who could be told.
        error: Why; a `StoppedError` where some reports may be made.

    Returns:
        Sentences about channels that could not be told.
    """
    try:
        run_file = read_run_file(path)
    except RunError:
        return ()
    known = [name for name in run_file.alerts.notify if not find_channel_problem(name)]
    if not known:
        return ()
    count = len(error.problems)
    more = f" ({count - 1} more: convlib check)" if count > 1 else ""
    what = "the run stopped" if isinstance(error, StoppedError) else "the reports were not made"
    title = f"{run_file.title or run_file.run}: {what}"
    with tempfile.TemporaryDirectory() as scratch:
        outbox = Path(scratch) / OUTBOX
        text = flatten(error.problems[0]) + more
        keep_message(outbox, _make_message("failure", tell_time(), title=title, text=text, to=known))
        problems = deliver(outbox, read_channels(known))
    return tuple(f"{name}: {problem}." for name, problem in problems.items() if problem)


def _make_message(*identity: str, title: str, text: str, to: Sequence[str], **more: Any) -> Message:
    return Message(
        id=hashlib.sha256("\0".join(identity).encode()).hexdigest()[:16],
        title=flatten(title),
        body=text,
        alerts=(),
        created=tell_time(),
        delivered=dict.fromkeys(to),
        **more,
    )


def _queue_incomplete(folder: Path, manifest: Manifest, preparation: "Preparation") -> None:
    """Have those who get alerts told once that reports are missing."""
    missing = [report for report in manifest.reports if report.status != "made"]
    channels = [channel.name for channel in preparation.channels]
    if not missing or not channels:
        return
    names = [f"{report.segment}/{report.notebook}" for report in missing]
    title = f"{manifest.title}, {word_period(*manifest.period)}: {word_status(manifest)}"
    text = f"Not made: {flatten(', '.join(names))}. Continue with --resume."
    identity = (manifest.run, *manifest.period, "incomplete", *names)
    keep_message(folder / OUTBOX, _make_message(*identity, title=title, text=text, to=channels))


def _word_report(folder: Path, manifest: Manifest, name: str, audience: Audience) -> Message:
    team = name.partition(":")[2]
    alerts = read_alerts(folder / ALERTS) if (folder / ALERTS).exists() else None
    title = f"{manifest.title}, {word_period(*manifest.period)}"
    own = Path(AUDIENCES) / name_folder(name)
    return _make_message(
        manifest.run,
        *manifest.period,
        name,
        title=f"{title}: {team}" if team else title,
        text=render_text(folder, manifest, alerts, audience=name),
        html=render_mail(folder, manifest, alerts, audience=name),
        to=audience.recipients,
        files=tuple((own / file).as_posix() for file in _choose_files(folder / own, is_page=bool(team))),
    )


def _choose_files(folder: Path, *, is_page: bool) -> list[str]:
    """Choose what a mail carries: the PDF of one segment, else the archive, else the workbook, else the one page."""
    pdfs = sorted(folder.glob("*/*.pdf"))
    leading = folder / "all" if folder / "all" in {path.parent for path in pdfs} else pdfs[0].parent if pdfs else folder
    for wanted in ("*.pdf", "*.zip", "*.xlsx", "all/*.xlsx", "*/*.xlsx", *([INDEX] if is_page else [])):
        files = sorted((leading if wanted == "*.pdf" else folder).glob(wanted))[: None if wanted == "*.pdf" else 1]
        if files and sum(path.stat().st_size for path in files) <= MOST_ATTACHED:
            return [path.relative_to(folder).as_posix() for path in files]
    return []


def _read_channels(preparation: "Preparation") -> tuple[Channel, ...]:
    audiences = preparation.run_file.audiences.values()
    named = dict.fromkeys([*preparation.run_file.alerts.notify, *(each for a in audiences for each in a.recipients)])
    return read_channels([name for name in named if not find_channel_problem(name)])


def _send(periods: Iterable[Path], channels: Sequence[Channel]) -> Iterator[str]:
    """Send what waits, the newest period first; all together have one delivery's time."""
    end = time.monotonic() + notify.DEADLINE
    for period in periods:
        left = end - time.monotonic()
        if left <= 0:
            return
        try:
            problems = deliver(period / OUTBOX, channels, deadline=left)
        except RunError as error:
            yield from error.problems
            continue
        for name, problem in problems.items():
            if problem:
                yield f"{name}: {problem}. The message of {period.name} is kept and sent again at the next run."


def _queue_uploads(folder: Path, name: str, audience: Audience) -> None:
    """Note where an audience's folder is to be put, unless what it holds is there already."""
    state = _read_uploads(folder)
    digest = _digest(folder / AUDIENCES / name_folder(name))
    known = state.get(name, {})
    state[name] = {
        variable: known.get(variable, "") if known.get(variable) == digest else "" for variable in audience.upload
    }
    _write_uploads(folder, state)


def _upload_all(periods: Iterable[Path], run_file: RunFile) -> Iterator[str]:
    """Put every folder that waits at its place, side by side: a place that hangs must not hold the run.

    What the run file no longer sends somewhere stays here, and a folder that is gone empties no place.
    """
    wanted = {(name, variable) for name, audience in run_file.audiences.items() for variable in audience.upload}
    waiting = [
        (period, name, variable)
        for period in periods
        for name, places in _read_uploads(period).items()
        for variable, digest in places.items()
        if not digest and (name, variable) in wanted and not find_upload_problem(variable)
        if (period / AUDIENCES / name_folder(name)).is_dir()
    ]
    done: SimpleQueue[tuple[int, str, str]] = SimpleQueue()

    def put(number: int) -> None:
        period, name, variable = waiting[number]
        source = period / AUDIENCES / name_folder(name)
        digest = _digest(source)
        try:
            upload_folder(source, os.environ[variable].strip(), f"{period.parent.name}/{period.name}/{source.name}")
        except Exception as error:  # noqa: BLE001  # stores have no error in common
            done.put((number, "", _word_error(error)))
        else:
            done.put((number, digest, ""))

    for number in range(len(waiting)):
        threading.Thread(target=put, args=[number], daemon=True).start()
    end, open_ones = time.monotonic() + DEADLINE, set(range(len(waiting)))
    problems = dict.fromkeys(open_ones, f"it did not take the files within {DEADLINE:g} seconds")
    while open_ones:
        try:
            number, digest, problems[number] = done.get(timeout=max(end - time.monotonic(), 0))
        except Empty:
            break
        open_ones.discard(number)
        if digest:
            period, name, variable = waiting[number]
            state = _read_uploads(period)
            state[name][variable] = digest
            _write_uploads(period, state)
    for number, (period, name, variable) in enumerate(waiting):
        if problems[number]:
            what = f"the folder of {name} for {period.name} could not be uploaded: {problems[number]}"
            yield f"{variable}: {what}. It is tried again at the next run."


def upload_folder(source: Path, address: str, place: str) -> None:
    """Put a folder's files at a place, its index last, and remove what an earlier upload left there.

    Args:
        source: The folder.
        address: A folder, or an address of fsspec.
        place: Where below the address; nothing outside is touched.
    """
    store, root = url_to_fs(address)
    target = f"{root.rstrip('/')}/{place}"
    files = {path.relative_to(source).as_posix(): path for path in _list_files(source)}
    for name in sorted(files, key=lambda name: (name == INDEX, name)):
        if not store.async_impl:  # Object stores have no folders.
            store.makedirs(f"{target}/{name}".rpartition("/")[0], exist_ok=True)
        store.put_file(str(files[name]), f"{target}/{name}")
    store.invalidate_cache()
    for path in set(store.find(target)) - {f"{target}/{name}" for name in files}:
        store.rm_file(path)


def _list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _digest(folder: Path) -> str:
    parts = [f"{path.relative_to(folder).as_posix()}\0{digest_files([path])}" for path in _list_files(folder)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _word_error(error: Exception) -> str:
    """Name an error without its text, which may quote an address or a key."""
    number = error.errno if isinstance(error, OSError) else None
    return f"{type(error).__name__} ({os.strerror(number)})" if number else type(error).__name__


def _read_uploads(period: Path) -> dict[str, dict[str, str]]:
    """Read which of a period's folders are where; what can't be read is put there once more."""
    try:
        found = json.loads((period / UPLOADS).read_text(encoding="utf-8"))
        return {name: dict(places) for name, places in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_uploads(period: Path, state: Mapping[str, Mapping[str, str]]) -> None:
    write_text(period / UPLOADS, json.dumps(state, indent=1) + "\n")
