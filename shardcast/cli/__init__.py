"""Commands: options, progress, exit codes, and all of shardcast's printing.

Until a command runs, Ctrl-C ends the process silently instead of with a traceback.
"""

import signal

from shardcast.cli.descriptors import open_missing_descriptors

open_missing_descriptors()  # before anything else opens a file
signal.signal(signal.SIGINT, signal.SIG_DFL)
