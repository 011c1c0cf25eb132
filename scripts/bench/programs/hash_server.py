"""Run hashserver from a folder, whatever else this environment has: ``FOLDER OPTION…``."""

import sys

sys.path.insert(0, sys.argv.pop(1))
import hashserver

sys.argv[0] = "hashserver"
sys.exit(hashserver.main())
