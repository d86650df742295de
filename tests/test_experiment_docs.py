"""The examples of docs/experiments.md, run as they stand."""

import re
from pathlib import Path
from typing import Any

from convlib.plan import read_plan

DOCS = (Path(__file__).parent.parent / "docs" / "experiments.md").read_text("utf-8")
MACRO = """\
macros:
  - id: purchase
    match: {event_name: purchase}
    value: {column: value}
    micros:
      - {id: add_to_cart, match: {event_name: add_to_cart}, stage: decision, kind: process_milestone}
      - {id: begin_checkout, match: {event_name: begin_checkout}, stage: decision, kind: process_milestone}
      - {id: add_shipping_info, match: {event_name: add_shipping_info}, stage: decision, kind: process_milestone}
"""


def find_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)


def test_the_documented_entry_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(MACRO + find_blocks("yaml")[0], "utf-8")
    planned = read_plan(path).find_experiment("checkout_form")
    assert (planned.arm_names, planned.shares, planned.window) == (("control", "short"), (0.5, 0.5), "14D")
    assert [str(each.metric) for each in planned.guardrails] == ["rate", "sum of value"]


def test_the_documented_table_of_units_can_be_read() -> None:
    names: dict[str, Any] = {}
    exec(find_blocks("python")[0], names)
    result = names["result"]
    assert (result.decision, result.arm) == ("ship", "green")
    assert result.takeaways[0].startswith("Ship “green”. Green button: ")
