"""Generates dm/v1 from proto/dm/v1: run as ``python -m tests.stubs``; a test calls it to see that nothing is stale."""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"


def generate(target: Path) -> list[Path]:
    """Write the stubs below ``target`` and return them. Raises RuntimeError when protoc refuses a source."""
    sources = sorted(str(path) for path in PROTO.rglob("*.proto"))
    services = [source for source in sources if source.endswith("_service.proto")]
    _protoc(target, sources, outputs=("python", "mypy"))
    _protoc(target, services, outputs=("grpc_python", "mypy_grpc"))
    return sorted((target / "dm" / "v1").glob("*_pb2*"))


def _protoc(target: Path, sources: list[str], *, outputs: tuple[str, ...]) -> None:
    scripts = Path(sys.executable).parent
    plugins = [f"--plugin={scripts / plugin}" for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    includes = files("grpc_tools") / "_proto"
    targets = [f"--{output}_out={'quiet:' if 'mypy' in output else ''}{target}" for output in outputs]
    if status := protoc.main(["protoc", f"-I{PROTO}", f"-I{includes}", *plugins, *targets, *sources]):
        raise RuntimeError(f"protoc ended with status {status}")


if __name__ == "__main__":
    sys.stdout.writelines(f"{path.relative_to(ROOT)}\n" for path in generate(ROOT))
