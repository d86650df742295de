import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

import fsspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from fsspec.implementations.local import LocalFileSystem
from reports_project import PARAMETERS, RUN, write_notebook, write_project
from test_notify import receive
from typer.testing import CliRunner

from convlib.cli import app
from convlib.errors import ParamError, RunError
from convlib.files import remove_folder, write_text
from convlib.reports import delivery
from convlib.reports.delivery import check_delivery, deliver_audiences, report_failure, upload_folder
from convlib.reports.manifest import Manifest, Report
from convlib.reports.planning import start_manifest
from convlib.reports.preparation import Preparation, prepare_run
from convlib.reports.run_file import read_run_file

SECRET = "hunter2-and-more"
PDF = b"%PDF-1.7 not a real one"


class Mailbox:
    """Keeps what it gets, as a mail program reads it."""

    def __init__(self) -> None:
        self.letters: list[EmailMessage] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        letter = message_from_bytes(envelope.content, policy=default)
        assert isinstance(letter, EmailMessage)
        self.letters.append(letter)
        return "250 OK"


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    box = Mailbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Controller(
        box,
        hostname="127.0.0.1",
        port=port,
        authenticator=lambda *_: AuthResult(success=True),
        auth_require_tls=False,
    )
    server.start()
    monkeypatch.setenv(
        "BOARD",
        f"mailto://me:{SECRET}@example.com:{port}?smtp=127.0.0.1&mode=insecure&from=me@example.com&to=you@example.org",
    )
    yield box
    server.stop()


class Project:
    """A run with one report, whose pages lie there as a finished run leaves them."""

    def __init__(self, folder: Path, audiences: str) -> None:
        self.folder = folder
        self.run_file = write_project(folder, run=f"{RUN}{audiences}", overview="1")
        parameters = f"{PARAMETERS}fewest: int = 0\n"
        write_notebook(folder / "notebooks" / "overview.ipynb", "1", parameters=parameters)
        self.preparation: Preparation = prepare_run(self.run_file)

    def place(self, period: str = "2024-03-01_2024-03-10") -> Path:
        return self.folder / "reports" / "shop" / period

    def finish(self, *, status: str = "made", period: str = "2024-03-01_2024-03-10", pdf: bool = True) -> Manifest:
        """Write the period's folder, with everybody's files, and give its record."""
        place = self.place(period)
        reports = []
        for audience, base in (("", ""), ("stakeholder", "private/stakeholder/")):
            where = f"{base}all"
            fixed = {"key": "k", "parameters": {}, "ipynb": f"{where}/overview.ipynb", "seconds": 1.0}
            pages = {"html": f"{where}/overview.html", "tables": f"{where}/tables/overview"}
            made = Report(segment="all", notebook="overview", title="Overview", **fixed, **pages)  # type: ignore[arg-type]
            reports.append(replace(made, audience=audience, status=status))  # type: ignore[arg-type]
            told = {"units": 4, "takeaways": [f"{'25%' if audience else '1 of 4'} bought."]}
            write_text(place / pages["tables"] / "takeaways.json", json.dumps(told))
            write_text(place / pages["html"], "<p>page</p>")
        for audience in ("analyst", "stakeholder"):
            own = place / "audiences" / audience
            write_text(own / "index.html", "<p>index</p>")
            write_text(own / "all" / "overview.html", "<p>page</p>")
            if pdf:
                (own / "all" / "overview.pdf").write_bytes(PDF)
        start, end = period.split("_")
        manifest = replace(start_manifest(self.preparation), period=(start, end), reports=tuple(reports))
        return manifest.finish(status="complete" if status == "made" else "incomplete", seconds=1.0)

    def deliver(self, manifest: Manifest) -> tuple[str, ...]:
        return deliver_audiences(self.place("_".join(manifest.period)), manifest, self.preparation)


def test_deliver_audiences_mails_the_summary_inline_with_the_pdf(tmp_path: Path, mailbox: Mailbox) -> None:
    project = Project(tmp_path, "audiences: {stakeholder: {formats: [html, pdf], recipients: [BOARD]}}\n")
    assert project.deliver(project.finish()) == ()
    [letter] = mailbox.letters
    assert letter["Subject"] == "Shop, weekly, 1 March 2024 to 10 March 2024"
    assert (letter["From"], letter["To"]) == ("me@example.com", "you@example.org")
    html, plain = letter.get_body(("html",)), letter.get_body(("plain",))
    assert html is not None
    assert plain is not None
    assert "25% bought." in html.get_content()
    assert "25% bought." in plain.get_content()
    # The analyst's sentence, with its small count, is not the stakeholder's.
    assert "1 of 4" not in letter.as_string()
    [attached] = letter.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("overview.pdf", "application/pdf")
    assert attached.get_content() == PDF


def test_deliver_audiences_gives_a_chat_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project_text = "audiences: {analyst: {recipients: [HOOK]}}\n"
    with receive() as receiver:
        monkeypatch.setenv("HOOK", receiver.address)
        project = Project(tmp_path, project_text)
        assert project.deliver(project.finish()) == ()
    [told] = receiver.bodies
    assert told["title"] == "Shop, weekly, 1 March 2024 to 10 March 2024"
    assert "1 of 4 bought." in told["message"]
    assert "<" not in told["message"]
    assert told["attachments"] == []


def test_deliver_audiences_sends_nothing_twice_and_what_failed_at_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receive(400, 400, 400) as receiver:
        monkeypatch.setenv("HOOK", receiver.address)
        project = Project(tmp_path, "audiences: {analyst: {recipients: [HOOK]}}\n")
        first = project.finish()
        monkeypatch.setattr("convlib.notify.PAUSES", (0.01, 0.01))
        assert project.deliver(first) == (
            "HOOK: it answered 400 (Bad Request). The message of 2024-03-01_2024-03-10 is kept and sent again at the "
            "next run.",
        )
        # The next run is of the next period: it sends its own message and the earlier one, and then nothing more.
        assert project.deliver(project.finish(period="2024-03-11_2024-03-20")) == ()
        assert project.deliver(first) == ()
    titles = [body["title"] for body in receiver.bodies[3:]]
    assert titles == [
        "Shop, weekly, 11 March 2024 to 20 March 2024",
        "Shop, weekly, 1 March 2024 to 10 March 2024",
    ]


def test_deliver_audiences_holds_back_what_is_incomplete_and_tells_who_gets_alerts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "alerts: {notify: [HOOK]}\naudiences: {analyst: {recipients: [TEAM], upload: [SHARE]}}\n"
    with receive() as hook, receive() as team:
        monkeypatch.setenv("HOOK", hook.address)
        monkeypatch.setenv("TEAM", team.address)
        monkeypatch.setenv("SHARE", str(tmp_path / "share"))
        project = Project(tmp_path, text)
        failed = project.finish(status="failed")
        held = "analyst: 1 of 1 of its reports are not made, so nothing was sent to it. Continue with --resume."
        assert [project.deliver(failed) for _ in range(2)] == [(held,), (held,)]
        assert (len(hook.bodies), len(team.bodies)) == (1, 0)
        assert project.deliver(project.finish()) == ()
    assert (len(hook.bodies), len(team.bodies)) == (1, 1)
    [told] = hook.bodies
    assert told["title"] == "Shop, weekly, 1 March 2024 to 10 March 2024: 0 of 2 reports made, 2 incomplete"
    assert told["message"] == "Not made: all/overview, all/overview. Continue with --resume."
    assert (tmp_path / "share").exists()


def list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_deliver_audiences_uploads_an_audiences_folder_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "share"
    monkeypatch.setenv("SHARE", str(share))
    project = Project(tmp_path, "audiences: {stakeholder: {upload: [SHARE]}}\n")
    assert project.deliver(project.finish()) == ()
    own = "shop/2024-03-01_2024-03-10/stakeholder"
    assert list_files(share) == [f"{own}/all/overview.html", f"{own}/all/overview.pdf", f"{own}/index.html"]


def test_deliver_audiences_uploads_again_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "share"
    monkeypatch.setenv("SHARE", str(share))
    project = Project(tmp_path, "audiences: {stakeholder: {upload: [SHARE]}}\n")
    manifest = project.finish()
    project.deliver(manifest)
    page = share / "shop/2024-03-01_2024-03-10/stakeholder/index.html"
    page.write_text("looked at")
    project.deliver(manifest)
    assert page.read_text() == "looked at"
    write_text(project.place() / "audiences/stakeholder/all/overview.html", "<p>new</p>")
    project.deliver(manifest)
    assert page.read_text() == "<p>index</p>"


def test_deliver_audiences_tries_an_upload_again_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / f"share-{SECRET}"
    share.write_text("a file where a folder should be")
    monkeypatch.setenv("SHARE", str(share))
    project = Project(tmp_path, "audiences: {analyst: {upload: [SHARE]}}\n")
    assert project.deliver(project.finish()) == (
        "SHARE: the folder of analyst for 2024-03-01_2024-03-10 could not be uploaded: NotADirectoryError (Not a "
        "directory). It is tried again at the next run.",
    )
    share.unlink()
    assert project.deliver(project.finish(period="2024-03-11_2024-03-20")) == ()
    assert sorted(path.name for path in (share / "shop").iterdir()) == [
        "2024-03-01_2024-03-10",
        "2024-03-11_2024-03-20",
    ]


def test_deliver_audiences_does_not_wait_for_ever_for_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setenv("SHARE", str(tmp_path / "share"))
    monkeypatch.setattr(LocalFileSystem, "put_file", lambda *_, **__: ended.wait(20))
    monkeypatch.setattr(delivery, "DEADLINE", 0.5)
    project = Project(tmp_path, "audiences: {analyst: {upload: [SHARE]}}\n")
    began = time.monotonic()
    [note] = project.deliver(project.finish())
    ended.set()
    assert time.monotonic() - began < 5
    assert note == (
        "SHARE: the folder of analyst for 2024-03-01_2024-03-10 could not be uploaded: it did not take the files "
        "within 0.5 seconds. It is tried again at the next run."
    )


def test_upload_folder_puts_the_index_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("index.html", "all/a.html", "zebra/z.html"):
        write_text(tmp_path / "own" / name, name)
    put: list[str] = []
    monkeypatch.setattr(LocalFileSystem, "put_file", lambda _, __, target: put.append(Path(target).name))
    upload_folder(tmp_path / "own", str(tmp_path / "share"), "shop/week/analyst")
    assert put == ["a.html", "z.html", "index.html"]


def test_upload_folder_removes_what_an_earlier_upload_left_and_touches_nothing_else(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    write_text(tmp_path / "own" / "index.html", "new")
    store.pipe({"/up/shop/week/analyst/old.html": b"old", "/up/shop/week/analyst2/x.html": b"", "/up/mine.txt": b""})
    upload_folder(tmp_path / "own", "memory://up", "shop/week/analyst")
    assert store.find("/up") == ["/up/mine.txt", "/up/shop/week/analyst/index.html", "/up/shop/week/analyst2/x.html"]
    assert store.cat("/up/shop/week/analyst/index.html") == b"new"


def test_upload_folder_does_not_follow_links_out_of_the_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "private.txt", "private")
    write_text(tmp_path / "own" / "index.html", "index")
    (tmp_path / "own" / "link.txt").symlink_to(tmp_path / "private.txt")
    upload_folder(tmp_path / "own", str(tmp_path / "share"), "shop")
    assert list_files(tmp_path / "share") == ["shop/index.html"]


def test_check_delivery_lists_every_problem_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(protocol: str) -> None:
        raise ImportError(f"Install it for {SECRET}") if protocol == "s3" else ValueError

    monkeypatch.setattr("fsspec.get_filesystem_class", find)
    monkeypatch.setenv("WRONG", f"slakc://{SECRET}")
    monkeypatch.setenv("BUCKET", f"s3://{SECRET}")
    monkeypatch.setenv("ODD", f"odd://{SECRET}")
    monkeypatch.delenv("UNSET", raising=False)
    text = "audiences:\n  analyst: {recipients: [UNSET]}\n  stakeholder:\n    recipients: [WRONG]\n"
    path = tmp_path / "weekly.yaml"
    path.write_text(f"run: shop\nevents: e.csv\nplan: plan.yaml\n{text}    upload: [BUCKET, ODD, UNSET]\n")
    with pytest.raises(RunError) as caught:
        check_delivery(read_run_file(path))
    assert [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems] == [
        "weekly.yaml:5: the environment variable UNSET is not set. Set it to an apprise address, or remove it from "
        "`recipients`.",
        "weekly.yaml:7: the environment variable WRONG holds no address that apprise can read. Write it as slack://…, "
        "mailtos://…, workflows://… or jsons://…; docs/alerts.md shows each.",
        "weekly.yaml:8: the environment variable BUCKET holds a s3:// address, for which a package is missing. Install "
        "s3fs, or give another address.",
        "weekly.yaml:8: the environment variable ODD holds no address that fsspec can write to. Write it as a folder, "
        "or as s3://…, gs://… or abfs://…; docs/schedules.md shows each.",
        "weekly.yaml:8: the environment variable UNSET is not set. Set it to a folder or an address such as "
        "s3://bucket/reports, or remove it from `upload`.",
    ]


def test_prepare_run_finds_places_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARE", raising=False)
    with pytest.raises(RunError, match="the environment variable SHARE is not set"):
        Project(tmp_path, "audiences: {analyst: {upload: [SHARE]}}\n")


def test_report_failure_tells_who_gets_alerts_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receive() as receiver:
        monkeypatch.setenv("HOOK", receiver.address)
        run_file = write_project(tmp_path, run=f"{RUN}alerts: {{notify: [HOOK]}}\n")
        assert report_failure(run_file, ParamError("The data\nend too early.", "Other.")) == ()
    [told] = receiver.bodies
    assert told["title"] == "Shop, weekly: the reports were not made"
    assert told["message"] == "The data end too early. (1 more: convlib check)"


def test_a_run_that_cannot_start_tells_who_gets_alerts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receive() as receiver:
        monkeypatch.setenv("HOOK", receiver.address)
        run_file = write_project(tmp_path, run=f"{RUN}alerts: {{notify: [HOOK]}}\nfresh: 3D\n")
        made = CliRunner().invoke(app, ["run", str(run_file), "--reports", str(tmp_path / "reports")])
        assert made.exit_code == 2
        CliRunner().invoke(app, ["run", str(run_file), "--list"])
    [told] = receiver.bodies
    assert told["message"].startswith(f"{run_file}:8: the data end on 2024-03-31 10:00 UTC, ")
    assert not (tmp_path / "reports").exists()


def test_report_failure_tells_nobody_when_the_run_file_cannot_be_read(tmp_path: Path) -> None:
    assert report_failure(tmp_path / "none.yaml", RunError("It does not exist.")) == ()


def test_no_secret_is_written_or_shown(
    tmp_path: Path,
    mailbox: Mailbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    text = "audiences: {analyst: {recipients: [BOARD, HOOK, GONE], upload: [FULL, DOWN]}}\n"
    with receive(500, 500, 500) as receiver:
        base = receiver.address.replace("json://", f"json://me:{SECRET}@")
        monkeypatch.setenv("HOOK", f"{base}?+Authorization={SECRET}")
        monkeypatch.setenv("GONE", f"json://me:{SECRET}@127.0.0.1:1/x")
        monkeypatch.setenv("FULL", f"{tmp_path}/{SECRET}")
        monkeypatch.setenv("DOWN", f"ftp://me:{SECRET}@127.0.0.1:1/x")
        monkeypatch.setattr("convlib.notify.PAUSES", (0.01, 0.01))
        (tmp_path / SECRET).write_text("a file where a folder should be")
        project = Project(tmp_path / "project", text)
        notes = project.deliver(project.finish())
    assert len(mailbox.letters) == 1
    assert sorted(note.partition(":")[0] for note in notes) == ["DOWN", "FULL", "GONE", "HOOK"]
    written = [path.read_bytes() for path in (tmp_path / "project").rglob("*") if path.is_file()]
    shown = "".join(capfd.readouterr())
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("convlib")]
    assert SECRET not in "".join([*notes, shown, *logged, repr(project.preparation)])
    assert all(SECRET.encode() not in content for content in written)


def test_deliver_audiences_leaves_alone_what_the_run_file_no_longer_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "share"
    share.write_text("a file where a folder should be")
    monkeypatch.setenv("SHARE", str(share))
    monkeypatch.setenv("OTHER", str(tmp_path / "other"))
    project = Project(tmp_path, "audiences: {analyst: {upload: [SHARE]}, stakeholder: {upload: [SHARE]}}\n")
    assert len(project.deliver(project.finish())) == 2
    share.unlink()
    project.run_file.write_text(f"{RUN}audiences: {{analyst: {{upload: [OTHER]}}}}\n")
    project.preparation = prepare_run(project.run_file)
    assert project.deliver(project.finish(period="2024-03-11_2024-03-20")) == ()
    assert not share.exists()
    assert sorted(path.name for path in (tmp_path / "other" / "shop").iterdir()) == ["2024-03-11_2024-03-20"]


def test_deliver_audiences_empties_no_place_for_a_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "share"
    monkeypatch.setenv("SHARE", str(share))
    project = Project(tmp_path, "audiences: {analyst: {upload: [SHARE]}}\n")
    assert project.deliver(project.finish()) == ()
    known = list_files(share)
    (project.place() / "uploads.json").write_text('{"analyst": {"SHARE": ""}}')
    remove_folder(project.place() / "audiences" / "analyst")
    assert project.deliver(project.finish(period="2024-03-11_2024-03-20")) == ()
    assert [name for name in list_files(share) if "2024-03-01" in name] == known


def test_deliver_audiences_is_not_held_back_by_a_notebook_of_a_like_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARE", str(tmp_path / "share"))
    project = Project(tmp_path, "audiences: {analyst: {notebooks: [overview], upload: [SHARE]}}\n")
    write_notebook(project.folder / "notebooks" / "overview_b2b.ipynb", "1")
    project.preparation = prepare_run(project.run_file)
    manifest = project.finish()
    other = replace(manifest.reports[0], notebook="overview_b2b", status="failed")
    assert project.deliver(replace(manifest, reports=(*manifest.reports, other))) == ()
    assert (tmp_path / "share").exists()
