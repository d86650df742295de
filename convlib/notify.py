"""Messages about alerts and reports: kept in a file until every channel has them, and sent through apprise."""

import dataclasses
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import apprise
import pandas as pd
from apprise.attachment.file import AttachFile
from apprise.plugins import url_to_dict
from apprise.utils.parse import parse_urls

from convlib.alert_files import SEVERITIES
from convlib.errors import RunError
from convlib.files import write_text
from convlib.periods import tell_time

#: Seconds to wait before the second and the third try; a longer outage is left to the next run.
PAUSES = (1.0, 4.0)
#: Seconds that one delivery may take for all channels together: they are served side by side.
DEADLINE = 60.0
#: Seconds that a thread has to end after its last answer.
ENDING = 0.5
#: Alerts that a message spells out; the report shows the rest.
MOST_LINES = 40
MOST_KEPT = 200
#: Schemes of addresses that take HTML with attached files; all others get the text.
MAIL = {"mailto", "mailtos"}
# A watcher queues messages while a thread of its own delivers others.
_WRITING = threading.Lock()
# Tries one after the other in the thread that asks: a pool's threads would hold the process when a receiver never ends.
ASSET = apprise.AppriseAsset(async_mode=False, service_timeout=0, app_id="convlib", app_desc="convlib")


@dataclasses.dataclass(frozen=True)
class Channel:
    """Where messages go: the environment variable's name, and the address in it, which holds secrets."""

    name: str
    address: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Message:
    """One digest of alerts, or one report.

    `delivered` has a time for each channel that took it, None for one that it waits for. Mail gets `html`, if there is
    any, and `files`, whose paths start at the outbox.
    """

    id: str
    title: str
    body: str
    alerts: tuple[str, ...]
    created: str
    delivered: Mapping[str, str | None]
    html: str = dataclasses.field(default="", repr=False)
    files: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether a channel still lacks it."""
        return None in self.delivered.values()


def read_channels(names: Sequence[str]) -> tuple[Channel, ...]:
    """Read the addresses that environment variables hold.

    Args:
        names: The variables' names.

    Raises:
        RunError: A variable is not set, or holds no address; every problem is listed, no address is shown.
    """
    problems = [problem for name in names if (problem := find_channel_problem(name))]
    if problems:
        raise RunError(*problems)
    return tuple(Channel(name, os.environ[name].strip()) for name in names)


def find_channel_problem(name: str, *, field: str = "notify") -> str:
    """Say why messages can't be sent to the address in an environment variable ("" when they can).

    Args:
        name: The variable.
        field: Where the run file names it.
    """
    address = os.environ.get(name, "").strip()
    if not address:
        return f"the environment variable {name} is not set. Set it to an apprise address, or remove it from `{field}`."
    if len(parse_urls(address)) > 1:
        return f"the environment variable {name} holds several addresses. Give each a variable of its own."
    if _make_service(address) is None:
        return (
            f"the environment variable {name} holds no address that apprise can read. Write it as "
            "slack://…, mailtos://…, workflows://… or jsons://…; docs/alerts.md shows each."
        )
    return ""


def read_outbox(path: Path) -> tuple[Message, ...]:
    """Read the messages of an outbox, oldest first; none without the file.

    Raises:
        RunError: The file is damaged.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["messages"]
        lists = ("alerts", "files")
        return tuple(Message(**entry | {name: tuple(entry.get(name, ())) for name in lists}) for entry in entries)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{path} can't be read as an outbox: {type(error).__name__}: {error}. Restore it, or delete it: open "
            "alerts are then sent once more, with the ids they have."
        ) from None


def queue_message(
    path: Path,
    alerts: pd.DataFrame,
    *,
    title: str,
    channels: Sequence[str],
    severity: str = "warning",
) -> Message | None:
    """Put the open alerts that no message has told yet into the outbox, as one message.

    Args:
        path: The outbox' file.
        alerts: Table of alerts, as `find_alerts` gives it.
        title: What the message is about, such as the report's title.
        channels: Names of the channels that are to get it.
        severity: The least severity that is told: info, warning or critical.

    Returns:
        The message; None when there is nothing to tell or nobody to tell it.

    Raises:
        RunError: The outbox is damaged.
    """
    still_open = alerts[alerts["still_open"].astype(bool)]
    heavy = still_open["severity"].isin(SEVERITIES[: SEVERITIES.index(severity) + 1])
    with _WRITING:
        outbox = read_outbox(path)
        told = {alert for message in outbox for alert in message.alerts}
        untold = still_open[heavy & ~still_open["id"].isin(told)].drop_duplicates("id")
        if untold.empty or not channels:
            return None
        message = _word_message(untold, title=title, channels=channels)
        _write_outbox(path, (*_drop_old(outbox, set(still_open["id"])), message))
    return message


def keep_message(path: Path, message: Message) -> None:
    """Put a message into the outbox; where one with its id is, channels that have it keep it, and others get this one.

    Args:
        path: The outbox' file.
        message: What is to be told.

    Raises:
        RunError: The outbox is damaged.
    """
    with _WRITING:
        outbox = {each.id: each for each in read_outbox(path)}
        if earlier := outbox.get(message.id):
            message = dataclasses.replace(message, delivered={**message.delivered, **earlier.delivered})
        _write_outbox(path, tuple({**outbox, message.id: message}.values()))


def deliver(
    path: Path, channels: Sequence[Channel], *, pauses: Sequence[float] = PAUSES, deadline: float = DEADLINE
) -> dict[str, str]:
    """Send each message of an outbox to each channel that still waits for it; what fails stays in the outbox.

    Args:
        path: The outbox' file.
        channels: Where messages go.
        pauses: Seconds before the second and every later try.
        deadline: Seconds after which what has not been taken counts as failed.

    Returns:
        For each channel that a message waited for what went wrong; "" when it has all messages.

    Raises:
        RunError: The outbox is damaged.
    """
    outbox, end = _find_files(read_outbox(path), path.parent), time.monotonic() + deadline
    answers: SimpleQueue[tuple[str, str, str]] = SimpleQueue()
    waiting = {c.name: [m for m in outbox if m.delivered.get(c.name, "") is None] for c in channels}
    missing = {name: {message.id for message in messages} for name, messages in waiting.items() if messages}
    problems = dict.fromkeys(missing, "")
    for channel in channels:
        if channel.name in missing:
            _start(channel, waiting[channel.name], pauses, end, answers)
    while any(missing.values()):
        try:
            name, message, problem = answers.get(timeout=max(end - time.monotonic(), 0))
        except Empty:
            break
        missing[name].discard(message)
        problems[name] = problem or problems[name]
        if not problem:
            _mark(path, message, name)
    late = f"it did not take the message within {deadline:g} seconds"
    return {name: problem or (late if missing[name] else "") for name, problem in problems.items()}


def _find_files(outbox: Sequence[Message], folder: Path) -> list[Message]:
    return [dataclasses.replace(m, files=tuple(str(folder / file) for file in m.files)) for m in outbox]


def _start(
    channel: Channel,
    messages: Sequence[Message],
    pauses: Sequence[float],
    end: float,
    answers: "SimpleQueue[tuple[str, str, str]]",
) -> None:
    """Serve a channel in a thread that may be left behind; one that hangs since the last time gets no second."""

    def serve() -> None:
        for message in messages:
            answers.put((channel.name, message.id, _try(channel, message, pauses=pauses, end=end)))

    name = f"notify {channel.name}"
    earlier = [thread for thread in threading.enumerate() if thread.name == name]
    for thread in earlier:
        # One that has given its last answer needs a moment to end.
        thread.join(ENDING)
    if not any(thread.is_alive() for thread in earlier):
        threading.Thread(target=serve, name=name, daemon=True).start()
        return
    for message in messages:
        answers.put((channel.name, message.id, "it has not ended the last delivery yet"))


def _try(channel: Channel, message: Message, *, pauses: Sequence[float], end: float) -> str:
    problem = "no time was left for it"
    for pause in (0.0, *pauses):
        if time.monotonic() + pause > end:
            break
        time.sleep(pause)
        problem = _send(channel, message)
        if not problem:
            break
    return problem


def _send(channel: Channel, message: Message) -> str:
    sender = apprise.Apprise(asset=ASSET)
    service = _make_service(channel.address, message)
    sender.add(service or [])
    rich = bool(message.html) and service is not None and service.schema in MAIL
    result = sender.notify(
        body=message.html if rich else message.body,
        title=message.title,
        body_format=apprise.NotifyFormat.HTML if rich else apprise.NotifyFormat.TEXT,
        notify_type="info" if message.html else "warning",
        attach=[AttachFile(file) for file in message.files] if rich else None,
    )
    if result:
        return ""
    said = " ".join(entry.message for entry in result.logs())
    if code := re.search(r"error=(\d{3})\b", said):
        known = int(code[1]) in HTTPStatus.__members__.values()
        return f"it answered {code[1]}" + (f" ({HTTPStatus(int(code[1])).phrase})" if known else "")
    if "onnection error" in said:
        return "it could not be reached or did not answer in time"
    return "it did not take the message"


def _make_service(address: str, message: Message | None = None) -> apprise.NotifyBase | None:
    """Read an address; one that apprise can't read gives None."""
    parts = url_to_dict(address, secure_logging=True)
    if not parts:
        return None
    # What a channel takes at once is limited, and what failed must never count as delivered.
    # A page of HTML that is split is none any more; mail takes it whole.
    whole = message is not None and message.html and parts["schema"] in MAIL
    parts = {"overflow": "upstream" if whole else "split", **parts, "optional": "no"}
    if message and parts["schema"] in {"json", "jsons"}:
        parts["payload"] = {**parts["payload"], "message_id": message.id, "alert_ids": list(message.alerts)}
    return apprise.Apprise.instantiate(parts, asset=ASSET)


def _word_message(alerts: pd.DataFrame, *, title: str, channels: Sequence[str]) -> Message:
    alerts = alerts.sort_values("severity", key=lambda column: column.map(SEVERITIES.index), kind="stable")
    count, critical = len(alerts), int((alerts["severity"] == "critical").sum())
    lines = [_word_alert(alert) for alert in alerts.head(MOST_LINES).to_dict("records")]
    lines += [f"{count - MOST_LINES} more are in the report."] if count > MOST_LINES else []
    ids = tuple(alerts["id"])
    number = hashlib.sha256(" ".join(sorted(ids)).encode()).hexdigest()[:16]
    return Message(
        id=number,
        title=f"{flatten(title)}: {count} new alert{'s' if count > 1 else ''}"
        + (f" ({critical} critical)" if critical else ""),
        body="\n".join([*lines, f"Message {number}"]),
        alerts=ids,
        created=tell_time(),
        delivered=dict.fromkeys(channels),
    )


def _word_alert(alert: Mapping[Hashable, Any]) -> str:
    owner = f" Owner: {flatten(alert['owner'])}." if isinstance(alert["owner"], str) and alert["owner"] else ""
    said = " · ".join(flatten(alert[name]) for name in ("severity", "segment", "evidence"))
    return f"{said}{owner} [{alert['id']}]"


def flatten(text: object) -> str:
    """Keep a text on one line: line breaks from data would end a mail's header or an alert's line."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())


def _drop_old(outbox: tuple[Message, ...], open_alerts: set[str]) -> tuple[Message, ...]:
    """Forget delivered messages but the newest and those of open alerts, which would be told again."""
    return tuple(m for m in outbox[:-MOST_KEPT] if m.waits or open_alerts & {*m.alerts}) + outbox[-MOST_KEPT:]


def _mark(path: Path, message: str, channel: str) -> None:
    """Note a delivery at once: a process that is killed after it does not send again."""
    with _WRITING:
        marked = (
            dataclasses.replace(m, delivered={**m.delivered, channel: tell_time()}) if m.id == message else m
            for m in read_outbox(path)
        )
        _write_outbox(path, tuple(marked))


def _write_outbox(path: Path, messages: tuple[Message, ...]) -> None:
    entries = [dataclasses.asdict(message) for message in messages]
    write_text(path, json.dumps({"messages": entries}, indent=1, ensure_ascii=False) + "\n")
