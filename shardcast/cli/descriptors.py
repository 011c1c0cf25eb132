"""The descriptors 0 to 2."""

import os


def open_missing_descriptors() -> None:
    """Open those of the descriptors 0 to 2 that are closed on ``/dev/null``, also for child processes.

    Otherwise a file or a connection gets such a number: what is printed lands in it, and libuv, which never
    closes these three, aborts the process.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            try:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            except OSError:
                os.open("/", os.O_RDONLY)
            os.set_inheritable(descriptor, True)
