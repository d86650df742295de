import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from small_logs import make_plan

from convlib.canonical import CANONICAL
from convlib.engine import connect, quote
from convlib.errors import EventDataError, ParamError, PlanError
from convlib.events import EventLog, read_events
from convlib.mapping import ColumnSource, Mapping, apply_mapping, list_presets, read_mapping
from convlib.plan import Plan

ROOT = Path(__file__).parent.parent
EXPORTS = ROOT / "tests" / "fixtures" / "exports"
PLAN = """\
macros:
  - id: purchase
    match: {event_name: [purchase, Order Completed, order completed, transaction, Complete Purchase, ecommerceOrder]}
    value: {column: value}
    micros:
      - {id: view_item, stage: awareness, kind: process_milestone,
         match: {any: [{event_name: [view_item, Product Viewed, product viewed, product_view, View Product]},
                       {event_name: action, page_path: {regex: "^/p/"}}]}}
      - {id: add_to_cart, stage: decision, kind: process_milestone,
         match: {event_name: [add_to_cart, Product Added, product added, Add to Cart, Add to cart]}}
      - {id: sign_in, stage: decision, kind: secondary_action,
         match: {event_name: [login, Signed In, signed in, log_in, Log In, Log in]}}
"""
GOOGLE = "https://www.google.com/"
VISIT = (GOOGLE, "google", "cpc", "winter")
DIRECT = (None, None, None, None)
COLUMNS = ["event_name", "timestamp", "user_id", "anonymous_id", "session_id", "page_path", "device_type", "geo"]
COLUMNS += ["product_id", "value", "currency", "referrer", "source", "medium", "campaign"]
#: The events of every fixture: `a1` views, keeps and buys on a desktop, signing in as `u1`; `a2` looks on a phone.
EVENTS = pd.DataFrame(
    [
        ("view_item", "2026-01-05 10:00:00", "a1", "a1", "s1", "/p/1", "desktop", "NO", "p1", None, None, *VISIT),
        ("add_to_cart", "2026-01-05 10:01:00", "a1", "a1", "s1", "/p/1", "desktop", "NO", "p1", None, None, *VISIT),
        ("login", "2026-01-05 10:02:00", "u1", "a1", "s1", "/login", "desktop", "NO", None, None, None, *VISIT),
        ("purchase", "2026-01-05 10:03:00.5", "u1", "a1", "s1", "/thanks", "desktop", "NO", "p1", 49.9, "EUR", *VISIT),
        ("view_item", "2026-01-05 11:00:00", "a2", "a2", "s2", "/p/2", "mobile", "SE", "p2", None, None, *DIRECT),
        ("add_to_cart", "2026-01-05 11:05:00", "a2", "a2", "s2", "/p/2", "mobile", "SE", "p2", None, None, *DIRECT),
    ],
    columns=COLUMNS,
)
COUNTRIES = ["Norway"] * 4 + ["Sweden"] * 2
#: What a product's export says in its own words, or can't say.
OWN: dict[str, dict[str, Sequence[object]]] = {
    "amplitude": {
        "event_name": ["View Product", "Add to Cart", "Log In", "Complete Purchase", "View Product", "Add to Cart"],
        "session_id": ["a1.1767607200000"] * 4 + ["a2.1767610800000"] * 2,
        "geo": COUNTRIES,
    },
    "ga4": {"session_id": ["a1.1767607200"] * 4 + ["a2.1767610800"] * 2, "geo": COUNTRIES},
    "matomo": {
        "event_name": ["action", "Add to cart", "Log in", "ecommerceOrder", "action", "Add to cart"],
        "session_id": ["71"] * 4 + ["72"] * 2,
        "page_path": ["/p/1", "/p/1", "/login", None, "/p/2", "/p/2"],  # an order has no address
        "product_id": ["p1", None, None, "p1", "p2", None],  # an event has no product
        "medium": ["cpc"] * 4 + ["direct"] * 2,
    },
    "mixpanel": {
        "event_name": [
            "Product Viewed",
            "Product Added",
            "Signed In",
            "Order Completed",
            "Product Viewed",
            "Product Added",
        ],
        "session_id": [],
    },
    "posthog": {
        "event_name": [
            "product viewed",
            "product added",
            "signed in",
            "order completed",
            "product viewed",
            "product added",
        ]
    },
    "segment": {
        "event_name": [
            "Product Viewed",
            "Product Added",
            "Signed In",
            "Order Completed",
            "Product Viewed",
            "Product Added",
        ],
        "session_id": [],
        "geo": [],
    },
    "snowplow": {
        "event_name": ["product_view", "add_to_cart", "log_in", "transaction", "product_view", "add_to_cart"],
    },
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(tmp_path_factory.mktemp("plan"), PLAN)


def canonical(preset: str) -> pd.DataFrame:
    own = OWN[preset]
    events = EVENTS.drop(columns=[*own])
    return events.join(pd.DataFrame({name: values for name, values in own.items() if values}))


def list_conversions(log: EventLog) -> list[tuple[object, ...]]:
    rows = log.rows("conversions").project("user_id, timestamp, conversion, value").order("ALL").fetchall()
    return [tuple(row) for row in rows]


def check_same(log: EventLog, preset: str, plan: Plan) -> None:
    expected = read_events(canonical(preset), plan=plan)
    columns = list(CANONICAL)
    assert log.rows_used == expected.rows_used == len(EVENTS)
    assert_frame_equal(log.to_pandas()[columns], expected.to_pandas()[columns])
    assert list_conversions(log) == list_conversions(expected)
    assert len(list_conversions(log)) == len(EVENTS)


@pytest.mark.parametrize("preset", list_presets())
def test_presets_give_the_canonical_form_of_their_export(preset: str, plan: Plan) -> None:
    (fixture,) = EXPORTS.glob(f"{preset}.*")
    check_same(read_events(fixture, preset=preset, plan=plan), preset, plan)


def test_every_preset_has_a_fixture_and_says_what_it_reads() -> None:
    presets = [read_mapping(name) for name in list_presets()]
    assert {file.stem for file in EXPORTS.iterdir()} == set(list_presets())
    assert all(each.title and each.documentation and each.expect for each in presets)
    assert all({"event_name", "timestamp", "user_id", "anonymous_id"} <= set(each.columns) for each in presets)


@pytest.mark.parametrize("wrapped", [False, True], ids=["lists", "BigQuery's wrapped lists"])
def test_presets_read_nested_parquet_like_json(wrapped: bool, plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "ga4.parquet"
    types = {
        "event_timestamp": "BIGINT",
        "event_params": f"STRUCT(key VARCHAR, value {VALUE})[]",
        "device": "STRUCT(category VARCHAR)",
    }
    types |= {
        "geo": "STRUCT(country VARCHAR)",
        "traffic_source": "STRUCT(name VARCHAR, medium VARCHAR, source VARCHAR)",
    }
    types |= {"items": "STRUCT(item_id VARCHAR)[]", "ecommerce": "STRUCT(purchase_revenue DOUBLE)"}
    types |= dict.fromkeys(["event_name", "user_id", "user_pseudo_id"], "VARCHAR")
    columns = ", ".join(f"{name}: '{kind}'" for name, kind in types.items())
    rows = connect().sql(f"FROM read_json('{EXPORTS / 'ga4.jsonl'}', columns={{{columns}}})")
    if wrapped:
        lists = [
            f"{{'list': list_transform({c}, lambda e: {{'element': e}})}} AS {c}" for c in ("event_params", "items")
        ]
        rows = rows.project(f"* REPLACE ({', '.join(lists)})")
    rows.write_parquet(str(path))
    check_same(read_events(path, preset="ga4", plan=plan), "ga4", plan)


VALUE = "STRUCT(string_value VARCHAR, int_value BIGINT, float_value DOUBLE, double_value DOUBLE)"
#: One row to read from.
ROW = "SELECT 'u1' AS user, '' AS empty, 7 AS number, {'a': {'d': [5, 6]}} AS struct, '{\"n\": null}' AS text"


def map_one(columns: dict[str, object], sql: str = ROW) -> dict[str, object]:
    relation = apply_mapping(connect().sql(sql), Mapping.model_validate({"columns": columns}), label="log")
    row = relation.project(", ".join(map(quote, columns))).fetchall()[0]
    return dict(zip(columns, row, strict=True))


def refuse(mapping: Mapping, sql: str = ROW) -> tuple[str, ...]:
    with pytest.raises(EventDataError) as caught:
        apply_mapping(connect().sql(sql), mapping, label="log.csv")
    return caught.value.problems


@pytest.mark.parametrize(
    ("source", "value"),
    [
        pytest.param("user", "u1", id="a column"),
        pytest.param("USER", "u1", id="a column whatever its case"),
        pytest.param("number", 7, id="a column keeps its type"),
        pytest.param(["empty", "user"], "u1", id="the first that is filled"),
        pytest.param({"column": "empty", "default": "none"}, "none", id="a default"),
        pytest.param({"column": ["text.n", "text.gone", "empty"], "default": 0}, "0", id="a default of several"),
        pytest.param({"constant": "it's"}, "it's", id="a constant"),
        pytest.param({"constant": True}, "true", id="a constant that is no text"),
        pytest.param({"expression": "upper(\"user\") || '!'"}, "U1!", id="an expression"),
        pytest.param({"expression": "{struct.a.d[1]}::INT + {number}::INT -- sum"}, 13, id="an expression with fields"),
        pytest.param({"expression": "regexp_extract('aab', 'a{2}') || {'x': 'y'}.x"}, "aay", id="braces of its own"),
        pytest.param({"column": ["gone", "user"], "optional": True}, "u1", id="a column that may be missing"),
    ],
)
def test_apply_mapping_reads_a_column_from(source: object, value: object) -> None:
    assert map_one({"x": source}) == {"x": value}


@pytest.mark.parametrize(
    ("time", "formats", "moment"),
    [
        pytest.param("1767607200", "epoch_s", "2026-01-05 10:00:00+00", id="seconds"),
        pytest.param("1767607380.5", "epoch_s", "2026-01-05 10:03:00.5+00", id="seconds with a fraction"),
        pytest.param("1767607200000", "epoch_ms", "2026-01-05 10:00:00+00", id="milliseconds"),
        pytest.param("1767607200000001", "epoch_us", "2026-01-05 10:00:00.000001+00", id="microseconds"),
        pytest.param("05/01/2026 10:00", "%d/%m/%Y %H:%M", "2026-01-05 10:00:00", id="a pattern"),
        pytest.param(
            "05/01/2026 10:00 +0200", "%d/%m/%Y %H:%M %z", "2026-01-05 08:00:00+00", id="a pattern with offset"
        ),
        pytest.param("5 Jan 2026", ["%d/%m/%Y", "%d %b %Y"], "2026-01-05 00:00:00", id="the second of two patterns"),
        pytest.param("1767607200", ["%d/%m/%Y", "epoch_s"], "2026-01-05 10:00:00+00", id="a pattern or seconds"),
        pytest.param("2026-01-05T10:00Z", "epoch_s", "2026-01-05T10:00Z", id="what fits none stays as it came"),
        pytest.param("1e300", "epoch_s", "1e300", id="a number beyond all times stays"),
        pytest.param("", "epoch_s", None, id="nothing"),
    ],
)
def test_apply_mapping_reads_times_as(time: str, formats: object, moment: str | None) -> None:
    assert map_one({"x": {"column": "t", "format": formats}}, f"SELECT '{time}' AS t") == {"x": moment}


def test_apply_mapping_reads_numbers_as_times() -> None:
    columns: dict[str, object] = {"x": {"column": "t", "format": "epoch_ms"}}
    assert map_one(columns, "SELECT 1767607200123 AS t") == {"x": "2026-01-05 10:00:00.123+00"}


def test_apply_mapping_keeps_the_other_columns_and_renames_the_first_of_each() -> None:
    mapping = Mapping.model_validate(
        {"columns": {"event_name": ["event", "type"], "user_id": "uid", "Colour": "tags.c"}}
    )
    rows = connect().sql("SELECT 'e' AS event, 't' AS type, 'u' AS uid, '{}' AS tags, 'red' AS colour, 1 AS value")
    found = apply_mapping(rows, mapping, label="log")
    assert found.columns == ["event_name", "user_id", "Colour", "type", "tags", "value"]


def test_apply_mapping_leaves_out_optional_columns_that_the_source_lacks() -> None:
    columns = {
        "geo": ColumnSource(column=("gone.x",), optional=True),
        "land": ColumnSource(expression="lower({gone})", optional=True),
        "campaign": ColumnSource(column=("gone",), default="none", optional=True),
    }
    assert apply_mapping(connect().sql("SELECT 1 AS a"), Mapping(columns=columns), label="log").columns == [
        "campaign",
        "a",
    ]


def test_apply_mapping_makes_a_row_of_each_entry() -> None:
    mapping = Mapping.model_validate({"each": "actions", "columns": {"event_name": "actions.type"}})
    rows = connect().sql("""SELECT 1 AS visit, '[{"type": "x"}, {"type": "y"}]' AS actions""")
    found = apply_mapping(rows, mapping, label="log").project("visit, event_name").fetchall()
    assert found == [(1, "x"), (1, "y")]


def test_apply_mapping_lists_every_problem() -> None:
    columns = {
        "user_id": "usr",
        "geo": "struct.b",
        "value": {"expression": "nosuch(1)"},
        "campaign": {"expression": "1 AS a, 2"},
        "timestamp": {"column": "user", "format": "%q"},
    }
    problems = refuse(
        Mapping.model_validate({"each": "acts", "columns": columns}),
        "SELECT 'u' AS user, {'a': {'d': 1}} AS struct, 7 AS number",
    )
    known = "there are 'user', 'struct', 'number'."
    assert problems[:3] == (
        f"`log.csv`: `each` reads 'acts', but there is no 'acts'; {known}",
        f"`log.csv`: `user_id` reads 'usr', but there is no 'usr'; {known} Did you mean 'user'?",
        "`log.csv`: `geo` reads 'struct.b', but there is no 'b'; there are 'a'.",
    )
    assert problems[3].startswith(
        "`log.csv`: `value` can't be read by nosuch(1): Catalog Error: Scalar Function with name nosuch does not exist!"
    )
    assert problems[4].startswith(
        "`log.csv`: `campaign` can't be read by 1 AS a, 2: Invalid Input Error: Please provide only"
    )
    assert problems[5] == (
        "`log.csv`: `timestamp` can't be read by '%q': Invalid Input Error: Failed to parse format specifier %q: "
        "Unrecognized format for strftime/strptime: %q"
    )


def test_apply_mapping_names_the_preset_that_would_fit() -> None:
    rows = "SELECT 1 AS uuid, 1 AS event, 1 AS distinct_id, 1 AS properties, 1 AS timestamp, 'f' AS \"convlib file\""
    assert refuse(read_mapping("ga4"), rows) == (
        "`log.csv` does not fit the preset 'ga4' (Google Analytics 4: BigQuery export (tables events_YYYYMMDD)): it "
        "has no column 'event_name', 'event_timestamp', 'user_pseudo_id', 'event_params'. The preset 'posthog' would "
        "fit. Its columns are 'uuid', 'event', 'distinct_id', 'properties', 'timestamp'.",
    )


def test_apply_mapping_says_when_no_preset_fits_beside_the_mapping_s_own_problems() -> None:
    mapping = Mapping.model_validate({"preset": "mixpanel", "columns": {"geo": "land"}})
    assert refuse(mapping, "SELECT 1 AS event") == (
        "`log.csv` does not fit the preset 'mixpanel' (Mixpanel: Raw Event Export API (JSON lines)): it has no column "
        "'properties'. No preset fits: write a mapping file. Its columns are 'event'.",
        "`log.csv`: `geo` reads 'land', but there is no 'land'; there are 'event'.",
    )


def test_apply_mapping_says_what_a_mapping_of_one_s_own_expects() -> None:
    assert refuse(Mapping(expect=("a", "b")), "SELECT 1 AS a") == (
        "`log.csv` does not fit the mapping: it has no column 'b'. No preset fits: write a mapping file. Its columns "
        "are 'a'.",
    )


def write(folder: Path, text: str) -> Path:
    path = folder / "mapping.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_read_mapping_reads_a_file(tmp_path: Path) -> None:
    text = """\
session_gap: 1h
identity: who.csv
columns:
  user_id: [uid, anon]
  timestamp: {column: ts, format: epoch_ms}
  currency: {constant: USD}
"""
    assert read_mapping(write(tmp_path, text)) == Mapping(
        session_gap="1h",
        identity=str(tmp_path / "who.csv"),
        columns={
            "user_id": ColumnSource(column=("uid", "anon")),
            "timestamp": ColumnSource(column=("ts",), format=("epoch_ms",)),
            "currency": ColumnSource(constant="USD"),
        },
    )


def test_read_mapping_puts_its_own_columns_over_those_of_its_preset(tmp_path: Path) -> None:
    found = read_mapping(
        write(tmp_path, "preset: matomo\ntimezone: Europe/Oslo\ncolumns: {geo: city, plan_type: plan}\n")
    )
    base = read_mapping("matomo")
    own = {"geo": ColumnSource(column=("city",)), "plan_type": ColumnSource(column=("plan",))}
    assert found.columns == {**base.columns, **own}
    assert (found.preset, found.each, found.timezone) == ("matomo", "actionDetails", "Europe/Oslo")


def test_read_mapping_lists_every_problem(tmp_path: Path) -> None:
    text = """\
preset: gaa4
session_gap: often
colums: {}
columns:
  user_id: {}
  event_name: {column: a, constant: b}
  currency: {constant: USD, default: EUR}
  timestamp: {column: ts, format: epoch}
  value: {columm: v}
"""
    path = write(tmp_path, text)
    with pytest.raises(PlanError) as caught:
        read_mapping(path)
    presets = "'amplitude', 'ga4', 'matomo', 'mixpanel', 'posthog', 'segment', 'snowplow'"
    fields = "'column', 'default', 'format', 'decimal', 'constant', 'expression', 'optional'"
    one = "give one of 'column', 'constant' and 'expression'."
    top = "'preset', 'title', 'documentation', 'expect', 'each', 'encoding', 'timezone', 'session_gap', 'identity'"
    assert caught.value.problems == (
        f"{path}:1: preset is 'gaa4'; it must be one of {presets}. Did you mean 'ga4'?",
        f"{path}:2: session_gap is 'often'; it must be a number and one of the units s, min, h, D, W, such as '30min' "
        "or '7D'.",
        f"{path}:3: the file has an unknown field 'colums'; the fields are {top}, 'hash_ids', 'drop', 'columns'. Did "
        "you mean 'columns'?",
        f"{path}:5: columns.user_id is empty; {one}",
        f"{path}:6: columns.event_name has 'column', 'constant'; {one}",
        f"{path}:7: columns.currency.default has no meaning without 'column', but there is 'constant'.",
        f"{path}:8: columns.timestamp.format is 'epoch'; it must be one of 'epoch_s', 'epoch_ms', 'epoch_us' or a "
        "pattern such as '%d/%m/%Y %H:%M'. Did you mean 'epoch_s'?",
        f"{path}:9: columns.value has an unknown field 'columm'; the fields are {fields}. Did you mean 'column'?",
    )


def test_read_mapping_names_the_presets_when_there_is_no_such_one() -> None:
    with pytest.raises(ParamError) as caught:
        read_mapping("posthig")
    assert str(caught.value) == (
        "`preset` is 'posthig'; it must be one of 'amplitude', 'ga4', 'matomo', 'mixpanel', 'posthog', 'segment', "
        "'snowplow', or a YAML file. Did you mean 'posthog'?"
    )


def test_read_mapping_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PlanError) as caught:
        read_mapping(tmp_path / "mapping.yaml")
    assert str(caught.value) == f"{tmp_path / 'mapping.yaml'} does not exist. Check its name and folder."


def test_list_presets_gives_names_and_titles() -> None:
    assert list(list_presets()) == ["amplitude", "ga4", "matomo", "mixpanel", "posthog", "segment", "snowplow"]
    assert list_presets()["posthog"] == "PostHog: batch export of events (S3 and others) as JSON lines or Parquet"


def test_mappings_can_be_written_down_and_read_again() -> None:
    mapping = read_mapping("segment")
    assert Mapping.model_validate(json.loads(mapping.model_dump_json())) == mapping


def test_the_documented_mappings_can_be_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "sources.md").read_text("utf-8"), re.DOTALL)
    local, own = (read_mapping(write(tmp_path, textwrap.dedent(block))) for block in blocks)
    assert (local.preset, local.timezone, own.preset, own.each) == ("mixpanel", "US/Pacific", "ga4", "actionDetails")
    assert own.columns["campaign"] == ColumnSource(column=('context."utm.campaign"',))


def test_the_documented_mapping_reads_mixpanel_s_local_seconds_in_their_zone() -> None:
    found = connect().sql("""SELECT '{"time": 1767578400}' AS properties, 'e' AS event""")
    time = {"expression": "make_timestamp(CAST(CAST({properties.time} AS DOUBLE) * 1e6 AS BIGINT))"}
    mapping = Mapping.model_validate({"preset": "mixpanel", "columns": {"timestamp": time}})
    rows = (
        apply_mapping(found, mapping, label="log").project("CAST(timestamp AS VARCHAR), typeof(timestamp)").fetchall()
    )
    assert rows == [("2026-01-05 02:00:00", "TIMESTAMP")]


def test_read_events_reads_a_list_of_visits_as_matomo_s_interface_returns_it(plan: Plan, tmp_path: Path) -> None:
    visits = [json.loads(line) for line in (EXPORTS / "matomo.jsonl").read_text("utf-8").splitlines()]
    (tmp_path / "visits.json").write_text(json.dumps(visits, indent=1), encoding="utf-8")
    check_same(read_events(tmp_path / "visits.json", preset="matomo", plan=plan), "matomo", plan)


def test_apply_mapping_drops_columns_and_reads_decimal_commas(tmp_path: Path) -> None:
    source = tmp_path / "log.csv"
    source.write_bytes(
        "Kunde;Aktion;Zeit;Umsatz;Mail\nJürgen;Kauf;2026-01-01;1.234,50 €;a@b.de\n".replace(" €", "").encode("cp1252")
    )
    mapping = write(
        tmp_path,
        "encoding: cp1252\ndrop: [Mail]\ncolumns:\n  user_id: Kunde\n  event_name: Aktion\n  timestamp: Zeit\n"
        '  value: {column: Umsatz, decimal: ","}\n',
    )
    row = read_events(source, mapping=mapping).to_pandas().iloc[0]
    assert (row["user_id"], row["value"]) == ("Jürgen", 1234.5)
    assert not {"Mail", "Kunde"} & set(row.index)


def test_apply_mapping_names_columns_to_drop_that_are_not_there(tmp_path: Path) -> None:
    source = tmp_path / "log.csv"
    source.write_text("user_id,event_name,timestamp,mail\nu,x,2026-01-01,y\n")
    with pytest.raises(EventDataError) as caught:
        read_events(source, mapping=write(tmp_path, "drop: [mial]\n"))
    assert str(caught.value) == (
        f"`{source}`: `drop` names the column `mial`, which is not there. Did you mean 'mail'? Its columns are "
        "user_id, event_name, timestamp, mail."
    )
