"""Standard descriptors (0 to 2) closed before the start."""

import os


def open_missing_descriptors() -> None:
    """Open ``/dev/null`` at each closed descriptor from 0 to 2, also for child processes.

    Otherwise a file or a connection gets the number: printed text would land there, and libuv, unable to
    close these three, aborts the process.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            try:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            except OSError:
                os.open("/", os.O_RDONLY)
            os.set_inheritable(descriptor, True)
