import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from source_files import ROWS, read_lines, refuse, save_parquet, write, write_csv, write_mapping, write_plan

from convlib.errors import EventDataError, ParamError
from convlib.events import EventLog, read_events
from convlib.identity import HASH_KEY, read_identities

#: Three devices and two people: a's second device, and a that signed up again as b.
LINES = ["a1,view,2026-01-01", "a2,view,2026-01-02", "ann,buy,2026-01-03", "b1,view,2026-01-04"]
HEADER = "user_id,event_name,timestamp"
KEY = "a key that nobody guesses"


def pair(*pairs: str) -> pd.DataFrame:
    """Write who is who: `a1 ann` is the anonymous id a1 of the user ann."""
    return pd.DataFrame([each.split() for each in pairs], columns=["anonymous_id", "user_id"])


def users(log: EventLog) -> list[str]:
    """Give the user of every row, in order of time."""
    return log.to_pandas().sort_values("timestamp", kind="stable")["user_id"].tolist()


def follow(table: pd.DataFrame) -> dict[str, str]:
    found = read_identities(table)
    assert found is not None
    return dict(zip(found["anonymous_id"], found["user_id"], strict=True))


def refuse_table(table: pd.DataFrame | Path) -> EventDataError:
    with pytest.raises(EventDataError) as caught:
        read_identities(table)
    return caught.value


def test_join_identities_gives_rows_to_the_user_before_anything_is_counted() -> None:
    log = read_lines(HEADER, *LINES, identity=pair("a1 ann", "a2 ann", "unseen ann"))
    assert users(log) == ["ann", "ann", "ann", "b1"]
    assert len(log.entries()) == 2
    assert log.to_pandas()["session_id"].tolist() == ["ann:1", "ann:2", "ann:3", "b1:1"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_read_identities_takes_a_file(suffix: str, tmp_path: Path) -> None:
    path, table = tmp_path / f"who.{suffix}", pair("a1 ann")
    table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path)
    assert users(read_lines(HEADER, *LINES, identity=path)) == ["ann", "a2", "ann", "b1"]


def test_read_identities_takes_the_file_that_a_mapping_names(tmp_path: Path) -> None:
    pair("a1 ann").to_csv(tmp_path / "who.csv", index=False)
    mapping = write_mapping(tmp_path, "identity: who.csv\n")
    assert users(read_lines(HEADER, *LINES, mapping=mapping)) == ["ann", "a2", "ann", "b1"]
    assert users(read_lines(HEADER, *LINES, mapping=mapping, identity=pair("a2 ann"))) == ["a1", "ann", "ann", "b1"]


def test_read_identities_follows_chains_to_their_end() -> None:
    assert follow(pair("a b", "b c", "c d", "x y")) == {"a": "d", "b": "d", "c": "d", "x": "y"}


def test_read_identities_ignores_what_says_nothing() -> None:
    table = pair("a ann", "a ann", "ann ann", "b ben")
    table.loc[3, "user_id"] = None
    assert follow(table) == {"a": "ann"}


def test_read_identities_reads_numbers_as_ids() -> None:
    table = pd.DataFrame({"anonymous_id": [7], "user_id": [1]})
    assert users(read_lines(HEADER, "7,view,2026-01-01", "1,buy,2026-01-02", identity=table)) == ["1", "1"]


@pytest.mark.parametrize("circle", [["a b", "b a"], ["z a", "a b", "b c", "c a"]])
def test_read_identities_refuses_a_circle(circle: list[str]) -> None:
    message = str(refuse_table(pair("x y", *circle)))
    assert message in {
        f"`identity`: ids lead to each other in a circle, such as {each!r}. Remove one of the rows." for each in "abc"
    }


def test_read_identities_refuses_an_id_of_several_users() -> None:
    assert str(refuse_table(pair("a ann", "a ben", "b eva"))) == (
        "`identity`: 1 anonymous ids lead to several users, such as 'a' to 'ann', 'ben'. Keep one row for each."
    )


def test_read_identities_names_every_missing_column(tmp_path: Path) -> None:
    source = write_csv(tmp_path, "a,ann", header="anonymous,user")
    assert refuse_table(source).problems == (
        f"`{source}` has no column `anonymous_id`. Did you mean 'anonymous'? Its columns are anonymous, user.",
        f"`{source}` has no column `user_id`. Did you mean 'user'? Its columns are anonymous, user.",
    )


def test_read_identities_checks_its_file_as_a_log_is_checked(tmp_path: Path) -> None:
    twice = write_csv(tmp_path, "a,ann,b", header="anonymous_id,user_id,user_id")
    assert str(refuse_table(twice)) == "`log.csv` has the column `user_id` 2 times; rename or remove all but one."
    broken = write_csv(tmp_path, "a,ann", "b", header="anonymous_id,user_id", name="broken.csv")
    assert str(refuse_table(broken)) == f"`{broken}`: line 3: line can't be split: 1 field instead of 2."
    empty = write(tmp_path / "empty.csv", "")
    assert str(refuse_table(empty)) == f"`{empty}` is empty: it has no rows. Check the export."


BOTH = f"anonymous_id,{HEADER}"


def test_learn_identities_from_rows_with_both_ids() -> None:
    log = read_lines(BOTH, "a1,a1,view,2026-01-01", "a1,ann,buy,2026-01-02", "b1,b1,view,2026-01-03")
    assert users(log) == ["ann", "ann", "b1"]


def test_learn_identities_leaves_an_id_of_several_users_as_it_is() -> None:
    lines = ["pc,pc,view,2026-01-01", "pc,ann,view,2026-01-02", "pc,ben,view,2026-01-03", "pc,pc,view,2026-01-04"]
    assert users(read_lines(BOTH, *lines)) == ["pc", "ann", "ben", "pc"]


def test_learn_identities_learns_nothing_from_rejected_rows() -> None:
    assert users(read_lines(BOTH, "a1,a1,view,2026-01-01", "a1,ann,view,soon")) == ["a1"]


def test_learned_identities_and_the_table_are_one_chain() -> None:
    lines = ["a1,a1,view,2026-01-01", "a1,ann,view,2026-01-02", ",anna,view,2026-01-03"]
    assert users(read_lines(BOTH, *lines, identity=pair("ann anna"))) == ["anna", "anna", "anna"]


def test_the_table_goes_before_what_rows_teach() -> None:
    lines = ["pc,pc,view,2026-01-01", "pc,ann,view,2026-01-02", "x,eva,view,2026-01-03"]
    assert users(read_lines(BOTH, *lines, identity=pair("pc eva"))) == ["eva", "ann", "eva"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own, to look into, and the key."""
    monkeypatch.setenv("CONVLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(HASH_KEY, KEY)
    yield tmp_path / "cache"
    assert list((tmp_path / "cache").rglob("preparing-*")) == []


def sign(text: str, key: str = KEY) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def find_plain(folder: Path, word: str) -> list[str]:
    """Name the files below a folder that hold a word, in their bytes or in the values of their tables."""
    texts = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    tables = {path: repr(pq.read_table(path).to_pydict()).encode() for path in texts if path.suffix == ".parquet"}
    return [path.name for path in texts if word.encode() in texts[path] + tables.get(path, b"")]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("key", [KEY, "k" * 64, "k" * 65, "schlüssel aus öl und ähren"])
def test_hash_ids_is_hmac_with_sha_256(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HASH_KEY, key)
    names = ["ann", "1", "jürgen@example.org", "x" * 100]
    log = read_lines(HEADER, *(f"{name},view,2026-01-0{day}" for day, name in enumerate(names, 1)), hash_ids=True)
    assert users(log) == [sign(name, key) for name in names]


@pytest.mark.usefixtures("cache")
def test_hash_ids_hashes_sessions_and_anonymous_ids_and_nothing_else() -> None:
    log = read_lines(f"{HEADER},session_id,anonymous_id,geo", "ann,view,2026-01-01,s1,,NO", hash_ids=True)
    row = log.to_pandas().iloc[0]
    assert row[["user_id", "session_id", "geo"]].tolist() == [sign("ann"), sign("s1"), "NO"]
    assert pd.isna(row["anonymous_id"])


@pytest.mark.parametrize(("key", "found"), [(None, "is not set"), ("short", "holds 5 bytes")])
def test_hash_ids_needs_a_key(key: str | None, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HASH_KEY, raising=False)
    if key:
        monkeypatch.setenv(HASH_KEY, key)
    with pytest.raises(ParamError) as caught:
        read_events(ROWS, hash_ids=True)
    assert str(caught.value) == (
        "`hash_ids` needs a key of at least 16 bytes in the environment variable CONVLIB_HASH_KEY, which " + found + "."
    )


def test_hash_ids_joins_logs_by_one_key_and_not_by_another(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_events(ROWS, hash_ids=True)
    second = read_events(write_csv(tmp_path, "u1,x,2026-02-01"), hash_ids=True)
    assert users(second)[0] in users(first)
    monkeypatch.setenv(HASH_KEY, "another key that nobody guesses")
    third = read_events(ROWS, hash_ids=True)
    plain = read_events(ROWS)
    folders = {each.prepared.folder for each in (first, second, third, plain)}
    assert len(folders) == 4 == len(list(cache.iterdir()))
    assert not set(users(first)) & set(users(third))
    assert KEY not in str(folders)


def test_hash_ids_leaves_no_plain_id_in_the_cache(cache: Path, tmp_path: Path) -> None:
    lines = [
        "SECRET-ann,view,2026-01-01,SECRET-visit,SECRET-device",
        "SECRET-device,view,2026-01-02,,SECRET-device",
        "SECRET-phone,view,2026-01-03,SECRET-visit,",
        "SECRET-ben,view,soon,SECRET-visit,SECRET-pc",
        "SECRET-eva,view",
        "SECRET-bot,view,2026-01-04,,",
    ]
    source = write_csv(tmp_path, *lines, header=f"{HEADER},session_id,anonymous_id")
    text = "macros: [{id: look, match: {event_name: view}}]\nleave_out: [{id: bot, match: {user_id: SECRET-bot}}]\n"
    identity = pair("SECRET-phone SECRET-ann")
    log = read_events(source, hash_ids=True, identity=identity, plan=write_plan(tmp_path, text))
    assert users(log) == [sign("SECRET-ann")] * 3
    assert log.row_counts == {"read": 6, "used": 3, "rejected": 2, "left_out": 1}
    assert log.rejects["user_id"].dropna().tolist() == [sign("SECRET-ben")]
    assert "text" not in log.rejects
    assert list(log.entries()["time"]) == [pd.Timestamp("2026-01-01").value // 1000]
    assert find_plain(cache, "SECRET-") == []
    assert find_plain(tmp_path, "SECRET-") == ["log.csv", "plan.yaml"]


@pytest.mark.parametrize("form", ["csv", "DataFrame", "parquet"])
def test_hash_ids_knows_ids_by_columns_in_any_case(form: str, cache: Path, tmp_path: Path) -> None:
    lines = ["SECRET-ann,view,2026-01-01,SECRET-pc", "SECRET-ben,view,soon,SECRET-pc"]
    names = "User_ID,event_name,timestamp,Anonymous_Id"
    rows = pd.DataFrame([line.split(",") for line in lines], columns=names.split(","))
    if form == "csv":
        read_events(write_csv(tmp_path, *lines, header=names), hash_ids=True)
    else:
        read_events(rows if form == "DataFrame" else save_parquet(tmp_path / "data", rows), hash_ids=True)
    assert find_plain(cache, "SECRET-") == []


def test_hash_ids_hashes_every_column_that_an_id_is_mapped_from(cache: Path, tmp_path: Path) -> None:
    mapping = write_mapping(tmp_path, "hash_ids: true\ncolumns: {user_id: [account, device], event_name: what}\n")
    lines = ["SECRET-ann,SECRET-pc,view,2026-01-01", ",SECRET-pc,view,2026-01-02", "SECRET-ben,,view,soon"]
    source = write_csv(tmp_path, *lines, header="account,device,what,timestamp")
    assert users(read_events(source, mapping=mapping)) == [sign("SECRET-ann"), sign("SECRET-pc")]
    assert find_plain(cache, "SECRET-") == []


def test_hash_ids_shows_no_plain_id_when_no_row_can_be_used(cache: Path, tmp_path: Path) -> None:
    error = refuse(write_csv(tmp_path, "SECRET-ann,view,soon", "SECRET-ben,view"), hash_ids=True)
    assert "SECRET-" not in str(error)
    assert not find_plain(cache, "SECRET-")


def test_learned_ids_in_a_circle_stay_themselves() -> None:
    rows = pd.DataFrame(
        {
            "anonymous_id": ["x", "y", "a"],
            "user_id": ["y", "x", "u"],
            "event_name": "view",
            "timestamp": "2026-01-01",
        }
    )
    log = read_events(pd.concat([rows, pd.DataFrame({**rows.iloc[2].to_dict(), "user_id": [None]})]))
    assert log.to_pandas()["user_id"].tolist() == ["u", "u", "x", "y"]


def test_joined_rows_keep_the_order_of_the_source() -> None:
    count = 50_000
    rows = pd.DataFrame(
        {
            "anonymous_id": [f"a{n % 7}" for n in range(count)],
            "user_id": [f"u{n % 7}" if n % 3 == 0 else None for n in range(count)],
            "event_name": "view",
            "timestamp": pd.Timestamp("2026-01-01") + pd.to_timedelta(range(count), unit="s"),
        }
    )
    log = read_events(rows)
    assert log.prepared.open().project("timestamp < lag(timestamp) OVER () AS back").filter("back").fetchall() == []
