"""Shift this process's clock by the number of seconds in the file CHAOS_CLOCK, at every call.

Python imports this module at its start if its folder is on PYTHONPATH. The machine's clock stays as it is: a time
namespace does not shift CLOCK_REALTIME, and under libfaketime 0.9.10 `time.sleep` raises OSError. The monotonic clock
is not shifted, as when a real clock is set. Neither are `datetime`, Ray's C++ processes and the file system's times.
"""

import functools
import mmap
import os
import struct
import time
from typing import Any

if "CHAOS_CLOCK" in os.environ:
    with open(os.environ["CHAOS_CLOCK"], "rb") as _file:
        _clock = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)

    def _shifted(now: Any, unit: float) -> Any:
        return now() + type(now())(struct.unpack("d", _clock[:8])[0] * unit)

    def _of(convert: Any, seconds: float | None = None) -> Any:
        return convert(time.time() if seconds is None else seconds)

    def _strftime(convert: Any, text: str, *shown: Any) -> str:
        return str(convert(text, *(shown or [time.localtime()])))

    # Partial functions, because classes have some of these as attributes, and those must not become methods.
    for _name in ("gmtime", "localtime", "ctime"):
        setattr(time, _name, functools.partial(_of, getattr(time, _name)))
    time.strftime = functools.partial(_strftime, time.strftime)
    time.time = functools.partial(_shifted, time.time, 1.0)
    time.time_ns = functools.partial(_shifted, time.time_ns, 1e9)
