"""Every message of an error, reviewed as one set: `pytest tests/test_messages.py -s` prints the list."""

import ast
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import convlib as cv
from convlib.cli import app
from convlib.errors import ConvlibError
from convlib.reports.schedule import write_schedule

CONVLIB = Path(cv.__file__).parent
OURS = {"ConvlibError", "ParamError", "PlanError", "EventDataError", "RunError", "StoppedError", "FieldError"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
PASSED_ON = "(what another function found)"
#: What is raised in a folder or module other than our own errors, and why.
OTHERS = {
    ("__init__.py", "AttributeError"): "what Python asks of a module's __getattr__",
    ("elsewhere.py", "AttributeError"): "what Python asks of a __getattr__",
    ("cli.py", "typer.Exit"): "ends the command with its exit code",
    ("documents.py", "yaml.MarkedYAMLError"): "caught in the same module, and worded with file and line",
    ("layout.py", "KeyError"): "in compiled code: the caller's mistake, not a user's",
    ("mapping.py", "ValueError"): "in a pydantic validator: worded by validation.word_errors",
    ("plan.py", "ValueError"): "in a pydantic validator",
    ("plan_entries.py", "ValueError"): "in a pydantic validator",
    ("plan_experiments.py", "ValueError"): "in a pydantic validator",
    ("watch.py", "ValueError"): "in a pydantic validator",
    ("reports/run_file.py", "ValueError"): "in a pydantic validator",
    ("merging.py", "ValueError"): "caught in the same module, and worded with the file",
    ("reports/execute.py", "RuntimeError"): "what nbclient expects of a kernel that does not answer",
    ("reports/notebooks.py", "ValueError"): "caught in the same module, and worded with the notebook",
    ("reports/warm.py", "WarmError"): "caught by who asks for a warm kernel, who starts a cold one",
    ("results.py", "ValueError"): "two columns of one heading: our mistake, not a user's",
}


#: The functions that word problems; others are not followed.
_WORDS = re.compile(r"_?(find|word|explain|miss|unknown|check|list|collect)_?(?!columns|siblings|types|own)")


@dataclasses.dataclass(frozen=True)
class Raise:
    """One `raise`: where it stands, what it raises, and the messages it may have."""

    place: str
    kind: str
    messages: tuple[str, ...]


@functools.cache
def parse_modules() -> dict[str, ast.Module]:
    """Parse every module by its path under convlib."""
    return {str(path.relative_to(CONVLIB)): ast.parse(path.read_text()) for path in sorted(CONVLIB.rglob("*.py"))}


@functools.cache
def index_functions() -> dict[str, list[ast.AST]]:
    found: dict[str, list[ast.AST]] = {}
    for tree in parse_modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append(node)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node in tree.body:
                found.setdefault(node.targets[0].id, []).append(node)
    return found


def list_raises() -> Iterator[Raise]:
    """List every `raise` that makes an exception, with its messages: text with `{…}` for what is filled in."""
    for path, tree in parse_modules().items():
        for scope in ast.walk(tree):
            for node in _walk_own(scope) if isinstance(scope, FUNCTIONS) else ():
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                    kind = ast.unparse(node.exc.func)
                    texts = [text for each in node.exc.args for text in _read(each, scope, frozenset())]
                    yield Raise(f"{path}:{node.lineno}", kind, tuple(dict.fromkeys(texts)))


@functools.cache
def _walk_own(scope: ast.AST) -> tuple[ast.AST, ...]:
    """Walk a function without those that are defined inside it."""
    inner = (
        each for node in ast.iter_child_nodes(scope) if not isinstance(node, FUNCTIONS) for each in _walk_own(node)
    )
    return (*ast.iter_child_nodes(scope), *inner)


def _read(node: ast.AST | None, scope: ast.AST, seen: frozenset[str]) -> list[str]:
    """Read the texts that an expression may give, following names and functions to where they are made."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(str(part.value) if isinstance(part, ast.Constant) else "{…}" for part in parts)]
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _read(left, scope, seen) + _read(right, scope, seen)
        case ast.IfExp(body=one, orelse=other):
            return _read(one, scope, seen) + _read(other, scope, seen)
        case (
            ast.Starred(value=value) | ast.NamedExpr(value=value) | ast.Yield(value=value) | ast.YieldFrom(value=value)
        ):
            return _read(value, scope, seen)
        case ast.ListComp(elt=value) | ast.GeneratorExp(elt=value) | ast.SetComp(elt=value):
            return _read(value, scope, seen)
        case ast.List(elts=several) | ast.Tuple(elts=several) | ast.BoolOp(values=several):
            return [text for each in several for text in _read(each, scope, seen)]
        case ast.DictComp(value=value):
            return _read(value, scope, seen)
        case ast.Attribute(attr="problems") | ast.Call(func=ast.Name(id="list_problems")):
            return [PASSED_ON]
        case ast.Call(func=ast.Attribute(value=made, attr="format")):
            return _read(made, scope, seen)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args):
            texts = [text for each in args for text in _read(each, scope, seen) if " " in text]
            return texts + (_read_function(name, seen | {name}) if _WORDS.match(name) and name not in seen else [])
        case ast.Name(id=name) if name not in seen:
            return _read_name(name, scope, seen | {name})
    return []


def _read_name(name: str, scope: ast.AST, seen: frozenset[str]) -> list[str]:
    texts = []
    if isinstance(scope, ast.FunctionDef) and name in [each.arg for each in scope.args.args]:
        texts.append(PASSED_ON)
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=targets, value=value) if name in map(ast.unparse, targets):
                texts += _read(value, scope, seen)
            case ast.AnnAssign(target=target, value=value) if ast.unparse(target) == name:
                texts += _read(value, scope, seen)
            case ast.AugAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
                texts += _read(value, scope, seen) if ast.unparse(target) == name else []
            case ast.Call(func=ast.Attribute(value=ast.Name(id=of), attr="append" | "extend"), args=[value]):
                texts += _read(value, scope, seen) if of == name else []
            case ast.Call(func=ast.Name(id=of), args=args) if name == "problems" and of not in seen:
                # A list that other functions add to.
                if name in map(ast.unparse, args):
                    texts += [
                        text for made in index_functions().get(of, []) for text in _read_name(name, made, seen | {of})
                    ]
            case ast.comprehension(target=target, iter=value) | ast.For(target=target, iter=value):
                names = [each.id for each in ast.walk(target) if isinstance(each, ast.Name)]
                texts += _read(value, scope, seen) if name in names else []
    return texts or _read_function(name, seen)


def _read_function(name: str, seen: frozenset[str]) -> list[str]:
    """Read what functions or constants of a name give: what they return, yield or hold."""
    texts = []
    for made in index_functions().get(name, []):
        for node in _walk_own(made) if isinstance(made, ast.FunctionDef) else [made]:
            if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom | ast.Assign) and (
                not isinstance(node, ast.Assign) or made is node
            ):
                texts += _read(node.value, made, seen)
    return texts


def _is_sentence(text: str) -> bool:
    """Tell a whole sentence from a part of one, and from text that is no message."""
    return bool(re.match(r"[A-Z`{-]|(is|has|it must|names|needs|stands) ", text)) and text.count(" ") >= 3


@pytest.fixture(scope="module")
def raises() -> list[Raise]:
    return list(list_raises())


def test_every_raise_is_one_of_ours_or_has_a_reason(raises: list[Raise]) -> None:
    listed = {(each.place.partition(":")[0], each.kind) for each in raises}
    # `error(...)` is the class that a caller chose, `self._miss(...)` makes one of ours.
    others = {(path, kind) for path, kind in listed if kind not in OURS | {"error", "self._miss"}}
    assert others == set(OTHERS)


def test_every_raise_of_ours_has_a_message_that_can_be_read(raises: list[Raise]) -> None:
    print()
    for each in raises:
        print(f"{each.place} {each.kind}", *each.messages, sep="\n    ")
    ours = [each for each in raises if each.kind in OURS | {"error"}]
    assert len(ours) > 200
    assert [each.place for each in ours if not each.messages] == []


def test_every_message_ends_as_a_sentence(raises: list[Raise]) -> None:
    texts = {(each.place, text) for each in raises if each.kind in OURS | {"error"} for text in each.messages}
    open_ended = {each for each in texts if _is_sentence(each[1]) and not re.search(r"([.?}]| )$", each[1])}
    assert open_ended == set()


def test_every_message_names_a_value_or_a_thing(raises: list[Raise]) -> None:
    """What stands in a field of a file (`FieldError`) has its file, line, name and value put before it."""
    ours = [
        each for each in raises if each.kind in OURS - {"FieldError"} | {"error"} and PASSED_ON not in each.messages
    ]
    named = re.compile(r"[{`]|--[a-z]|\w\(")
    assert [each.place for each in ours if not any(map(named.search, each.messages))] == []


def test_no_exception_is_swallowed() -> None:
    silent = [
        f"{path}:{node.lineno}"
        for path, tree in parse_modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and all(isinstance(each, ast.Pass) for each in node.body)
    ]
    assert silent == []


PLAN = """\
macros:
  - id: purchase
    name: Purchase
    match: {event_name: purchase}
    micros:
      - {id: add_to_cart, name: Add to cart, match: {event_name: add}, stage: decision, kind: process_milestone}
"""


@dataclasses.dataclass(frozen=True)
class Shop:
    """A plan of one macro and one micro, and a log of three rows."""

    folder: Path
    plan: cv.Plan
    log: cv.EventLog
    rows: pd.DataFrame

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    rows = pd.DataFrame(
        {
            "user_id": ["ann", "ann", "ben"],
            "event_name": ["add", "purchase", "add"],
            "timestamp": pd.to_datetime(["2024-03-01", "2024-03-02", "2024-03-03"]),
            "device_type": ["mobile", "mobile", "desktop"],
        }
    )
    (folder / "plan.yaml").write_text(PLAN, encoding="utf-8")
    plan = cv.read_plan(folder / "plan.yaml")
    return Shop(folder, plan, cv.read_events(rows, plan=plan), rows)


Call = Callable[[Shop], object]
MISTAKES: dict[str, tuple[Call, str]] = {
    "rows instead of a log": (
        lambda s: cv.measure_rates(s.rows, s.plan),  # type: ignore[arg-type]
        "`log` is of type DataFrame; it must be what `read_events` gives.",
    ),
    "no log": (
        lambda _: cv.measure_funnel(None, ["add", "purchase"]),  # type: ignore[arg-type]
        "`log` is of type NoneType; it must be what `read_events` gives.",
    ),
    "the plan's path instead of the plan": (
        lambda s: cv.map_events(s.log, "plan.yaml"),  # type: ignore[arg-type]
        "`plan` is of type str; it must be what `read_plan` gives.",
    ),
    "arguments in the wrong order": (
        lambda s: cv.attribute(s.plan, s.log, macro="purchase"),  # type: ignore[arg-type]
        "`log` is of type Plan; it must be what `read_events` gives.",
    ),
    "one step as text": (
        lambda s: cv.measure_funnel(s.log, "add"),
        "`steps` is 'add'; it must be a list, such as ['view_item', 'purchase'].",
    ),
    "an exclusion as None": (
        lambda s: cv.measure_funnel(s.log, ["add", "purchase"], exclude=None),  # type: ignore[arg-type]
        "`exclude` holds None; write it as Exclusion(None).",
    ),
    "an entry in a list": (
        lambda s: cv.measure_rates(s.log, s.plan, entry=["add"]),  # type: ignore[arg-type]
        "`['add']` is neither a conversion of the plan nor an event of the log. Did you mean 'add'? Known are "
        "purchase, add_to_cart, add.",
    ),
    "a macro in a list": (
        lambda s: cv.correlate(s.log, s.plan, macro=["purchase"]),  # type: ignore[arg-type]
        "`macro` is ['purchase']; the plan's macros are 'purchase'. Did you mean 'purchase'?",
    ),
    "weeks in a word": (
        lambda s: cv.measure_rates(s.log, s.plan, every="week"),
        "`every` is 'week'; it must be one of 'D', 'W', 'M' (day, week, month). Did you mean 'W'?",
    ),
    "a window without its unit": (
        lambda s: cv.measure_funnel(s.log, ["add", "purchase"], window=7),  # type: ignore[arg-type]
        "`window` is 7; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'.",
    ),
    "a negative window": (
        lambda s: cv.trace_paths(s.log, window="-1D"),
        "`window` is '-1D'; it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'.",
    ),
    "confidence in percent": (
        lambda s: cv.measure_rates(s.log, s.plan, confidence=95),
        "`confidence` is 95; it must lie between 0 and 1, such as 0.95.",
    ),
    "no such time zone": (
        lambda s: cv.read_events(s.rows, timezone="Europe/Berln"),
        "`timezone` is 'Europe/Berln'; it must be a name of the IANA list, such as 'Europe/Berlin' or 'UTC'. "
        "Did you mean 'Europe/Berlin'?",
    ),
    "a day in another order": (
        lambda s: s.log.between("01.03.2024"),
        "`start` is '01.03.2024', which is not a date; write it as YYYY-MM-DD.",
    ),
    "a day that is a number": (
        lambda s: cv.list_actions(s.plan, on=3),  # type: ignore[arg-type]
        "`on` is 3, which is not a date; write it as YYYY-MM-DD.",
    ),
    "how many in words": (
        lambda s: cv.measure_funnel(s.log, ["add", "purchase"]).show_leaks(top="all"),  # type: ignore[arg-type]
        "`top` is 'all'; it must be a whole number, at least 1.",
    ),
    "a plan that is None": (
        lambda _: cv.read_plan(None),  # type: ignore[arg-type]
        "The path of a YAML file is None; it must be text or a `Path`.",
    ),
    "segments in a list": (
        lambda s: cv.read_events(s.rows, segments=["mobile"]),  # type: ignore[arg-type]
        "`segments` is of type list; it must be what `read_segments` gives.",
    ),
    "an empty plan": (
        lambda s: cv.read_plan(s.write("empty.yaml", "")),
        "{folder}/empty.yaml:1: the file is empty. Write its fields, or name another file.",
    ),
    "a folder for a plan": (
        lambda s: cv.read_plan(s.folder),
        "{folder} is a folder; it must be a YAML file. Name one in it.",
    ),
    "a log of a wrong name": (
        lambda s: cv.read_events(s.write("events.csv", "a\n1\n").with_name("evnts.csv")),
        "No events at `{folder}/evnts.csv`: there is no such file, folder or match. Did you mean 'events.csv'? Check "
        "`events`; in a run file a relative path starts at the run file's folder, in a notebook at the notebook's.",
    ),
    "a spreadsheet": (
        lambda s: cv.read_events(s.write("events.xlsx", "")),
        "`{folder}/events.xlsx` can't be read: its files end in '.xlsx'; give files of one kind among '.csv', '.db', "
        "'.ddb', '.duckdb', '.json', '.jsonl', '.ndjson', '.parquet', '.pq', '.tsv', CSV and JSON also packed as .gz "
        "or .zst.",
    ),
    "no log at all": (
        lambda _: cv.read_events(None),  # type: ignore[arg-type]
        "`events` is of type NoneType; give a file, a folder, a DataFrame or a table that exports Arrow.",
    ),
    "an empty path": (
        lambda _: cv.read_events(""),
        "`events` is ''; give a file, a folder, a glob or `dataset:NAME`.",
    ),
    "a history that is a number": (
        lambda s: cv.find_alerts(cv.measure_rates(s.log, s.plan), history=3),  # type: ignore[arg-type]
        "`history` is of type int; it must be what `find_alerts` gives.",
    ),
    "a plan's path to change": (
        lambda s: cv.recalibrate(cv.measure_rates(s.log, s.plan), "plan.yaml"),  # type: ignore[arg-type]
        "`plan` is of type str; it must be what `read_plan` gives.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_with_what_is_wrong_and_what_to_do(mistake: str, shop: Shop) -> None:
    call, message = MISTAKES[mistake]
    with pytest.raises(ConvlibError) as caught:
        call(shop)
    assert str(caught.value) == message.replace("{folder}", str(shop.folder))


#: One misspelt value of each closed set, and the name that must be offered.
CLOSED_SETS: dict[str, tuple[Call, str]] = {
    "columns": (lambda s: cv.measure_rates(s.log, s.plan, by="devicetype"), "device_type"),
    "events": (lambda s: cv.measure_funnel(s.log, ["ad", "purchase"]), "add"),
    "conversions": (lambda s: s.plan["add_to_crt"], "add_to_cart"),
    "macros": (lambda s: cv.correlate(s.log, s.plan, macro="purchas"), "purchase"),
    "micros": (lambda s: cv.find_threshold(s.log, s.plan, macro="purchase", micro="add_to_crt"), "add_to_cart"),
    "units": (lambda s: cv.measure_rates(s.log, s.plan, unit="users"), "user"),  # type: ignore[arg-type]
    "orders": (lambda s: cv.measure_funnel(s.log, ["add", "purchase"], order="orderd"), "ordered"),  # type: ignore[arg-type]
    "breakdowns": (lambda s: cv.measure_funnel(s.log, ["add", "purchase"], breakdown="first_tuch"), "first_touch"),
    "models": (lambda s: cv.attribute(s.log, s.plan, macro="purchase", model="markof"), "markov"),  # type: ignore[arg-type]
    "targets": (lambda s: cv.correlate(s.log, s.plan, macro="purchase", target="convertion"), "conversion"),  # type: ignore[arg-type]
    "paths' events": (lambda s: cv.trace_paths(s.log, events="conversion"), "conversions"),  # type: ignore[arg-type]
    "periods": (lambda s: cv.measure_rates(s.log, s.plan, every="weekly"), "W"),
    "weekdays": (lambda s: cv.measure_rates(s.log, s.plan, week_start="mondy"), "monday"),
    "zones": (lambda s: s.log.between(timezone="Europe/Pariss"), "Europe/Paris"),
    "segments": (lambda s: s.log.segment("al"), "all"),
    "datasets": (lambda _: cv.load_dataset("shops"), "shop"),
    "presets": (lambda _: cv.read_mapping("posthg"), "posthog"),
    "engines": (lambda s: cv.read_events(s.rows, engine="duckbd"), "duckdb"),  # type: ignore[arg-type]
    "rules of alerts": (lambda s: cv.find_alerts(cv.measure_rates(s.log, s.plan), rules=["chnge"]), "change"),
    "parameters": (lambda _: cv.check_parameters(events="x.csv", plan="y", windw="7D"), "window"),
    "files": (lambda s: cv.read_plan(s.folder / "pln.yaml"), "plan.yaml"),
    "plan's fields": (lambda s: cv.read_plan(s.write("p1.yaml", PLAN.replace("micros:", "micro:"))), "micros"),
    "stages": (lambda s: cv.read_plan(s.write("p2.yaml", PLAN.replace("decision", "decison"))), "decision"),
    "kinds": (lambda s: cv.read_plan(s.write("p3.yaml", PLAN.replace("milestone", "milestne"))), "process_milestone"),
    "operators": (lambda s: s.log.segment({"device_type": {"regx": "x"}}), "regex"),
    "scopes": (
        lambda s: cv.read_segments(s.write("s.yaml", "m:\n  match: {device_type: mobile}\n  scope: units\n")),
        "unit",
    ),
    "a run file's fields": (lambda s: cv.run_reports(s.write("r1.yaml", "run: x\nevent: y\nplan: z\n")), "events"),
    "schedules": (lambda s: write_schedule(s.write("r2.yaml", "run: x\n"), kind="windoze"), "windows"),
}


@pytest.mark.parametrize("closed", CLOSED_SETS)
def test_the_nearest_name_of_each_closed_set_is_offered(closed: str, shop: Shop) -> None:
    call, nearest = CLOSED_SETS[closed]
    with pytest.raises(ConvlibError) as caught:
        call(shop)
    assert f" Did you mean {nearest!r}?" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "show", "{folder}/plna.yaml"], "{folder}/plna.yaml does not exist. Did you mean 'plan.yaml'?"),
        (["check", "{folder}"], "{folder} is a folder; it must be a YAML file. Name one in it."),
        (["run", "{folder}/bytes.yaml"], "{folder}/bytes.yaml:1: the file is not UTF-8 text. Save it as UTF-8."),
        (
            ["plan", "suggest", "{folder}/bytes.parquet"],
            "`{folder}/bytes.parquet` can't be read: Invalid Input Error: No magic bytes found at end of file "
            "'{folder}/bytes.parquet'. Check it, or export it again.",
        ),
        (
            ["schedule", "{folder}/run.yaml", "--as", "crn"],
            "`--as` is 'crn'; it must be one of 'cron', 'systemd', 'github', 'windows'. Did you mean 'cron'?",
        ),
    ],
)
def test_the_command_answers_a_mistake_with_the_same_words(arguments: list[str], message: str, shop: Shop) -> None:
    for name in ("bytes.yaml", "bytes.parquet"):
        (shop.folder / name).write_bytes(b"PAR1\xff\xfe\x00" * 10)
    ended = CliRunner().invoke(app, [each.replace("{folder}", str(shop.folder)) for each in arguments])
    assert (ended.exit_code, ended.stderr) == (
        2,
        f"1 problem:\n  1. {message}\n".replace("{folder}", str(shop.folder)),
    )
