"""Groups whose commands are imported when they run."""

from __future__ import annotations

import click
import pytest

from shardcast.cli.backup.group import backup
from shardcast.cli.blobs.store import store
from shardcast.cli.main import shardcast

GROUPS = [shardcast, store, backup]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_every_listed_command_exists_under_its_name(group: click.Group) -> None:
    context = click.Context(group)
    names = group.list_commands(context)
    assert names == list(dict.fromkeys(names))
    for name in names:
        command = group.get_command(context, name)
        assert command is not None and command.name == name


def test_unlisted_command_is_unknown() -> None:
    assert shardcast.get_command(click.Context(shardcast), "main") is None
    assert store.get_command(click.Context(store), "open_store") is None


def test_list_of_store_commands_says_what_their_own_help_says() -> None:
    context = click.Context(store)
    formatter = context.make_formatter()
    store.format_commands(context, formatter)
    listed = dict(line.split(maxsplit=1) for line in formatter.getvalue().splitlines()[1:])
    own = {name: store.get_command(context, name) for name in store.list_commands(context)}
    assert listed == {name: one.get_short_help_str(80) for name, one in own.items() if one}
