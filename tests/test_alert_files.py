import json
from pathlib import Path

import pandas as pd
import pytest

from convlib.alert_files import COLUMNS, RULES, merge_alerts, read_alerts, write_alerts
from convlib.alerts import LEVELS, RATE_RULES
from convlib.errors import ParamError

MONDAY = pd.Timestamp("2026-01-05")


def test_rules_names_what_find_alerts_judges() -> None:
    assert (*RATE_RULES, "quality", "action_overdue") == RULES
    assert {*LEVELS} < {*RATE_RULES}


def test_merge_alerts_gives_a_repeat_the_same_id_even_after_it_was_over() -> None:
    found = pd.DataFrame([{"rule": "volume", "severity": "warning", "segment": "all", "period": MONDAY}])
    now = pd.Timestamp("2026-02-01")
    first = merge_alerts(found, pd.DataFrame(), now)
    over = merge_alerts(found.iloc[:0], first, now + pd.Timedelta(days=1))
    again = merge_alerts(found, over, now + pd.Timedelta(days=2))
    later = merge_alerts(found.assign(period=MONDAY + pd.Timedelta(days=7)), over, now + pd.Timedelta(days=2))
    assert over["still_open"].tolist() == [False]
    assert again["id"].tolist() == first["id"].tolist()
    assert (again["is_new"].tolist(), again["first_seen"].tolist()) == ([False], [now])
    assert later["id"].tolist() != first["id"].tolist()
    assert later["is_new"].tolist() == [True]


def test_write_alerts_and_read_alerts_keep_every_value(tmp_path: Path) -> None:
    path = tmp_path / "run" / "alerts.json"
    found = [
        {"rule": "change", "severity": "critical", "conversion": "buy", "period": MONDAY},
        {"rule": "quality", "severity": "info"},
    ]
    table = merge_alerts(pd.DataFrame(found), pd.DataFrame(), pd.Timestamp("2026-03-16"))
    write_alerts(path, table)
    pd.testing.assert_frame_equal(read_alerts(path), table)
    records = json.loads(path.read_text())["alerts"]
    assert records[1]["first_seen"] == "2026-03-16T00:00:00"
    assert [each.name for each in path.parent.iterdir()] == ["alerts.json"]
    write_alerts(path, table.iloc[:0])
    pd.testing.assert_frame_equal(read_alerts(path), table.iloc[:0])


def test_read_alerts_is_empty_without_a_file(tmp_path: Path) -> None:
    assert read_alerts(tmp_path / "alerts.json").dtypes.astype(str).to_dict() == COLUMNS


@pytest.mark.parametrize("text", ['{"alerts": [', "[]", '{"other": 1}', '{"alerts": [{"first_seen": "soon"}]}'])
def test_read_alerts_refuses_a_damaged_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "alerts.json"
    path.write_text(text)
    with pytest.raises(ParamError) as caught:
        read_alerts(path)
    message = str(caught.value)
    assert message.startswith(f"{str(path)!r} can't be read as alerts (")
    assert message.endswith(
        "). Restore it from the run before, or delete it: then every alert that is open counts as new."
    )


def test_read_alerts_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ParamError) as caught:
        read_alerts(tmp_path)
    assert str(caught.value) == (
        f"{str(tmp_path)!r} is a folder; give the path of the file of alerts, such as "
        f"{str(tmp_path / 'alerts.json')!r}."
    )
