from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from convlib.columns import read_numbers, read_texts


@pytest.fixture
def conversions(tmp_path: Path) -> Path:
    path = tmp_path / "conversions.parquet"
    rows = pd.DataFrame(
        {
            "user": [0, 0, 7],
            "timestamp": pd.to_datetime(["2026-01-01 00:00:00", "2026-01-02 00:00:00", "1969-12-31 23:59:59"]),
            "event": [3, 4, 5],
            "value": [1.5, np.nan, 2.0],
            'it\'s "a" column/..': ["b", None, "a"],
            "number": [10, 9, 9],
        }
    )
    rows.to_parquet(path, index=False)
    return path


def test_read_numbers_gives_the_columns_in_order(conversions: Path) -> None:
    assert read_numbers(conversions, "user").tolist() == [0, 0, 7]
    assert read_numbers(conversions, "event").tolist() == [3, 4, 5]
    day = 86_400 * 10**6
    assert read_numbers(conversions, "time").tolist() == [20_454 * day, 20_455 * day, -(10**6)]
    np.testing.assert_array_equal(read_numbers(conversions, "value"), [1.5, np.nan, 2.0])


def test_read_texts_numbers_the_values_in_order(conversions: Path) -> None:
    places, values = read_texts(conversions, 'it\'s "a" column/..')
    assert list(values) == ["(none)", "a", "b"]
    assert places.tolist() == [2, 0, 1]
    places, values = read_texts(conversions, "number")
    assert (list(values), places.tolist()) == (["10", "9"], [0, 1, 1])


def test_read_texts_reads_a_second_time_what_it_wrote(conversions: Path) -> None:
    first, _ = read_texts(conversions, "number")
    written = {path.name: path.stat().st_mtime_ns for path in conversions.parent.iterdir()}
    assert len(written) == 3  # the conversions, the places and the values
    assert read_texts(conversions, "number")[0].tolist() == first.tolist()
    assert {path.name: path.stat().st_mtime_ns for path in conversions.parent.iterdir()} == written


def test_read_numbers_leaves_nothing_half_written(conversions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(np.lib.format, "open_memmap", fail)
    with pytest.raises(OSError, match="full"):
        read_numbers(conversions, "user")
    assert [path.name for path in conversions.parent.iterdir()] == ["conversions.parquet"]
