"""Some of this tree's tests, run by pytest inside a guest whose kernel allows what this machine's does not."""

import io
import shlex
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from packaging.requirements import Requirement

from tests.lab.vm_guest import Guest
from tests.lab.vm_image import ROOT

INTERPRETER = "/opt/stackmend/bin/python"
PLACE = "/var/tmp/suite"
RUNNER = "pytest"
# What the tests of captures need beside the product: not the other packages' fixtures.
SOURCES = ("bpf/build.py", "tests/__init__.py", "tests/dma/capture/*.py", "pyproject.toml")


class Result(NamedTuple):
    """Which tests passed, and what the others said."""

    passed: frozenset[str]
    failed: dict[str, str]


def install_suite(guest: Guest) -> None:
    """Put the tests and what runs them into the guest."""
    guest.agent.write(f"{PLACE}.zip", _archive())
    guest.run("sh", "-c", f"rm -rf {PLACE} && {INTERPRETER} -m zipfile -e {PLACE}.zip {PLACE}", timeout_s=120)


def run_suite(guest: Guest, module: str, *, ways: str, timeout_s: float) -> Result:
    """Run a module's tests for some plans and loaders."""
    options = "-q -p no:cacheprovider --junitxml=results.xml -o addopts= -o filterwarnings=default"
    script = (
        f"cd {PLACE} && STACKMEND_WAYS={shlex.quote(ways)} {INTERPRETER} -m {RUNNER} {options} {module} >log 2>&1;"
        " cat results.xml || { cat log >&2; exit 1; }"
    )
    return _read(guest.run("sh", "-c", script, timeout_s=timeout_s).stdout)


def _read(report: str) -> Result:
    passed, failed = set(), {}
    for case in ElementTree.fromstring(report).iter("testcase"):
        if len(case):
            failed[case.attrib["name"]] = "\n".join(f"{one.tag}: {one.text}" for one in case)
        else:
            passed.add(case.attrib["name"])
    return Result(frozenset(passed), failed)


def _archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for pattern in SOURCES:
            for path in ROOT.glob(pattern):
                archive.write(path, path.relative_to(ROOT))
        archive.writestr("tests/dma/__init__.py", "")
        for name in sorted(set(_needed(RUNNER))):
            for file in distribution(name).files or ():
                if file.suffix in (".py", ".txt", ".typed") or file.name == "METADATA":
                    archive.write(Path(str(file.locate())), file)
    return content.getvalue()


def _needed(name: str) -> Iterator[str]:
    """A distribution and all that it needs here."""
    yield name
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from _needed(requirement.name)
