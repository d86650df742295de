import dataclasses

import pytest
from test_explorer import log

from convlib.choices import Choice
from convlib.errors import ParamError
from convlib.events import EventLog

__all__ = ["log"]
CHOICE = Choice("all", "all", "7D", ("visit", "buy"), "", None, None)


def test_write_code_names_only_what_is_chosen(log: EventLog) -> None:
    assert CHOICE.write_code(log) == (
        "chosen = log\nfunnel = cv.measure_funnel(\n    chosen, ['visit', 'buy'], window='7D'\n)"
    )
    assert dataclasses.replace(CHOICE, segment="device=phone", by="medium").write_code(log) == (
        "chosen = log.segment('device=phone')\n"
        "funnel = cv.measure_funnel(\n    chosen, ['visit', 'buy'], window='7D', by='medium'\n)"
    )


def test_describe_segment_joins_two(log: EventLog) -> None:
    both = dataclasses.replace(CHOICE, segment="device=desk", also="paid")
    assert both.describe_segment(log) == {"device": "desk", "medium": "cpc"}
    assert dataclasses.replace(CHOICE, segment="bots").describe_segment(log) == {"medium": "bot", "scope": "event"}


def test_describe_segment_refuses_everyone(log: EventLog) -> None:
    with pytest.raises(ParamError) as caught:
        CHOICE.describe_segment(log)
    assert str(caught.value) == "The segment in use is `all`, which is there already. Choose another one first."
