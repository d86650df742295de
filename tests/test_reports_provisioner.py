import json
import logging
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import nbformat
import pytest
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from nbclient import NotebookClient

from convlib.reports import provisioner, warm
from convlib.reports.provisioner import WarmProvisioner

ROOT = Path(__file__).parent.parent
GROUP = "jupyter_client.kernel_provisioners"
ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kernels are warm on Linux only")


@pytest.fixture(autouse=True)
def _kernel_of_this_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What an installation does: Jupyter finds the kernel, and the provisioner that it names."""
    folder = tmp_path / "kernels" / "convlib"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text((ROOT / "convlib" / "reports" / "kernel" / "kernel.json").read_text())
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]
    factory = KernelProvisionerFactory.instance()
    for name, value in entry_points.items():
        monkeypatch.setitem(factory.provisioners, name, EntryPoint(name, value, GROUP))
    monkeypatch.setattr(WarmProvisioner, "_told", False)
    yield
    KernelProvisionerFactory.clear_instance()


def run(folder: Path, code: str) -> str:
    """Run a cell with the kernel that JupyterLab lists."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, kernel_name="convlib", resources=resources, shutdown_kernel="immediate")
    client.execute()
    return str(notebook.cells[0].outputs[0].text)


@ON_LINUX
def test_the_kernel_of_jupyters_list_is_forked(tmp_path: Path) -> None:
    code = "import os, sys, pathlib; print(pathlib.Path.cwd(), os.getppid(), 'seaborn' in sys.modules)"
    printed = run(tmp_path, code)
    parent = warm.open_parent(own_code=False)
    assert printed.split() == [str(tmp_path), str(parent.pid), "True"]


def test_a_kernel_starts_cold_where_none_can_be_forked_and_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: object) -> None:
        raise warm.WarmError("this system can't fork kernels safely")

    monkeypatch.setattr(provisioner, "open_parent", refuse)
    with caplog.at_level(logging.WARNING, logger="convlib"):
        for _ in range(2):
            assert run(tmp_path, "import sys; print('seaborn' in sys.modules)") == "False\n"
    said = [record.message for record in caplog.records if record.name == "convlib.reports.provisioner"]
    assert said == ["Kernels start cold: there is no warm process (this system can't fork kernels safely)."]


def test_the_kernels_name_is_what_people_choose() -> None:
    spec = json.loads((ROOT / "convlib" / "reports" / "kernel" / "kernel.json").read_text())
    assert (spec["display_name"], spec["argv"][0]) == ("Python 3 (convlib, warm)", "python")
