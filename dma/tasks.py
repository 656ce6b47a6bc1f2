"""What Python's task groups leave to those who use them."""

import asyncio


def heed_cancellation() -> None:
    """A task group whose tasks fail while it is cancelled raises their errors only, and the cancellation is lost."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a group, however deep: the others are those of tasks that it took down."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first
