"""Run a shardcast command on an event loop of one's choice: ``asyncio|uvloop WORD…``."""

import asyncio
import sys

import uvloop

from shardcast.cli.main import main
from shardcast.nodes import runtime as lifetime

kind, *words = sys.argv[1:]
make = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[kind]
lifetime._new_loop = lambda serves: make()  # type: ignore[assignment]
sys.argv = ["shardcast", *words]
main()
