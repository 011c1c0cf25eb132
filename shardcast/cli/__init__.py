"""The commands. Until one of them runs, Ctrl-C ends the process without a word, not with a traceback."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)
