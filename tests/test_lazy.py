import subprocess
import sys

import pytest

from convlib.lazy import LazyModule


def test_lazy_module_gives_what_the_module_has() -> None:
    assert LazyModule("json.decoder").JSONDecoder is __import__("json.decoder").decoder.JSONDecoder


def test_lazy_module_is_imported_at_its_first_use_and_so_are_the_packages_above_it() -> None:
    code = """
import sys
from convlib.lazy import LazyModule
decoder = LazyModule("xml.dom.minidom")
assert not {"xml", "xml.dom"} & set(sys.modules)
decoder.parseString
assert {"xml", "xml.dom"} <= set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lazy_module_that_is_none_says_so_at_its_first_use() -> None:
    nothing = LazyModule("convlib.nothing")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'convlib\.nothing'"):
        nothing.something  # noqa: B018


def test_a_run_needs_neither_models_nor_figures_of_its_own_process() -> None:
    code = """
import sys
import convlib.reports.run
print(*sorted({"matplotlib", "seaborn", "statsmodels", "tea_tasting", "polars", "ibis"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == []
