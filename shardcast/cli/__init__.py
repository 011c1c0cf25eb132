"""The commands. Until one of them runs, Ctrl-C ends the process without a word, not with a traceback."""

import signal

from shardcast.cli.descriptors import open_missing_descriptors

open_missing_descriptors()  # before anything else opens a file
signal.signal(signal.SIGINT, signal.SIG_DFL)
