import contextlib
import json
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from convlib.errors import RunError
from convlib.notify import (
    MOST_KEPT,
    Channel,
    Message,
    deliver,
    find_channel_problem,
    queue_message,
    read_channels,
    read_outbox,
)

COLUMNS = ["id", "severity", "segment", "evidence", "owner", "still_open"]
ALERTS = pd.DataFrame(
    [
        ("a1", "warning", "all", "Purchase fell to 2.1% of 900.", "web-team", True),
        ("b2", "critical", "device: mobile", "Checkout stands still.", "", True),
        ("c3", "info", "all", "A note.", "", True),
        ("d4", "critical", "all", "It is over.", "", False),
    ],
    columns=COLUMNS,
)


@dataclass
class Receiver:
    """A webhook on loopback: it answers each request with the next of `answers`, then with 200."""

    address: str = ""
    answers: list[int | str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def receive(*answers: int | str) -> Iterator[Receiver]:
    receiver = Receiver(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = receiver.answers.pop(0) if receiver.answers else 200
            if isinstance(answer, str):
                drip(self, seconds=20 if answer == "drip" else 0)
                return
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    receiver.address = f"json://127.0.0.1:{server.server_port}/hook"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


def drip(handler: BaseHTTPRequestHandler, *, seconds: int) -> None:
    """Answer one byte a second, so that no read times out, and never end."""
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        for _ in range(seconds):
            handler.wfile.write(b"x")
            time.sleep(1)


class Mailbox(socketserver.ThreadingTCPServer):
    """An SMTP server that takes everything."""

    daemon_threads = True

    def __init__(self) -> None:
        self.letters: list[bytes] = []
        super().__init__(("127.0.0.1", 0), Post)


class Post(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self.reply("220 here")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self.reply("354 go on")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                self.server.letters.append(b"".join(lines))
            self.reply(
                {b"EHLO": "250-here\r\n250 AUTH PLAIN", b"AUTH": "235 ok", b"QUIT": "221 bye"}.get(verb, "250 ok")
            )

    def reply(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    return tmp_path / "outbox.json"


def queue(path: Path, *channels: str, alerts: pd.DataFrame = ALERTS, **options: str) -> Message | None:
    return queue_message(path, alerts, title=options.pop("title", "Weekly"), channels=channels or ("HOOK",), **options)


def send(path: Path, address: str, *, name: str = "HOOK", deadline: float = 20) -> dict[str, str]:
    return deliver(path, [Channel(name, address)], pauses=(0.05, 0.1), deadline=deadline)


def test_queue_message_words_all_new_alerts_in_one_message_the_worst_first(outbox: Path) -> None:
    message = queue(outbox)
    assert message
    assert message.title == "Weekly: 2 new alerts (1 critical)"
    assert message.body.splitlines() == [
        "critical · device: mobile · Checkout stands still. [b2]",
        "warning · all · Purchase fell to 2.1% of 900. Owner: web-team. [a1]",
        f"Message {message.id}",
    ]
    assert message.alerts == ("b2", "a1")
    assert message.delivered == {"HOOK": None}
    assert read_outbox(outbox) == (message,)


def test_queue_message_tells_an_alert_once(outbox: Path) -> None:
    queue(outbox, alerts=ALERTS.iloc[:1])
    second = queue(outbox)
    assert second
    assert (second.title, second.alerts) == ("Weekly: 1 new alert (1 critical)", ("b2",))
    assert queue(outbox) is None
    third = queue(outbox, severity="info")
    assert third
    assert third.alerts == ("c3",)


def test_queue_message_needs_somebody_to_tell(outbox: Path) -> None:
    assert queue_message(outbox, ALERTS, title="Weekly", channels=()) is None
    assert not outbox.exists()


def test_queue_message_keeps_texts_from_data_on_one_line(outbox: Path) -> None:
    row = pd.DataFrame([("a1", "warning", "x\r\nBcc: all", "One.\u2028Two.", None, True)], columns=COLUMNS)
    message = queue(outbox, alerts=row, title="Week\nly")
    assert message
    assert message.title == "Week ly: 1 new alert"
    assert message.body == f"warning · x Bcc: all · One. Two. [a1]\nMessage {message.id}"


def test_queue_message_spells_out_forty_alerts_and_counts_the_rest(outbox: Path) -> None:
    many = pd.DataFrame([(f"id{i}", "info", "all", "Down.", "", True) for i in range(42)], columns=COLUMNS)
    message = queue(outbox, alerts=many, severity="info")
    assert message
    assert len(message.alerts) == 42
    assert message.body.splitlines()[39:] == [
        "info · all · Down. [id39]",
        "2 more are in the report.",
        f"Message {message.id}",
    ]


def test_queue_message_forgets_old_messages_but_waiting_ones_and_those_of_open_alerts(outbox: Path) -> None:
    def entry(alert: str, delivered: str | None) -> dict[str, object]:
        fixed = {"title": "t", "body": "b", "created": "2026-01-01T00:00:00+00:00"}
        return {"id": f"m-{alert}", "alerts": [alert], "delivered": {"HOOK": delivered}, **fixed}

    old = [entry("gone", "2026-01-01"), entry("waits", None), entry("c3", "2026-01-01")]
    newer = [entry(f"n{i}", "2026-01-01") for i in range(MOST_KEPT)]
    outbox.write_text(json.dumps({"messages": old + newer}))
    queue(outbox)
    kept = [message.id for message in read_outbox(outbox)]
    assert kept[:3] == ["m-waits", "m-c3", "m-n0"]
    assert len(kept) == MOST_KEPT + 3


def test_deliver_gives_a_webhook_the_text_and_the_ids(outbox: Path) -> None:
    message = queue(outbox)
    assert message
    with receive() as receiver:
        assert send(outbox, receiver.address) == {"HOOK": ""}
        assert send(outbox, receiver.address) == {}
    [got] = receiver.bodies
    assert (got["title"], got["message"]) == (message.title, message.body)
    assert (got["message_id"], got["alert_ids"]) == (message.id, ["b2", "a1"])
    assert read_outbox(outbox)[0].delivered["HOOK"]


def test_deliver_tries_three_times(outbox: Path) -> None:
    queue(outbox)
    with receive(500, 503) as receiver:
        assert send(outbox, receiver.address) == {"HOOK": ""}
    assert len(receiver.bodies) == 3


def test_deliver_keeps_what_failed_for_the_next_run_with_the_same_ids(outbox: Path) -> None:
    queue(outbox)
    with receive(500, 500, 500) as receiver:
        assert send(outbox, receiver.address) == {"HOOK": "it answered 500 (Internal Server Error)"}
        assert read_outbox(outbox)[0].delivered == {"HOOK": None}
        assert send(outbox, receiver.address) == {"HOOK": ""}
    assert len({(body["message_id"], *body["alert_ids"]) for body in receiver.bodies}) == 1


def test_deliver_says_that_nobody_is_there(outbox: Path) -> None:
    queue(outbox)
    with receive() as receiver:
        pass
    assert send(outbox, receiver.address) == {"HOOK": "it could not be reached or did not answer in time"}


def test_deliver_does_not_wait_for_ever_and_other_channels_get_theirs(outbox: Path) -> None:
    queue(outbox, "SLOW", "FAST")
    with receive("drip") as slow, receive() as fast:
        channels = [Channel("SLOW", slow.address), Channel("FAST", fast.address)]
        began = time.monotonic()
        problems = deliver(outbox, channels, deadline=1.5)
        assert time.monotonic() - began < 4
        assert problems == {"SLOW": "it did not take the message within 1.5 seconds", "FAST": ""}
        again = deliver(outbox, channels, deadline=1.5)
        assert again == {"SLOW": "it has not ended the last delivery yet"}
        assert (len(slow.bodies), len(fast.bodies)) == (1, 1)
    assert {name for name, at in read_outbox(outbox)[0].delivered.items() if at} == {"FAST"}


def test_a_hanging_receiver_does_not_hold_the_process(outbox: Path) -> None:
    queue(outbox)
    with receive("drip") as receiver:
        code = (
            "import sys, pathlib; from convlib.notify import Channel, deliver\n"
            "print(deliver(pathlib.Path(sys.argv[1]), [Channel('HOOK', sys.argv[2])], deadline=1))"
        )
        command = [sys.executable, "-c", code, str(outbox), receiver.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
    assert done.stdout == "{'HOOK': 'it did not take the message within 1 seconds'}\n"
    assert done.stderr == ""


def test_a_message_of_a_killed_process_is_sent_by_the_next_with_the_same_ids(outbox: Path) -> None:
    code = (
        "import os, sys, pathlib, pandas as pd; from convlib.notify import queue_message\n"
        "table = pd.read_json(sys.argv[2])\n"
        "queue_message(pathlib.Path(sys.argv[1]), table, title='Weekly', channels=['HOOK'])\n"
        "os.kill(os.getpid(), 9)"
    )
    rows = outbox.with_name("rows.json")
    ALERTS.to_json(rows)
    killed = subprocess.run([sys.executable, "-c", code, str(outbox), str(rows)], timeout=60)
    assert killed.returncode == -9
    assert queue(outbox) is None
    with receive() as receiver:
        assert send(outbox, receiver.address) == {"HOOK": ""}
    assert [body["alert_ids"] for body in receiver.bodies] == [["b2", "a1"]]


def test_deliver_sends_mail_that_reads_as_it_was_written(outbox: Path) -> None:
    hostile = ALERTS.iloc[:1].assign(evidence="Rate of <b>*x*</b> & _y_ fell.")
    message = queue(outbox, "MAIL", alerts=hostile, title="Weekly <b>")
    assert message
    with Mailbox() as mailbox:
        threading.Thread(target=mailbox.serve_forever, daemon=True).start()
        port = mailbox.server_address[1]
        address = (
            f"mailto://me:secret@example.com:{port}?smtp=127.0.0.1&mode=insecure&from=me@example.com&to=you@example.org"
        )
        assert send(outbox, address, name="MAIL") == {"MAIL": ""}
        mailbox.shutdown()
    [letter] = [message_from_bytes(raw, policy=default) for raw in mailbox.letters]
    assert letter["Subject"] == "Weekly <b>: 1 new alert"
    assert letter["To"] == "you@example.org"
    assert letter.get_content_type() == "text/plain"
    assert letter.get_content().splitlines() == message.body.splitlines()


def test_read_channels_takes_addresses_from_the_environment_and_never_shows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOOK", " json://user:secret@127.0.0.1/x ")
    assert read_channels(["HOOK"]) == (Channel("HOOK", "json://user:secret@127.0.0.1/x"),)
    assert repr(read_channels(["HOOK"])) == "(Channel(name='HOOK'),)"


def test_read_channels_lists_every_problem_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.setenv("WRONG", "slakc://secret")
    monkeypatch.setenv("TWO", "json://secret, json://other")
    with pytest.raises(RunError) as caught:
        read_channels(["UNSET", "WRONG", "TWO"])
    assert caught.value.problems == (
        "the environment variable UNSET is not set. Set it to an apprise address, or remove it from `notify`.",
        "the environment variable WRONG holds no address that apprise can read. Write it as slack://…, mailtos://…, "
        "workflows://… or jsons://…; docs/alerts.md shows each.",
        "the environment variable TWO holds several addresses. Give each a variable of its own.",
    )


@pytest.mark.parametrize(
    "address",
    [
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general",
        "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        "mailtos://me:secret@example.com?to=a@example.com,b@example.com",
        "jsons://example.com/hook?+Authorization=secret",
    ],
)
def test_find_channel_problem_takes_what_the_guide_shows(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HOOK", address)
    assert find_channel_problem("HOOK") == ""


def test_read_outbox_says_what_to_do_with_a_damaged_file(outbox: Path) -> None:
    outbox.write_text("[]")
    with pytest.raises(RunError) as caught:
        read_outbox(outbox)
    assert str(caught.value) == (
        f"{outbox} can't be read as an outbox: TypeError: list indices must be integers or slices, not str. Restore "
        "it, or delete it: open alerts are then sent once more, with the ids they have."
    )
