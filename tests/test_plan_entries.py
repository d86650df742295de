from datetime import date
from pathlib import Path

import pytest

from convlib.errors import PlanError
from convlib.plan import Macro, Micro, read_plan
from convlib.plan_entries import Action, Benchmark, Clock, Dedupe, Metric, Range, Target, ValueColumn

DURATION = "it must be a number and one of the units s, min, h, D, W, such as '30min' or '7D'."
RISING = "the durations must rise, each once."


def read_micro(folder: Path, fields: str) -> Micro:
    path = folder / "plan.yaml"
    path.write_text(
        "macros:\n"
        "  - id: purchase\n"
        "    match: {event_name: purchase}\n"
        "    micros:\n"
        f"      - {{id: cart, match: {{event_name: cart}}, stage: decision, kind: process_milestone, {fields}}}\n",
        encoding="utf-8",
    )
    found = read_plan(path)["cart"]
    assert isinstance(found, Micro)
    return found


def read_macro(folder: Path, fields: str) -> Macro:
    path = folder / "plan.yaml"
    path.write_text(f"macros: [{{id: purchase, match: {{event_name: purchase}}, {fields}}}]\n", encoding="utf-8")
    found = read_plan(path)["purchase"]
    assert isinstance(found, Macro)
    return found


def test_micro_has_a_default_for_all_that_is_left_out_or_empty(tmp_path: Path) -> None:
    micro = read_micro(tmp_path, "name: , owner: , metric: , direction: , actions: , benchmark:")
    assert (micro.name, micro.owner, micro.direction, micro.actions) == ("Cart", None, "up", ())
    assert micro.metric == Metric(type="rate")
    assert (micro.target, micro.benchmark, micro.value, micro.effort) == (None, None, None, None)


def test_micro_reads_short_and_long_forms_alike(tmp_path: Path) -> None:
    short = read_micro(tmp_path, "metric: per_unit, target: 3, value: 2.5")
    assert short == read_micro(tmp_path, "metric: {type: per_unit}, target: {value: 3}, value: 2.5")
    assert short.target == Target(value=3)
    assert short.value == 2.5


def test_micro_reads_targets_benchmarks_and_actions(tmp_path: Path) -> None:
    micro = read_micro(
        tmp_path,
        "target: {value: 0.1, by: 2026-12-31}, benchmark: {high: 0.2, by: {channel: {mail: {low: 0, high: 1}}}}, "
        "actions: [{text: Shorten it, due: 2026-12-15, done: true}], value: {column: worth}",
    )
    assert micro.target is not None
    assert micro.target.by == date(2026, 12, 31)
    assert micro.benchmark == Benchmark(high=0.2, by={"channel": {"mail": Range(low=0, high=1)}})
    assert [(each.text, each.due, each.done) for each in micro.actions] == [("Shorten it", date(2026, 12, 15), True)]
    assert isinstance(micro.actions[0], Action)
    assert micro.value == ValueColumn(column="worth")
    assert micro.columns == {"event_name", "worth"}


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("rate", "rate"),
        ("{type: rate, over: purchase}", "rate over purchase"),
        ("sum", "sum of value"),
        ("{type: mean, column: amount}", "mean of amount"),
        ("{type: time_between, from: purchase}", "time_between from purchase"),
        ("{type: follow_up, window: 7D}", "follow_up within 7D"),
        ("{type: abandonment, over: purchase}", "abandonment over purchase"),
    ],
)
def test_metric_reads_in_words(tmp_path: Path, metric: str, words: str) -> None:
    assert str(read_micro(tmp_path, f"metric: {metric}").metric) == words


@pytest.mark.parametrize(
    ("exposure", "durations"), [("auto", ()), ("28D", ("28D",)), ("[1h, 1D]", ("1h", "1D")), ("", ())]
)
def test_clock_reads_one_or_several_exposures(tmp_path: Path, exposure: str, durations: tuple[str, ...]) -> None:
    macro = read_macro(tmp_path, f"correlation: {{entry: register, exposure: {exposure}, horizon: 120D}}")
    assert macro.correlation == Clock(entry="register", exposure=list(durations), horizon="120D")
    assert macro.correlation.exposure == durations


def test_dedupe_reads_short_and_long_forms_alike(tmp_path: Path) -> None:
    short = read_micro(tmp_path, "dedupe: 2s, value: {column: worth}")
    assert short.dedupe == Dedupe(within="2s")
    assert short == read_micro(tmp_path, "dedupe: {within: 2s, same: }, value: {column: worth}")
    assert short.columns == {"event_name", "worth"}


def test_dedupe_names_columns_of_the_log(tmp_path: Path) -> None:
    fields = "dedupe: {within: 2s, same: [product_id, page_path]}"
    assert read_micro(tmp_path, fields).columns == {"event_name", "product_id", "page_path"}
    assert read_macro(tmp_path, fields).columns == {"event_name", "product_id", "page_path"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ("dedupe: 2", f".dedupe is 2; {DURATION}"),
        ("dedupe: 2d", f".dedupe is '2d'; {DURATION} Did you mean '2D'?"),
        ("dedupe: {within: 0s}", ".dedupe.within is '0s'; it must be longer than zero, such as '30min' or '7D'."),
        ("dedupe: {same: [product_id]}",
         ".dedupe has no `within`. Add `within:` how long after the one before it does not count, such as 2s."),
        ("dedupe: {within: 2s, same: product_id}", ".dedupe.same is 'product_id'; it must be a list."),
        ("dedupe: {within: 2s, same: [3]}",
         ".dedupe.same[0] is 3; it must be text (in quotes if it looks like a number)."),
        ("dedupe: {within: 2s, by: [x]}", ".dedupe has an unknown field 'by'; the fields are 'within', 'same'."),
        ("name: 5", ".name is 5; it must be text (in quotes if it looks like a number)."),
        ("owner: [a]", ".owner is ['a']; it must be text (in quotes if it looks like a number)."),
        ("direction: down_", ".direction is 'down_'; it must be one of 'up', 'down'. Did you mean 'down'?"),
        ("effort: 0", ".effort is 0; it must be above 0, in whatever unit all efforts of the plan share."),
        ("effort: much", ".effort is 'much'; it must be a number."),
        ("effort: true", ".effort is True; it must be a number."),
        ("value: [1]", ".value is [1]; it must be a number."),
        ("value: {}", ".value has no `column`. Add `column:` the column that holds the value."),
        ("target: 6", ".target is 6; a share lies between 0 and 1. Did you mean 0.06?"),
        ("target: 600", ".target is 600; a share lies between 0 and 1."),
        ("target: -0.1", ".target is -0.1; a share lies between 0 and 1."),
        ("target: {value: 12.5}", ".target.value is 12.5; a share lies between 0 and 1. Did you mean 0.125?"),
        ("target: {by: 2026-12-31}", ".target has no `value`. Add `value:` the number to reach."),
        ("target: {value: 0.1, by: 2026-13-01}", ".target.by is '2026-13-01'; the calendar has no such day."),
        ("target: {value: 0.1, by: 2026}", ".target.by is 2026; it must be a date such as 2026-12-31."),
        ("metric: follow_up, target: 6", ".target is 6; a share lies between 0 and 1. Did you mean 0.06?"),
        ("benchmark: {low: 6}", ".benchmark.low is 6; a share lies between 0 and 1. Did you mean 0.06?"),
        (
            "benchmark: {by: {device_type: {mobile: {high: 12}}}}",
            ".benchmark.by.device_type.mobile.high is 12; a share lies between 0 and 1. Did you mean 0.12?",
        ),
        ("benchmark: {low: 0.3, high: 0.2}", ".benchmark.low is 0.3, above `high`, which is 0.2. Swap them."),
        ("metric: mean, benchmark: {low: 3, high: 2}", ".benchmark.low is 3, above `high`, which is 2. Swap them."),
        ("benchmark: {}", ".benchmark has neither `low` nor `high`. Add one of them or both."),
        (
            "benchmark: {low: 0.1, by: {device_type: {mobile: {}}}}",
            ".benchmark.by.device_type.mobile has neither `low` nor `high`. Add one of them or both.",
        ),
        ("benchmark: {by: {device_type: mobile}}", ".benchmark.by.device_type is 'mobile'; it must be a mapping."),
        (
            "benchmark: {by: {device_type: {mobile: {lo: 1}}}}",
            ".benchmark.by.device_type.mobile has an unknown field 'lo'; the fields are 'low', 'high'. "
            "Did you mean 'low'?",
        ),
        ("metric: 5", ".metric is 5; it must be a mapping of fields."),
        (
            "metric: ratio",
            ".metric is 'ratio'; it must be one of 'rate', 'per_unit', 'sum', 'mean', 'time_between', 'follow_up', "
            "'abandonment', 'depth', 'return_rate', 'churn'. Did you mean 'rate'?",
        ),
        ("metric: {over: purchase}", ".metric has no `type`. Add `type:` the kind of metric, such as rate."),
        (
            "metric: time_between",
            ".metric has no `from`. Add `from:` the id of the conversion where the time begins.",
        ),
        (
            "metric: {type: rate, window: 7D}",
            ".metric.window has no meaning for a metric of type 'rate', which takes 'over', 'unit'.",
        ),
        (
            "metric: {type: rate, over: cart}",
            ".metric.over is 'cart', the conversion itself; it must be another one.",
        ),
        ("metric: {type: follow_up, window: 7d}", f".metric.window is '7d'; {DURATION} Did you mean '7D'?"),
        ("actions: [{owner: me}]", ".actions[0] has no `text`. Add `text:` what is to be done."),
        ("actions: [{text: x, done: 1}]", ".actions[0].done is 1; it must be true or false."),
    ],
)  # fmt: skip
def test_micro_says_what_would_be_right(tmp_path: Path, fields: str, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        read_micro(tmp_path, fields)
    assert str(caught.value) == f"{tmp_path / 'plan.yaml'}:5: macros[purchase].micros[cart]{text}"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ("currency: usd", ".currency is 'usd'; it must be three capital letters (ISO 4217), such as 'USD'. "
         "Did you mean 'USD'?"),
        ("currency: dollars", ".currency is 'dollars'; it must be three capital letters (ISO 4217), such as 'USD'."),
        ("target: 5", ".target is 5; a share lies between 0 and 1. Did you mean 0.05?"),
        ("benchmark: {low: 5}", ".benchmark.low is 5; a share lies between 0 and 1. Did you mean 0.05?"),
        ("correlation: {exposure: [2D, 1D]}", f".correlation.exposure is ['2D', '1D']; {RISING}"),
        ("correlation: {exposure: [1D, 24h]}", f".correlation.exposure is ['1D', '24h']; {RISING}"),
        ("correlation: {exposure: [3]}", f".correlation.exposure[0] is 3; {DURATION}"),
        ("correlation: {horizon: 0D}", ".correlation.horizon is '0D'; it must be longer than zero, "
         "such as '30min' or '7D'."),
    ],
)  # fmt: skip
def test_macro_says_what_would_be_right(tmp_path: Path, fields: str, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        read_macro(tmp_path, fields)
    assert str(caught.value) == f"{tmp_path / 'plan.yaml'}:1: macros[purchase]{text}"


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ("{type: rate, over: purchase}", ".over is 'purchase', the conversion itself; it must be another one."),
        ("{type: time_between, from: purchase}", ".from is 'purchase', the conversion itself; it must be another one."),
        ("abandonment", " has no `over`, so it is always 0% of a macro. Add `over:` what comes before it."),
    ],
)
def test_further_metrics_do_not_compare_a_conversion_with_itself(tmp_path: Path, metric: str, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        read_macro(tmp_path, f"metrics: [{{name: X, metric: {metric}}}]")
    assert str(caught.value) == f"{tmp_path / 'plan.yaml'}:1: macros[purchase].metrics[0].metric{text}"


def test_further_metrics_may_count_a_conversion_among_those_who_do_it(tmp_path: Path) -> None:
    macro = read_macro(tmp_path, "metrics: [{name: Times, metric: {type: per_unit, over: purchase}}]")
    assert str(macro.metrics[0].metric) == "per_unit over purchase"


@pytest.mark.parametrize("number", ["0", "1", "0.5"])
def test_a_share_may_be_anything_from_0_to_1(tmp_path: Path, number: str) -> None:
    assert read_micro(tmp_path, f"target: {number}").target == Target(value=float(number))


def test_a_mean_may_be_any_number(tmp_path: Path) -> None:
    assert read_micro(tmp_path, "metric: mean, target: 600, benchmark: {low: -5, high: 700}").target == Target(
        value=600
    )


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("Add to cart", " Did you mean 'add_to_cart'?"),
        ("addToCart", " Did you mean 'add_to_cart'?"),
        ("add-to-cart", " Did you mean 'add_to_cart'?"),
        ("2nd", ""),
        ("_", ""),
    ],
)
def test_an_id_must_be_usable_as_a_name(tmp_path: Path, written: str, hint: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(f"macros: [{{id: {written}, match: {{event_name: x}}}}]\n", encoding="utf-8")
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert str(caught.value) == (
        f"{path}:1: macros[{written}].id is {written!r}; "
        f"it must be lower-case letters, digits and _, beginning with a letter.{hint}"
    )
