"""Tells when this machine's clock is set: that is done when it was taken back, since its snapshot is of the past."""

import asyncio
import ctypes
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# linux/timerfd.h; the standard library has these calls from Python 3.13 on, which spares ctypes.
TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET = 1, 2
NEVER_S = 2**32

_libc = ctypes.CDLL(None, use_errno=True)


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


@contextmanager
def clock_watched(on_set: Callable[[], None]) -> Iterator[None]:
    """Call back in the running event loop whenever the clock is set in the block; costs nothing until then.

    Where the kernel does not tell it nothing is called.
    """
    timer = _libc.timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    if timer < 0:
        yield
        return
    loop = asyncio.get_running_loop()

    def wake() -> None:
        try:
            os.read(timer, 8)
        except OSError as e:
            if e.errno == errno.ECANCELED:
                on_set()
        _arm(timer)

    try:
        _arm(timer)
        loop.add_reader(timer, wake)
        yield
    finally:
        loop.remove_reader(timer)
        os.close(timer)


def _arm(timer: int) -> None:
    """A time that never comes, which is cancelled whenever the clock is set."""
    when = _Timer(_Time(0, 0), _Time(NEVER_S, 0))
    _libc.timerfd_settime(timer, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, ctypes.byref(when), None)
