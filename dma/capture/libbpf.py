"""The part of libbpf that the agent uses, through ctypes: objects, links, map batches, one ring buffer."""

import ctypes
import enum
import errno
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from ctypes import (
    CFUNCTYPE,
    POINTER,
    byref,
    c_char_p,
    c_int,
    c_int32,
    c_size_t,
    c_uint32,
    c_void_p,
    create_string_buffer,
)
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

from dma import privileges
from dma.flow import CaptureError

_PRINT = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_SAMPLE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
_DEBUG = 2
# Of linux/bpf.h: a program type, and a helper.
_CGROUP_SOCK_ADDR, _GET_CURRENT_TASK_BTF = 18, 158
_TYPEDEF = 8  # BTF_KIND_TYPEDEF of linux/btf.h
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_set_print": (c_void_p, [_PRINT]),
    "libbpf_num_possible_cpus": (c_int, []),
    "btf__load_vmlinux_btf": (c_void_p, []),
    "btf__find_by_name_kind": (c_int32, [c_void_p, c_char_p, c_uint32]),
    "btf__free": (None, [c_void_p]),
    "libbpf_probe_bpf_helper": (c_int, [c_int, c_int, c_void_p]),
    "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__next_program": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_program__name": (c_char_p, [c_void_p]),
    "bpf_program__section_name": (c_char_p, [c_void_p]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_program__set_autoload": (c_int, [c_void_p, ctypes.c_bool]),
    "bpf_program__attach": (c_void_p, [c_void_p]),
    "bpf_program__attach_cgroup": (c_void_p, [c_void_p, c_int]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__key_size": (c_uint32, [c_void_p]),
    "bpf_map__value_size": (c_uint32, [c_void_p]),
    "bpf_map__max_entries": (c_uint32, [c_void_p]),
    "bpf_map__set_max_entries": (c_int, [c_void_p, c_uint32]),
    "bpf_map__set_initial_value": (c_int, [c_void_p, c_char_p, c_size_t]),
    "bpf_map_create": (c_int, [c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_lookup_batch": (
        c_int,
        [c_int, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_void_p],
    ),
    "bpf_map_delete_elem": (c_int, [c_int, c_void_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, c_void_p, POINTER(c_uint32)]),
    "bpf_prog_test_run_opts": (c_int, [c_int, c_void_p]),
    "ring_buffer__new": (c_void_p, [c_int, _SAMPLE, c_void_p, c_void_p]),
    "ring_buffer__epoll_fd": (c_int, [c_void_p]),
    "ring_buffer__consume": (c_int, [c_void_p]),
    "ring_buffer__free": (None, [c_void_p]),
}
# Entries of a map that are read at once; what the kernel keeps in one bucket has to fit, which is a handful.
_CHUNK = 4096
_messages: list[str] = []


class MapType(enum.Enum):
    """enum bpf_map_type of linux/bpf.h, as far as needed."""

    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    RINGBUF = 27


class LoadError(CaptureError):
    """The kernel cannot take an object; ``program`` is the one at fault, empty when it is none in particular."""

    def __init__(self, message: str, program: str) -> None:
        super().__init__(message)
        self.program = program


def _keep(vsnprintf: Callable[..., int]) -> Callable[[int, bytes, int], int]:
    """A print callback that keeps warnings for our error messages, where libbpf would write them to stderr."""
    text = create_string_buffer(1 << 18)

    def keep(level: int, fmt: bytes, arguments: int) -> int:
        if level < _DEBUG:
            vsnprintf(text, len(text), fmt, c_void_p(arguments))
            _messages.append(text.value.decode(errors="replace").strip())
        return 0

    return keep


@cache
def library() -> Any:
    """libbpf with its prototypes set and its output caught."""
    try:
        loaded = _load()
    except OSError as e:
        raise CaptureError(f"libbpf.so.1 cannot be loaded ({e}): apt-get install libbpf1") from e
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    loaded.kept_print = _PRINT(_keep(ctypes.CDLL(None).vsnprintf))
    loaded.libbpf_set_print(loaded.kept_print)
    return loaded


def _load() -> Any:
    """The system's, else the one that this environment has brought along with what that needs."""
    own = Path(sys.prefix) / "lib"
    try:
        return ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        if not (own / "libbpf.so.1").exists():
            raise
    ctypes.CDLL(str(own / "libelf.so.1"))
    return ctypes.CDLL(str(own / "libbpf.so.1"), use_errno=True)


def explain(error: int) -> str:
    """An errno as a reason that ends with what to try."""
    if error in (errno.EPERM, errno.EACCES):
        return f"not permitted: {privileges.advice()}"
    if error == errno.ENOSYS:
        return "this kernel has no bpf(): boot one built with CONFIG_BPF_SYSCALL"
    return os.strerror(error).lower()


def _culprit(messages: list[str]) -> tuple[str, str]:
    """The program that libbpf's warnings blame, and the most telling line of them."""
    lines = [
        line.removeprefix("libbpf: ") for message in messages for line in message.splitlines() if line.strip()
    ]
    named = [(match[1], line) for line in lines if (match := re.match(r"prog '(\w+)': (?!--|BPF)", line))]
    return named[0] if named else ("", lines[-1] if lines else "")


def _return_memory() -> None:
    """Give back to the system what was taken to fit programs to the kernel: megabytes, which the C library keeps."""
    with suppress(AttributeError):  # glibc alone keeps them
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _kernel_types() -> Iterator[int]:
    """The kernel's own BTF, which everybody may read; it takes megabytes while it is held."""
    lib = library()
    types = lib.btf__load_vmlinux_btf()
    if not types:
        reason = explain(ctypes.get_errno())
        raise CaptureError(
            f"the kernel's BTF cannot be read ({reason}): boot one built with CONFIG_DEBUG_INFO_BTF"
        )
    try:
        yield types
    finally:
        lib.btf__free(types)


@cache
def trusts_tasks() -> bool:
    """Whether programs may ask for the calling task as memory that they can read directly; cgroups' learnt it last."""
    return bool(library().libbpf_probe_bpf_helper(_CGROUP_SOCK_ADDR, _GET_CURRENT_TASK_BTF, None) == 1)


class Map(NamedTuple):
    """A loaded map."""

    fd: int
    key_size: int
    value_size: int
    max_entries: int

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and all values, in chunks of many of each."""
        lib = library()
        chunk = min(self.max_entries, _CHUNK)
        keys = create_string_buffer(self.key_size * chunk)
        values = create_string_buffer(self.value_size * chunk)
        position, previous = create_string_buffer(max(self.key_size, 4)), None
        result = 0
        while not result:
            count = c_uint32(chunk)
            result = lib.bpf_map_lookup_batch(self.fd, previous, position, keys, values, byref(count), None)
            if result not in (0, -errno.ENOENT):
                raise CaptureError(f"the kernel's table cannot be read: {explain(-result)}")
            n = count.value
            yield ctypes.string_at(keys, n * self.key_size), ctypes.string_at(values, n * self.value_size)
            previous = position

    def per_cpu(self, index: int) -> list[int]:
        """One 64-bit element of a per-CPU array, on every CPU."""
        lib = library()
        values = (ctypes.c_uint64 * lib.libbpf_num_possible_cpus())()
        if error := lib.bpf_map_lookup_elem(self.fd, byref(c_uint32(index)), values):
            raise CaptureError(f"the kernel's loss counters cannot be read: {explain(-error)}")
        return list(values)

    def delete(self, key: bytes) -> None:
        """Delete one key; one that is gone already is no error."""
        library().bpf_map_delete_elem(self.fd, key)


@contextmanager
def created_map(name: str, kind: MapType, key_size: int, value_size: int, max_entries: int) -> Iterator[Map]:
    """A map that belongs to no object."""
    fd = library().bpf_map_create(kind.value, name.encode(), key_size, value_size, max_entries, None)
    if fd < 0:
        raise CaptureError(f"the kernel does not make the map {name}: {explain(-fd)}")
    try:
        yield Map(fd, key_size, value_size, max_entries)
    finally:
        os.close(fd)


def run_program(fd: int, name: str) -> None:
    """Run a program once, in this process."""
    size = 80  # of struct bpf_test_run_opts, which begins with it; the rest are options not needed
    options = create_string_buffer(size.to_bytes(8, "little"), size)
    if error := library().bpf_prog_test_run_opts(fd, options):
        raise CaptureError(f"{name} cannot be run: {explain(-error)}")


def misses(fd: int, name: str) -> int:
    """How often the kernel skipped a program because it was already running on that CPU (Linux 5.12)."""
    end = 216  # of recursion_misses in struct bpf_prog_info
    info, size = create_string_buffer(end), c_uint32(end)
    if error := library().bpf_obj_get_info_by_fd(fd, info, byref(size)):
        raise CaptureError(f"{name} cannot be inspected: {explain(-error)}")
    return int.from_bytes(info.raw[end - 8 : size.value], "little")


class Object:
    """A BPF object: configured, then loaded, then attached by links, which the kernel drops with the process."""

    def __init__(self, path: Path) -> None:
        self._lib = library()
        _messages.clear()
        self._object = self._lib.bpf_object__open_file(os.fsencode(path), None)
        if not self._object:
            reason = (
                explain(ctypes.get_errno()) if path.exists() else "no such file: make dma/capture/flows.bpf.o"
            )
            raise CaptureError(f"{path}: {reason}")
        self._exit = ExitStack()
        self._exit.callback(self._lib.bpf_object__close, self._object)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._exit.close()

    @cached_property
    def programs(self) -> Mapping[str, int]:
        """Names of the programs, and libbpf's pointers to them."""
        found = {}
        program = self._lib.bpf_object__next_program(self._object, None)
        while program:
            found[self._lib.bpf_program__name(program).decode()] = program
            program = self._lib.bpf_object__next_program(self._object, program)
        return found

    def load(self, *, programs: Collection[str], rodata: bytes, max_entries: Mapping[str, int]) -> None:
        """Load the named programs, with these constants and map sizes."""
        for name, program in self.programs.items():
            self._lib.bpf_program__set_autoload(program, name in programs)
        for name, entries in max_entries.items():
            self._lib.bpf_map__set_max_entries(self._find_map(name), entries)
        if self._lib.bpf_map__set_initial_value(self._find_map(".rodata"), rodata, len(rodata)):
            raise CaptureError("the BPF object is of another version: make dma/capture/flows.bpf.o")
        _messages.clear()
        error = self._lib.bpf_object__load(self._object)
        _return_memory()
        if error:
            self._check_tracepoints(programs)
            culprit, line = _culprit(_messages)
            permission = error in (-errno.EPERM, -errno.EACCES) and "BEGIN PROG LOAD LOG" not in "\n".join(
                _messages
            )
            reason = explain(-error) if permission or not line else f"{line} ({explain(-error)})"
            raise LoadError(f"the kernel refused the BPF programs: {reason}", "" if permission else culprit)

    def attach(self, name: str, cgroup_fd: int | None = None) -> None:
        """Attach a program where its section says, or to a cgroup."""
        program = self.programs[name]
        if cgroup_fd is None:
            link = self._lib.bpf_program__attach(program)
        else:
            link = self._lib.bpf_program__attach_cgroup(program, cgroup_fd)
        if not link:
            raise CaptureError(f"{name} cannot be attached: {explain(ctypes.get_errno())}")
        self._exit.callback(self._lib.bpf_link__destroy, link)

    def run(self, name: str) -> None:
        """Run a program once, in this process."""
        run_program(self.program_fd(name), name)

    def program_fd(self, name: str) -> int:
        """The descriptor of a loaded program."""
        return int(self._lib.bpf_program__fd(self.programs[name]))

    def misses(self, name: str) -> int:
        """How often the kernel skipped a program."""
        return misses(self.program_fd(name), name)

    def map(self, name: str) -> Map:
        """A map, once loaded."""
        found = self._find_map(name)
        lib = self._lib
        return Map(
            lib.bpf_map__fd(found),
            lib.bpf_map__key_size(found),
            lib.bpf_map__value_size(found),
            lib.bpf_map__max_entries(found),
        )

    def _check_tracepoints(self, programs: Collection[str]) -> None:
        """Name the first program whose tracepoint the kernel lacks.

        libbpf looks for such a tracepoint in modules, too, which takes CAP_SYS_ADMIN; without that, libbpf before 1.3
        says "not permitted" of the whole object.
        """
        with _kernel_types() as types:
            for name in programs:
                section = self._lib.bpf_program__section_name(self.programs[name]).decode()
                kind, _, tracepoint = section.partition("/")
                typedef = f"btf_trace_{tracepoint}".encode()
                if kind == "tp_btf" and self._lib.btf__find_by_name_kind(types, typedef, _TYPEDEF) < 0:
                    raise LoadError(f"this kernel has no tracepoint {tracepoint}: boot a newer one", name)

    def _find_map(self, name: str) -> int:
        found = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise CaptureError(f"the BPF object has no map {name}: make dma/capture/flows.bpf.o")
        return int(found)


class Ring:
    """A ring buffer; ``keep`` is given each event, where more than their number matters, and must not raise."""

    def __init__(self, source: Map, *, keep: Callable[[bytes], None] | None = None) -> None:
        self._lib = library()

        def sample(_context: int, data: int, size: int) -> int:
            if keep:
                keep(ctypes.string_at(data, size))
            return 0

        self._sample = _SAMPLE(sample)
        self._ring = self._lib.ring_buffer__new(source.fd, self._sample, None, None)
        if not self._ring:
            raise CaptureError(f"the ring buffer cannot be mapped: {explain(ctypes.get_errno())}")

    def fileno(self) -> int:
        """An epoll descriptor, readable while events wait."""
        return int(self._lib.ring_buffer__epoll_fd(self._ring))

    def consume(self) -> int:
        """Consume all that waits; returns how many."""
        return max(0, int(self._lib.ring_buffer__consume(self._ring)))

    def close(self) -> None:
        """Unmap it."""
        self._lib.ring_buffer__free(self._ring)
