"""Builds the Open University log from the published tables: `python -m convlib.datasets.build_oulad SOURCE_FOLDER`."""

import sys
from pathlib import Path

import pandas as pd

TABLES = ("assessment", "course", "student", "student_assessment", "student_registration")
PRESENTATION = ["code_module", "code_presentation"]
ENROLMENT = [*PRESENTATION, "id_student"]
OUTPUT = Path(__file__).parent / "oulad" / "events.parquet"

# The tables know days only. Hours put the events of one day in their natural order.
TIME_OF_DAY = {
    "register": pd.Timedelta(0),
    "start_module": pd.Timedelta(seconds=1),
    "submit_assessment": pd.Timedelta(hours=12),
    "unregister": pd.Timedelta(hours=18),
    "finish_module": pd.Timedelta(hours=23),
}
RENAMED = {"code_module": "module", "code_presentation": "presentation", "num_of_prev_attempts": "previous_attempts"}
ATTRIBUTES = [
    "module", "presentation", "region", "age_band", "gender", "highest_education", "imd_band", "disability",
    "previous_attempts", "studied_credits",
]  # fmt: skip
PROPERTIES = {
    "date_imputed": "boolean",
    "assessment_type": "str",
    "assessment_number": "Int8",
    "days_late": "Int16",
    "score": "Float32",
    "is_banked": "boolean",
    "final_result": "str",
}


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the five published tables.

    Args:
        folder: Holds `assessment.csv.gz` and the others of `TABLES`.

    Returns:
        A frame by table name, columns as published.
    """
    return {table: pd.read_csv(folder / f"{table}.csv.gz") for table in TABLES}


def build_events(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Turn the published tables into one event log, an enrolment being the user.

    Args:
        tables: The frames of `read_tables`.

    Returns:
        One row an event in time order: `event_name`, `timestamp` (UTC), `user_id`, the enrolment's attributes on every
        row, and the properties of its own kind of event.
    """
    enrolments = _list_enrolments(tables)
    events = pd.concat(
        [
            _list_registrations(enrolments),
            _list_starts(enrolments),
            _list_submissions(tables, enrolments),
            _list_withdrawals(enrolments),
            _list_results(enrolments),
        ],
        ignore_index=True,
    )
    events["timestamp"] = (
        events["start"] + pd.to_timedelta(events["day"], unit="D") + events["event_name"].map(TIME_OF_DAY)
    ).astype("datetime64[us]")
    order = ["timestamp", "user_id", "event_name", "assessment_type", "assessment_number"]
    events = events.sort_values(order, ignore_index=True).astype(PROPERTIES)
    return events[["event_name", "timestamp", "user_id", *ATTRIBUTES, *PROPERTIES]]


def write_events(events: pd.DataFrame, path: Path = OUTPUT) -> None:
    """Write the log as small as Parquet gets it, text as dictionaries.

    Args:
        events: The frame of `build_events`.
        path: Where to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    events.to_parquet(path, index=False, compression="zstd", compression_level=19)


def _list_enrolments(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    enrolments = (
        tables["student"]
        .merge(tables["student_registration"], on=ENROLMENT, validate="one_to_one")
        .merge(tables["course"], on=PRESENTATION, validate="many_to_one")
    )
    first_month = enrolments["code_presentation"].str[-1].map({"B": "-02-01", "J": "-10-01"})
    enrolments["start"] = pd.to_datetime(enrolments["code_presentation"].str[:4] + first_month)
    enrolments["user_id"] = (
        enrolments["id_student"].astype(str)
        + "-" + enrolments["code_module"] + "-" + enrolments["code_presentation"]
    )  # fmt: skip
    enrolments["date_imputed"] = enrolments["date_registration"].isna()
    enrolments["date_registration"] = enrolments["date_registration"].fillna(0)
    enrolments["imd_band"] = enrolments["imd_band"].replace({"10-20": "10-20%"})
    return enrolments.rename(columns=RENAMED)


def _list_registrations(enrolments: pd.DataFrame) -> pd.DataFrame:
    rows = _base_rows(enrolments, "register", day=enrolments["date_registration"])
    return rows.assign(date_imputed=enrolments["date_imputed"])


def _list_starts(enrolments: pd.DataFrame) -> pd.DataFrame:
    day = enrolments["date_registration"].clip(lower=0)
    withdrawn_by_then = enrolments["date_unregistration"] <= day
    return _base_rows(enrolments, "start_module", day=day)[~withdrawn_by_then]


def _list_submissions(tables: dict[str, pd.DataFrame], enrolments: pd.DataFrame) -> pd.DataFrame:
    numbered = tables["assessment"].sort_values(["date", "id_assessment"])
    numbered["assessment_number"] = numbered.groupby([*PRESENTATION, "assessment_type"]).cumcount() + 1
    submitted = (
        tables["student_assessment"]
        .merge(numbered, on="id_assessment", validate="many_to_one")
        .rename(columns=RENAMED)
        .merge(enrolments, on=["module", "presentation", "id_student"], validate="many_to_one")
    )
    rows = _base_rows(submitted, "submit_assessment", day=submitted["date_submitted"])
    properties = ["assessment_type", "assessment_number", "score", "is_banked"]
    return rows.assign(**submitted[properties], days_late=submitted["date_submitted"] - submitted["date"])


def _list_withdrawals(enrolments: pd.DataFrame) -> pd.DataFrame:
    left = enrolments[enrolments["date_unregistration"].notna()]
    return _base_rows(left, "unregister", day=left["date_unregistration"])


def _list_results(enrolments: pd.DataFrame) -> pd.DataFrame:
    rows = _base_rows(enrolments, "finish_module", day=enrolments["module_presentation_length"])
    return rows.assign(final_result=enrolments["final_result"])


def _base_rows(source: pd.DataFrame, event_name: str, *, day: pd.Series) -> pd.DataFrame:
    return source[["user_id", "start", *ATTRIBUTES]].assign(event_name=event_name, day=day)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give the folder that holds the five published tables (assessment.csv.gz, course.csv.gz, ...).")
    write_events(build_events(read_tables(Path(sys.argv[1]))))
