import datetime as dt
import hashlib
import hmac
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import Rectangle
from scipy.stats import mannwhitneyu
from small_logs import make_log, make_plan, pick, repeat, write_rows

import convlib as cv
from convlib import stats
from convlib.events import EventLog
from convlib.plan import Plan
from convlib.scorecard import COLUMNS, SCORES, Scorecard, score_units

PLAN = """
macros:
  - id: buy
    match: {event_name: buy}
    micros:
      - {id: save, match: {event_name: save}, stage: decision, kind: secondary_action}
    losses: [{id: leave, match: {event_name: leave}}]
"""
TWO = PLAN.replace(
    "    losses", "      - {id: read, match: {event_name: read}, stage: awareness, kind: secondary_action}\n    losses"
)
KEY = "a key of more than 16 bytes"
# Landmark 1D, horizon 2D. Fitted on as of day 4: those of day 0, 60 of 100 with `save` and 20 of 100 without.
FITTED = (
    repeat("a", 60, "visit 0h", "save 1h", "buy 30h")
    + repeat("b", 40, "visit 0h", "save 1h")
    + repeat("c", 20, "visit 0h", "buy 30h")
    + repeat("d", 80, "visit 0h")
)
# The window of these is open on day 4, and they entered before: in neither part.
BETWEEN = repeat("m", 50, "visit 2D", "buy 3.5D")
# Tried on: 12 of 20 with it, 5 of 20 without.
LATER = (
    repeat("e", 12, "visit 5D", "save 5.5D", "buy 7D")
    + repeat("f", 8, "visit 5D", "save 5.5D")
    + repeat("g", 5, "visit 5D", "buy 7D")
    + repeat("h", 15, "visit 5D")
)
# Still open: p0, p1 and q0. r has bought since, s has left since; t left before its landmark, u has not reached it.
PENDING = (
    repeat("p", 2, "visit 8D", "save 8.5D")
    + repeat("q", 1, "visit 8D")
    + "r visit 8D\nr save 8.5D\nr buy 9.5D\ns visit 8D\ns leave 9.2D\nt visit 8D\nt leave 8.5D\nu visit 9.5D\n"
    + "end visit 10D\n"
)
#: log2(6) x 20, with odds of 60:40 against 20:80.
POINTS = 52
score = partial(score_units, macro="buy", exposure="1D", horizon="2D", until="2024-01-04")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path, PLAN)


@pytest.fixture
def log(plan: Plan) -> EventLog:
    return make_log(FITTED + BETWEEN + LATER + PENDING, plan)


@pytest.fixture
def card(log: EventLog, plan: Plan) -> Scorecard:
    return score(log, plan)


def test_score_units_gives_points_for_the_log_odds(card: Scorecard) -> None:
    assert list(card.table) == list(COLUMNS)
    assert pick(card.table, "micro stage units_with points note") == [("save", "decision", 100, POINTS, "")]
    # Woolf's variance with the correction for two coefficients.
    reach = 1.959963984540054 * np.sqrt((1 / 60 + 1 / 40 + 1 / 20 + 1 / 80) * 200 / 198)
    found = pick(card.table, "log_odds log_odds_ci_lower log_odds_ci_upper")
    assert found == [pytest.approx((np.log(6), np.log(6) - reach, np.log(6) + reach), rel=1e-10)]
    # Odds of 1:4 are two doublings below evens, which are 200 points.
    assert (card.base_points, card.fitted, card.until) == (160, 200, dt.date(2024, 1, 4))


def test_score_units_tries_the_points_on_units_that_entered_later(card: Scorecard) -> None:
    assert pick(card.validation, "decile units converted observed") == [(1, 20, 12, 0.6), (6, 20, 5, 0.25)]
    # 212 points are odds of 2 ** 0.6, 160 are 1:4.
    assert card.validation["predicted"].tolist() == pytest.approx([2**0.6 / (1 + 2**0.6), 0.2], rel=1e-12)
    low, high = stats.wilson_interval([12, 5], [20, 20])
    assert card.validation["observed_ci_lower"].tolist() == low.tolist()
    assert card.validation["observed_ci_upper"].tolist() == high.tolist()
    # Of 17 x 23 pairs 12 x 15 are in order and 12 x 8 + 5 x 15 are ties.
    assert card.auc == pytest.approx((180 + 171 / 2) / 391, rel=1e-12)
    assert card.auc_ci_lower < card.auc < card.auc_ci_upper
    assert card.lift == pytest.approx((12 / 20) / (17 / 40), rel=1e-12)
    assert card.note == ""


def test_score_units_scores_who_was_at_risk_at_the_landmark(card: Scorecard) -> None:
    scores = card.ranked
    assert list(scores) == list(SCORES)
    by_id = scores.set_index("unit_id")
    assert len(scores) == 200 + 50 + 40 + 5
    assert {"t", "u", "end"}.isdisjoint(by_id.index)
    assert by_id.loc[["p0", "p1", "q0", "r", "s", "a0"], "pending"].tolist() == [True, True, True, False, False, False]
    assert by_id.loc[["p0", "q0"], "score"].tolist() == [160 + POINTS, 160]
    assert by_id.loc["q0", "probability"] == pytest.approx(0.2, rel=1e-12)
    # 123 of the 295 have it: they share the first decile, and the others begin at 123/295.
    assert by_id.groupby("decile").size().to_dict() == {1: 123, 5: 172}
    # Pending ones first, by their scores, then the others.
    assert scores["unit_id"].head(4).tolist()[2:] == ["q0", "a0"]
    assert scores["score"].head(3).is_monotonic_decreasing
    assert scores["score"].iloc[3:].is_monotonic_decreasing


def test_score_units_says_what_the_score_is_worth(card: Scorecard) -> None:
    low, high = card.auc_ci_lower, card.auc_ci_upper
    assert card.takeaways == (
        "Of the 40 units that entered after 4 January 2024, one that reached Buy had the higher score than one that "
        f"did not in 67.9% of the pairs ({low:.1%} to {high:.1%}; 50% is chance).",
        "The 20 with the highest scores did so 1.41 times as often as all (0.910 to 1.84): 60.0% (38.7% to 78.1%).",
        "By their scores 40.1% of them would, and 42.5% did; in 2 of 2 groups by score, of 20 units each, the "
        "prediction lies within the interval of what they did.",
        "Among 200 units fitted on, until 4 January 2024, the most points go to Save (+52): doing it is associated "
        "with Buy, which does not say that it brings it about.",
        "3 units are still open, 2 of them in the highest decile.",
    )


def test_score_units_fits_on_nothing_that_happened_after_the_split(card: Scorecard, plan: Plan) -> None:
    rows = write_rows(FITTED + BETWEEN + LATER + PENDING)
    known = rows[rows["timestamp"] < pd.Timestamp("2024-01-05")]
    then = score(make_log(known, plan), plan)
    pd.testing.assert_frame_equal(then.table, card.table)
    assert then.base_points == card.base_points
    assert np.isnan([then.auc, then.lift]).all()
    assert then.note == "0 of the units to try it on converted, needs 5"


def test_score_units_fits_on_no_window_that_the_data_do_not_end(log: EventLog, plan: Plan) -> None:
    # By the midnight after the last day the windows of those who entered on day 8 would be over; the data end before.
    assert score(log, plan, until="2024-01-11").fitted == 290


@pytest.mark.parametrize("day", ["2023-12-31", "2024-01-12"])
def test_score_units_refuses_a_day_outside_the_data(day: str, log: EventLog, plan: Plan) -> None:
    with pytest.raises(cv.ParamError) as error:
        score(log, plan, until=day)
    assert error.value.problems == (
        f"`until` is {day}; it must be a day from 2024-01-01, the first day of entries, to 2024-01-11, the last of the "
        "data.",
    )


def test_score_units_splits_where_seven_tenths_of_the_usable_units_are_before(log: EventLog, plan: Plan) -> None:
    # On the third midnight 200 windows are over and 40 units enter later; before it nothing is over.
    assert score(log, plan, until=None).until == dt.date(2024, 1, 3)


def test_score_units_takes_the_plans_clock(tmp_path: Path) -> None:
    clock = "    correlation: {entry: visit, exposure: [6h, 1D], horizon: 2D}\n"
    plan = make_plan(tmp_path, PLAN + clock)
    card = score_units(make_log(FITTED + LATER + PENDING, plan), plan, macro="buy", until="2024-01-04")
    assert (card.exposure, card.horizon, card.table["points"].item()) == ("1D", "2D", POINTS)


def test_score_units_adjusts_for_columns(plan: Plan) -> None:
    # On each device alone saving changes nothing: 40 of 80 and 20 of 40; 10 of 40 and 20 of 80.
    cells = [("x", 40, 40, 20, 20, "mobile"), ("y", 10, 30, 20, 60, "desktop")]
    rows = "".join(
        repeat(f"{name}a", yes, f"visit 0h device_type={device}", "save 1h", "buy 30h")
        + repeat(f"{name}b", no, f"visit 0h device_type={device}", "save 1h")
        + repeat(f"{name}c", others, f"visit 0h device_type={device}", "buy 30h")
        + repeat(f"{name}d", rest, f"visit 0h device_type={device}")
        for name, yes, no, others, rest, device in cells
    )
    log = make_log(rows + "end visit 10D", plan)
    assert score(log, plan).table["points"].item() > 5
    for adjust in (["device_type"], "device_type"):
        table = score(log, plan, adjust=adjust).table
        assert table["log_odds"].item() == pytest.approx(0, abs=1e-9)
        assert table["note"].item() == "may be 0"


def test_score_units_scores_sessions(plan: Plan) -> None:
    card = score(make_log(FITTED + LATER + "end visit 10D", plan), plan, unit="session", exposure="10min", horizon="1h")
    assert card.ranked["unit_id"].str.contains(":").all()


def test_score_units_gives_no_points_to_what_the_log_does_not_tell(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, TWO)
    rows = write_rows(FITTED + LATER + PENDING)
    reads = rows[rows["event_name"] == "save"].assign(event_name="read")
    card = score(make_log(pd.concat([rows, reads]), plan), plan)
    notes = [("save", "can't be told apart from Read"), ("read", "can't be told apart from Save")]
    assert pick(card.table, "micro note") == notes
    assert card.table["points"].isna().all()
    # All scores are alike, and say what the rate was.
    assert card.ranked["score"].nunique() == 1
    assert card.auc == 0.5
    assert card.ranked["probability"].iloc[0] == pytest.approx(80 / 200, abs=0.01)


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        (
            repeat("a", 29, "visit 0h", "save 1h", "buy 30h") + repeat("d", 40, "visit 0h"),
            "29 of the units to fit on converted, needs 30",
        ),
        (
            repeat("a", 40, "visit 0h", "save 1h", "buy 30h") + repeat("d", 10, "visit 0h"),
            "10 of the units to fit on did not convert, needs 30",
        ),
        (repeat("a", 40, "visit 5D", "buy 7D") + "early visit 0h\n", "0 of the units to fit on converted, needs 30"),
    ],
)
def test_score_units_with_too_few_to_fit_has_no_points(rows: str, note: str, plan: Plan) -> None:
    card = score(make_log(rows + "end visit 10D", plan), plan)
    assert card.note == note
    assert card.table["note"].tolist() == [note]
    assert card.table[["log_odds", "points"]].isna().all(axis=None)
    assert np.isnan([card.base_points, card.auc, card.lift]).all()
    assert card.ranked[["score", "probability", "decile"]].isna().all(axis=None)
    assert card.takeaways == (f"The score of segment all can't be judged: {note}.",)
    assert card.ranked.dtypes.astype(str).tolist() == ["str", "Int64", "float64", "Int64", "bool"]


def test_score_units_of_an_empty_segment_has_no_scores(log: EventLog, plan: Plan) -> None:
    card = score(log.segment({"event_name": "nothing"}), plan, until=None)
    assert (len(card.ranked), len(card.validation), card.table["points"].count()) == (0, 0, 0)


def test_scores_are_hashed_with_the_key(card: Scorecard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVLIB_HASH_KEY", raising=False)
    assert card.scores["unit_id"].isna().all()
    assert card.scores["score"].tolist() == card.ranked["score"].tolist()
    monkeypatch.setenv("CONVLIB_HASH_KEY", KEY)
    expected = [hmac.new(KEY.encode(), name.encode(), hashlib.sha256).hexdigest() for name in card.ranked["unit_id"]]
    assert card.scores["unit_id"].tolist() == expected


def test_export_writes_hashed_ids(card: Scorecard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVLIB_HASH_KEY", KEY)
    card.export(tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "scores.csv", dtype={"score": "Int64", "decile": "Int64"}), card.scores
    )


def test_export_leaves_ids_that_were_hashed_on_reading(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVLIB_HASH_KEY", KEY)
    log = cv.read_events(write_rows(FITTED + LATER + PENDING), plan=plan, hash_ids=True)
    cards = [score(log, plan), score(log, plan, unit="session", exposure="10min", horizon="1h")]
    monkeypatch.delenv("CONVLIB_HASH_KEY")
    for card in cards:
        card.export(tmp_path / "scores.csv")
        assert card.scores["unit_id"].tolist() == card.ranked["unit_id"].tolist()


def test_export_without_a_key_says_what_to_do(card: Scorecard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVLIB_HASH_KEY", "short")
    with pytest.raises(cv.ParamError) as error:
        card.export(tmp_path / "scores.csv")
    assert error.value.problems == (
        "`export` writes hashed ids, and there is no key to hash them with. Put one of at least 16 bytes into the "
        "environment variable CONVLIB_HASH_KEY; whoever has it can join the scores to the users.",
    )
    assert not (tmp_path / "scores.csv").exists()


def test_export_writes_csv_into_a_folder_that_is_there(
    card: Scorecard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVLIB_HASH_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.csv").mkdir()
    said = {
        "none/scores.xlsx": [
            "`path` is 'none/scores.xlsx'; it must end in .csv, which is what `export` writes.",
            "`path` is 'none/scores.xlsx', in a folder that is not there; make 'none' first.",
        ],
        "old.csv": ["`path` is 'old.csv', a folder; name a file."],
        ".": [
            "`path` is '.'; it must end in .csv, which is what `export` writes.",
            "`path` is '.', a folder; name a file.",
        ],
    }
    for path, problems in said.items():
        with pytest.raises(cv.ParamError) as error:
            card.export(path)
        assert list(error.value.problems) == problems
    assert {path.name for path in tmp_path.rglob("*")} == {"plan.yaml", "old.csv"}


def test_export_leaves_nothing_half_written(card: Scorecard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVLIB_HASH_KEY", KEY)
    card.export(tmp_path / "scores.csv")
    before = (tmp_path / "scores.csv").read_bytes()

    def break_off(_: pd.DataFrame, path: Path, **__: object) -> None:
        path.write_text("unit_id,sc")
        raise OSError

    monkeypatch.setattr(pd.DataFrame, "to_csv", break_off)
    with pytest.raises(OSError, match=r"^$"):
        card.export(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_bytes() == before


def test_score_units_lists_every_wrong_argument(log: EventLog, plan: Plan) -> None:
    with pytest.raises(cv.ParamError) as error:
        score(log, plan, macro="bye", until="4 January", points_to_double=0, confidence=95)
    assert error.value.problems == (
        "`macro` is 'bye'; the plan's macros are 'buy'. Did you mean 'buy'?",
        "`confidence` is 95; it must lie between 0 and 1, such as 0.95.",
        "`until` is '4 January', which is not a date; write it as YYYY-MM-DD.",
        "`points_to_double` is 0; it must be above 0, such as 20.",
    )


@pytest.mark.parametrize("number", ["a", None, True])
def test_score_units_refuses_points_that_are_no_number(number: object, log: EventLog, plan: Plan) -> None:
    with pytest.raises(cv.ParamError) as error:
        score(log, plan, points_to_double=number)  # type: ignore[arg-type]
    assert error.value.problems == (f"`points_to_double` is {number!r}; it must be above 0, such as 20.",)


def test_score_units_refuses_a_period_in_which_nobody_can_be_followed(log: EventLog, plan: Plan) -> None:
    with pytest.raises(cv.EventDataError) as error:
        score(log, plan, exposure="30D", horizon="60D")
    assert error.value.problems == (
        "None of the 298 units that enter from 2024-01-01 to 2024-01-11 has 30D + 60D of follow-up before the end of "
        "the data, 2024-01-11. Choose earlier entries or a shorter horizon.",
    )


def read_bars(ax: Axes) -> list[float]:
    return [bar.get_width() for bar in ax.patches if isinstance(bar, Rectangle)]


def read_errors(ax: Axes) -> ErrorbarContainer:
    return next(each for each in ax.containers if isinstance(each, ErrorbarContainer))


def read_ticks(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_plot_shows_points_with_their_intervals(card: Scorecard) -> None:
    ax = card.plot()
    assert read_bars(ax) == [POINTS]
    ends = read_errors(ax).lines[2][0].get_segments()[0][:, 0].tolist()
    bounds = card.table[["log_odds_ci_lower", "log_odds_ci_upper"]].to_numpy(float) * 20 / np.log(2)
    assert ends == pytest.approx(bounds[0].tolist(), rel=1e-9)
    assert read_ticks(ax) == ["Save (n\xa0=\xa0100)"]
    assert ax.get_title(loc="left") == "What counts towards Buy? (all)"


def test_plot_calibration_shows_predicted_against_observed(card: Scorecard) -> None:
    ax = card.plot_calibration()
    dots = read_errors(ax).lines[0]
    assert np.asarray(dots.get_xdata()).tolist() == card.validation["predicted"].tolist()
    assert np.asarray(dots.get_ydata()).tolist() == [0.6, 0.25]
    assert "n = 40 units" in ax.get_xlabel()


def test_plot_lift_shows_how_much_more_often_each_decile_converts(card: Scorecard) -> None:
    ax = card.plot_lift()
    assert read_bars(ax) == pytest.approx([0.6 / 0.425, 0.25 / 0.425])
    assert read_ticks(ax) == ["decile 1 (n\xa0=\xa020)", "decile 6 (n\xa0=\xa020)"]


def test_plots_of_an_empty_card_are_drawn(log: EventLog, plan: Plan) -> None:
    card = score(log.segment({"event_name": "nothing"}), plan)
    assert [read_bars(ax) for ax in (card.plot(), card.plot_calibration(), card.plot_lift())] == [[], [], []]


def test_score_units_finds_the_planted_effects_of_the_shop() -> None:
    log, plan, truth = cv.simulate_shop(units=20_000, seed=1)
    card = score_units(log, plan, macro="purchase", exposure="1h", horizon="7D", adjust=["device_type", "medium"])
    table = card.table.merge(truth, on="micro")
    assert table.loc[table["planted"] == "positive", "log_odds_ci_lower"].min() > 0
    assert table.loc[table["planted"] == "null", "log_odds"].abs().max() < 0.15
    assert card.auc_ci_lower > 0.55
    predicted = (card.validation["predicted"] * card.validation["units"]).sum()
    assert predicted == pytest.approx(card.validation["converted"].sum(), rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_measure_area_equals_the_mean_over_pairs_with_delongs_variance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ones, others = rng.integers(1, 9, 30), rng.integers(0, 7, 50)
    pairs = np.sign(ones[:, None] - others) / 2 + 0.5
    error = np.sqrt(pairs.mean(axis=1).var(ddof=1) / 30 + pairs.mean(axis=0).var(ddof=1) / 50)
    area, low, high = stats.measure_area(np.append(ones, others), np.repeat([1, 0], [30, 50]))
    assert area == pytest.approx(mannwhitneyu(ones, others).statistic / (30 * 50), rel=1e-12)
    reach = 1.959963984540054 * error
    assert (low, high) == pytest.approx((pairs.mean() - reach, pairs.mean() + reach), rel=1e-12)


def test_measure_area_stays_within_its_bounds() -> None:
    assert stats.measure_area([1, 2, 3, 4], [0, 0, 1, 1]) == (1.0, 1.0, 1.0)
    assert stats.measure_area([1, 2, 3, 3, 4], [0, 0, 0, 1, 1])[2] == 1.0
    assert np.isnan(stats.measure_area([1, 2, 3], [0, 0, 1])).all()
