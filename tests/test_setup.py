import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rattler import MatchSpec

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONDA_NAMES = {"duckdb": "python-duckdb", "jupyter-client": "jupyter_client", "matplotlib": "matplotlib-base"}
CONDA_ONLY = {"python", "pip", "hatchling"}


EXTRAS = tuple(PROJECT["optional-dependencies"])


def requirements(*extras: str) -> dict[str, SpecifierSet]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}


def conda_requirements() -> dict[str, SpecifierSet]:
    lines = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    pairs = (line.partition(" ") for line in lines)
    return {name: SpecifierSet(bounds) for name, _, bounds in pairs}


def locked_versions() -> list[tuple[str, str]]:
    return re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)


def system_packages() -> list[str]:
    lines = (ROOT / "tests/system-packages.txt").read_text("utf-8").splitlines()
    return [name for line in lines if (name := line.partition("#")[0].strip())]


def test_environment_yml_has_the_names_and_bounds_of_pyproject() -> None:
    wanted = {CONDA_NAMES.get(name, name): bounds for name, bounds in requirements().items()}
    assert {name: bounds for name, bounds in conda_requirements().items() if name not in CONDA_ONLY} == wanted


def test_environment_yml_has_the_python_and_the_build_system_of_pyproject() -> None:
    conda = conda_requirements()
    assert conda["python"] == SpecifierSet(PROJECT["requires-python"])
    assert conda["hatchling"] == requirements("dev")["hatchling"]


@pytest.mark.parametrize("line", yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"])
def test_environment_yml_parses_as_conda_reads_it(line: str) -> None:
    spec = MatchSpec(line, strict=True)
    assert spec.name is not None
    assert line.split(" ") == [spec.name.normalized, *([str(spec.version)] if spec.version else [])]


def test_every_dependency_has_a_lower_and_an_upper_bound() -> None:
    signs = {name: {bound.operator for bound in bounds} for name, bounds in requirements(*EXTRAS).items()}
    assert {name: found for name, found in signs.items() if found != {">=", "<"}} == {}


def test_lock_names_no_address_and_no_folder() -> None:
    text = (ROOT / "requirements.txt").read_text("utf-8")
    assert re.findall(r".*(?:://|--index|--extra-index|--find-links|--trusted-host| @ |file:).*", text) == []


def test_lock_has_every_dependency_within_its_bounds() -> None:
    locked = locked_versions()
    bounds = requirements(*EXTRAS)
    assert set(map(canonicalize_name, bounds)) <= {name for name, _ in locked}
    assert [(name, version) for name, version in locked if name in bounds and version not in bounds[name]] == []


def test_lock_has_a_hash_for_every_package() -> None:
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.txt").read_text("utf-8").strip())
    assert [entry for entry in entries if not entry.startswith("#") and "--hash=sha256:" not in entry] == []


def test_ci_runs_make_test_and_the_workflow_runs_ci() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text("utf-8").splitlines()
    assert os.access(ROOT / ".ci/run", os.X_OK)
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text("utf-8"))
    assert {"run": ".ci/run"} in workflow["jobs"]["test"]["steps"]


def test_readme_names_the_two_commands_and_the_system_packages() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [text for text in ("make report", "make test", "tests/system-packages.txt") if text not in readme] == []
    assert [package for package in system_packages() if package not in readme] == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_wheel_carries_notebooks_and_params_and_no_tests(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    shipped = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("params/*/*.yaml")]
    assert {f"convlib/workbook/{path.relative_to(ROOT).as_posix()}" for path in shipped} <= files
    assert {"convlib/errors.py", "convlib/py.typed", "convlib/scaffold_files/README.md"} <= files
    assert {"convlib/workbook/params/oulad/weekly.yaml", "convlib/datasets/oulad/events.parquet"} <= files
    kernel = "convlib-0.1.0.data/data/share/jupyter/kernels/convlib/kernel.json"
    assert {name for name in files if name.split("/")[0] != "convlib"} == {kernel}


def test_sdist_carries_what_tests_need_and_no_reports(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    folders = {".ci", ".github", "benchmarks", "convlib", "docs", "notebooks", "params", "tests"}
    assert {name.split("/")[0] for name in files if "/" in name} == folders
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    here = {name for name in tracked if (ROOT / name).exists() and not name.startswith("reports/")}
    assert here - files == set()


def test_packages_say_about_themselves_what_an_index_takes(built: Path) -> None:
    files = map(str, built.iterdir())
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True, capture_output=True)


def test_wheel_makes_a_workbook_outside_the_checkout(built: Path, tmp_path: Path) -> None:
    """The wheel in an environment of its own, which borrows the dependencies of this one but not the checkout."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "clean", with_pip=False)
    (packages,) = tmp_path.glob("clean/lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as archive:  # which is all that an installer does with pure Python
        archive.extractall(packages)
    # Behind the wheel on the path; a folder that is named in a file there brings no path files of its own.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    for arguments in (("new", "own", "--from", "dataset:shop"), ("check", "own/params/weekly.yaml")):
        command = [str(tmp_path / "clean/bin/python"), "-m", "convlib", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    code = "import convlib; print(convlib.__file__)"
    used = subprocess.run([command[0], "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert Path(used.strip()) == packages / "convlib/__init__.py"


def test_citation_says_what_the_package_says() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    assert cited["authors"] == PROJECT["authors"]
    assert cited["keywords"] == PROJECT["keywords"]


def test_release_builds_checks_and_puts_the_files_beside_the_tag() -> None:
    workflow = yaml.load((ROOT / ".github/workflows/release.yml").read_text("utf-8"), yaml.BaseLoader)
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    commands = "\n".join(step.get("run", "") for step in build["steps"])
    assert [
        text for text in ("python -m build", "twine check --strict", "convlib new own") if text not in commands
    ] == []
    assert (publish["needs"], publish["permissions"]) == ("build", {"contents": "write"})
    assert publish["steps"][-1]["run"].startswith('gh release create "$GITHUB_REF_NAME" dist/* --verify-tag ')
