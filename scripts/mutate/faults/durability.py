"""Faults that only a power cut shows: what is not synced, or synced or removed too early."""

from __future__ import annotations

from fault import Fault

FILESYSTEM = "shardcast/filesystem.py"
FILE_MOVES = "shardcast/file_moves.py"
FOLDERS = "shardcast/directories.py"
OPEN_VERSION = "shardcast/store/open_version.py"
DATA_DIR = "shardcast/store/data_dir.py"
LINE_CHANGE = "shardcast/store/line_change.py"
OUTPUT = "shardcast/store/output_file.py"
RETIREMENT = "shardcast/store/retirement.py"
INCOMING = "shardcast/blobs/directory/incoming_folder.py"
STAGING = "shardcast/blobs/directory/staging.py"
ALGORITHM_RECORD = "shardcast/blobs/directory/algorithm_record.py"
SET_ASIDE = "shardcast/blobs/directory/quarantine.py"
REGISTRY = "shardcast/registry/directory.py"

VERSIONS = ("tests/faults/test_power_cuts.py",)
STORES = ("tests/faults/test_power_cuts_of_stores.py",)

_RETIRE = """            await self._writer.remove_from_list(number)
            holds.pinned.discard(number)
            self._inventory.events.add(RETIRED, version_name(number))
            await self.remove(number, found.place)
"""
_RETIRE_FOLDER_FIRST = """            await self.remove(number, found.place)
            await self._writer.remove_from_list(number)
            holds.pinned.discard(number)
            self._inventory.events.add(RETIRED, version_name(number))
"""
_WITHDRAW = """            await self._writer.put_record(inventory.line.withdrawing(withdrawal))
            withdrawal ="""
_WITHDRAW_UNRECORDED = """            inventory.line = inventory.line.withdrawing(withdrawal)
            withdrawal ="""
_CERTAIN = "if folder.make_parent(digest) or parent not in self._synced_parents:"

FAULTS = [
    Fault(
        name="name is not synced",
        file=FILESYSTEM,
        old="    if durable:\n        sync_folder(Path(final).parent)\n",
        new="",
        tests=(*VERSIONS, *STORES),
    ),
    Fault(
        name="new name of what had one is not synced",
        file=FILE_MOVES,
        old="        _move_across(known, name)\n    if durable:\n        sync_folder(name.parent)\n",
        new="        _move_across(known, name)\n",
        tests=(*VERSIONS, *STORES),
    ),
    Fault(
        name="free name is not synced before the other one goes",
        file=FILE_MOVES,
        old="    sync_folder(name.parent)  # before",
        new="    # before",
        tests=(*VERSIONS, *STORES),
    ),
    Fault(
        name="file gets its name unsynced",
        file=FILESYSTEM,
        old="    if durable:\n        os.fsync(descriptor)\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="output's new folder is not synced",
        file=OUTPUT,
        old="make_folder(self._target.parent)",
        new="self._target.parent.mkdir(parents=True, exist_ok=True)",
        tests=VERSIONS,
    ),
    Fault(
        name="published shard is not synced",
        file="shardcast/store/shard_files.py",
        old="            sync_file(self.final(shard))\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="received shard is not synced",
        file="shardcast/store/shard_part.py",
        old="        if sync:\n            os.fsync(descriptor)\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="folder of a complete version is not synced",
        file=OPEN_VERSION,
        old="            sync_folder(self.place.folder)",
        new="            pass",
        tests=VERSIONS,
    ),
    Fault(
        name="linked payload is not synced",
        file="shardcast/store/adopted_payload.py",
        old="            sync_file(file.path)",
        new="            pass",
        tests=VERSIONS,
    ),
    Fault(
        name="manifest that came line by line is not synced",
        file="shardcast/store/manifest_file.py",
        old="                sync_file(self.path)",
        new="                pass",
        tests=VERSIONS,
    ),
    Fault(
        name="replace_soon is left half-way when it is cancelled",
        file=FILESYSTEM,
        old="    await in_thread(replace, path, data)\n",
        new="    import asyncio\n\n    await asyncio.to_thread(replace, path, data)\n",
        tests=VERSIONS,
    ),
    Fault(
        name="name of a new folder is not synced",
        file=FOLDERS,
        old="    for path in dict.fromkeys((*new_folders(folder), folder)):\n        sync_name(path)\n",
        new="    new_folders(folder)\n",
        tests=VERSIONS,
    ),
    Fault(
        name="folder that another process made is taken for synced",
        file=FOLDERS,
        old="if path in missing or path not in self._synced:",
        new="if path in missing:",
        tests=STORES,
    ),
    Fault(
        name="folders of a new data directory are not synced",
        file=DATA_DIR,
        old="            make_folder(self.root)\n            make_folder(self.own)\n",
        new="            self.own.mkdir(parents=True, exist_ok=True)\n",
        tests=VERSIONS,
    ),
    Fault(
        name="folder of pins is not synced",
        file=DATA_DIR,
        old="                sync_folder(self.own)\n",
        new="",
        tests=VERSIONS,
        explained="a new directory's origin id is written next, which syncs the same folder",
    ),
    Fault(
        name="retired version's folder goes before the list is written",
        file=RETIREMENT,
        old=_RETIRE,
        new=_RETIRE_FOLDER_FIRST,
        tests=VERSIONS,
    ),
    Fault(
        name="withdrawal is not written down",
        file="shardcast/store/withdrawals.py",
        old=_WITHDRAW,
        new=_WITHDRAW_UNRECORDED,
        tests=VERSIONS,
    ),
    Fault(
        name="unpinning is not synced",
        file="shardcast/store/pins.py",
        old="        sync_folder(data_dir.pinned)\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="time at which a version is put aside is not synced",
        file=LINE_CHANGE,
        old="                sync_folder(source)\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="record with both its names stops a change of line",
        file=LINE_CHANGE,
        old="        source.unlink()\n",
        new="        pass\n",
        tests=VERSIONS,
    ),
    Fault(
        name="renames of a change of line are not synced before the list",
        file=LINE_CHANGE,
        old="    for folder in folders:\n        sync_folder(folder)\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="end of a version received beside is not synced",
        file="shardcast/store/aside_version.py",
        old="    sync_folder(place.folder.parent)\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="blob's folder that another process made is taken for synced",
        file=INCOMING,
        old=_CERTAIN,
        new="if folder.make_parent(digest):",
        tests=STORES,
    ),
    Fault(
        name="names of pushed blobs are not synced",
        file=STAGING,
        old="                sync_folder(Path(parent))\n",
        new="                pass\n",
        tests=STORES,
    ),
    Fault(
        name="folders of pushed blobs are not synced",
        file=STAGING,
        old="            sync_folder(Path(folder.root))  #",
        new="            #",
        tests=STORES,
    ),
    Fault(
        name="name of a store's digest is not synced",
        file=ALGORITHM_RECORD,
        old="        sync_folder(record.parent.parent)\n",
        new="",
        explained="the first blob that is put syncs the directory, and the record's folder with it",
        tests=STORES,
    ),
    Fault(
        name="trash is not synced",
        file="shardcast/blobs/maintenance/gc.py",
        old="make_folder(self._trash)",
        new="self._trash.mkdir(exist_ok=True)",
        explained="names in it are not synced either: what a cut loses there, nobody referred to",
        tests=STORES,
    ),
    Fault(
        name="quarantine is not synced",
        file="shardcast/blobs/directory/layout.py",
        old="    make_folder(place)\n",
        new="    place.mkdir(parents=True, exist_ok=True)\n",
        tests=STORES,
    ),
    Fault(
        name="deletion in the registry is not synced",
        file=REGISTRY,
        old="                return\n            sync_folder(full.parent)\n",
        new="                return\n",
        tests=STORES,
    ),
]
