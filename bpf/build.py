"""Compiles the BPF objects: as a hatchling hook while a wheel is built, or run as a script while developing."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bpf"
OBJECTS = ROOT / "dma" / "capture"
SHIPPED = OBJECTS / "source"
TOOLS = "apt-get install clang llvm libbpf-dev linux-libc-dev"
# As bpf_tracing.h calls them.
ARCHITECTURES = {
    "x86_64": "x86",
    "aarch64": "arm64",
    "ppc64le": "powerpc",
    "s390x": "s390",
    "riscv64": "riscv",
}
FLAGS = ("-g", "-O2", "-target", "bpf", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror")


def compile_objects() -> list[Path]:
    """Compile every ``bpf/*.bpf.c``, and copy what bcc compiles where it runs; returns all.

    Raises SystemExit with what to install.
    """
    clang = shutil.which("clang")
    if clang is None:
        sys.exit(f"clang is needed to compile the BPF programs: {TOOLS}")
    sources = sorted(SOURCES.glob("*.bpf.c"))
    objects = [OBJECTS / f"{source.name.removesuffix('.c')}.o" for source in sources]
    for source, target in zip(sources, objects, strict=True):
        compile_object(clang, source, target)
    SHIPPED.mkdir(exist_ok=True)
    for source in (SOURCES / "flows.bcc.c", *SOURCES.glob("*.h")):
        shutil.copy(source, SHIPPED)
    return [*objects, *SHIPPED.iterdir()]


def compile_object(clang: str, source: Path, target: Path) -> None:
    """Compile one source; the object keeps its BTF, which CO-RE needs, and loses its DWARF, which is large."""
    register_names = f"-D__TARGET_ARCH_{ARCHITECTURES.get(platform.machine(), platform.machine())}"
    # Debian keeps <asm/…> in the multiarch directory, where clang does not look when it compiles for another target.
    includes = (f"-I{SOURCES}", f"-I/usr/include/{platform.machine()}-linux-gnu")
    run(clang, *FLAGS, register_names, *includes, "-c", str(source), "-o", str(target))
    if strip := shutil.which("llvm-strip"):
        run(strip, "-g", str(target))


def run(*command: str) -> None:
    """Run a tool of the compiler's; its own messages have said why when it fails."""
    if subprocess.run(command).returncode:
        sys.exit(f"{Path(command[0]).name} failed on the BPF programs; if a header is missing: {TOOLS}")


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:
    pass
else:

    class CompileBpf(BuildHookInterface[Any]):
        """Runs before hatchling collects the wheel's files."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 hatchling's own
            """Compile, so that the wheel carries the objects."""
            compile_objects()


if __name__ == "__main__":
    compile_objects()
