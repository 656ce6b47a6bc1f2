"""The loader for kernels with BTF: an object compiled beforehand, which libbpf fits to the running kernel (CO-RE)."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from dma.capture.hooks import RELEASES, Hook, Weight
from dma.capture.layout import Knobs
from dma.capture.libbpf import LoadError, Map, Object, trusts_tasks
from dma.flow import CaptureError

OBJECT = Path(__file__).with_name("flows.bpf.o")
BTF = Path("/sys/kernel/btf/vmlinux")
LEARN_SELF = "learn_self"


class CoreLoaded:
    """See ``dma.capture.probed.Loaded``."""

    def __init__(self, loaded: Object, problems: Mapping[str, str]) -> None:
        self.problems = problems
        self._object = loaded

    def attach(self, program: str, cgroup_fd: int | None) -> None:
        """Where its section says, by a link."""
        self._object.attach(program, cgroup_fd)

    def map(self, name: str) -> Map:
        """One of the object's maps."""
        return self._object.map(name)

    def misses(self, program: str) -> int:
        """How often the kernel skipped a program because it was already running on that CPU."""
        return self._object.misses(program)


class CoreLoader:
    """See ``dma.capture.probed.Loader``."""

    name = "core"

    def load(
        self, stack: ExitStack, hooks: tuple[Hook, ...], knobs: Knobs, sizes: Mapping[str, int]
    ) -> CoreLoaded:
        """Load again and again, each time without the program that the kernel refused last."""
        if not BTF.exists():
            raise CaptureError(
                f"this kernel has no BTF ({BTF} is missing): boot one built with CONFIG_DEBUG_INFO_BTF"
            )
        needed = {LEARN_SELF, *(hook.program for hook in hooks if hook.weight is Weight.NEEDED)}
        wanted = [LEARN_SELF, *(hook.program for hook in hooks)]
        problems: dict[str, str] = {}
        while True:
            with ExitStack() as attempt:
                loaded = attempt.enter_context(Object(OBJECT))
                programs = [name for name in wanted if name not in problems]
                constants = knobs._replace(
                    count_udp_connects=RELEASES in problems, trusted_task=trusts_tasks()
                )
                try:
                    loaded.load(programs=programs, rodata=constants.pack(), max_entries=sizes)
                except LoadError as e:
                    if e.program not in programs or e.program in needed:
                        raise
                    problems[e.program] = str(e)
                    continue
                stack.push(attempt.pop_all())
                loaded.run(LEARN_SELF)
                return CoreLoaded(loaded, problems)
