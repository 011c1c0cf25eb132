"""Faults that only a power cut shows: what is not synced, or synced or removed too early."""

from __future__ import annotations

from fault import Fault

FILESYSTEM = "shardcast/filesystem.py"
OPEN_VERSION = "shardcast/store/open_version.py"
DATA_DIR = "shardcast/store/data_dir.py"
LINE_CHANGE = "shardcast/store/line_change.py"
OUTPUT = "shardcast/store/output.py"
FILLED = "shardcast/store/filled.py"
INCOMING = "shardcast/store/blobs/incoming.py"
STAGING = "shardcast/store/blobs/staging.py"
BLOBS = "shardcast/store/blobs/directory.py"
SET_ASIDE = "shardcast/store/blobs/set_aside.py"
REGISTRY = "shardcast/registry/directory.py"

VERSIONS = ("tests/test_power_cuts.py",)
STORES = ("tests/test_power_cuts_of_stores.py",)

_REPLACE = """        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
"""
_REPLACE_SOON = """            await file.write(data)
            await file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
"""
_RETIRE = """            await self._complete.remove(number)
            self.holds.pinned.discard(number)
            self.events.tell(RETIRED, version_name(number))
            await self._removing.remove(here.place)
            self._let_go(number)
"""
_RETIRE_FOLDER_FIRST = """            await self._removing.remove(here.place)
            await self._complete.remove(number)
            self.holds.pinned.discard(number)
            self.events.tell(RETIRED, version_name(number))
            self._let_go(number)
"""
_WITHDRAW = """            await self._put_record(self.line.withdrawing(withdrawal))
            withdrawal ="""
_WITHDRAW_UNRECORDED = """            self.line = self.line.withdrawing(withdrawal)
            withdrawal ="""
_FIRST = """        file.write(data)
        file.flush()
        os.fsync(file.fileno())
"""
_WRITTEN = """                file.flush()
                os.fsync(file.fileno())
            if not _has"""
_GIVEN = """        part.rename(full)
    sync_folder(full.parent)
"""
_CERTAIN = "if folder.make_parent(digest) or parent not in self._certain:"

FAULTS = [
    Fault(
        name="output gets its name unsynced",
        file=OUTPUT,
        old="            os.fsync(self._descriptor)\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="output's new folder is not synced",
        file=OUTPUT,
        old="make_folder(output.parent)",
        new="output.parent.mkdir(parents=True, exist_ok=True)",
        tests=VERSIONS,
    ),
    Fault(
        name="published shard is not synced",
        file=OPEN_VERSION,
        old="            sync_file(self.file(shard))\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="received shard is not synced",
        file=OPEN_VERSION,
        old="                sync_file(part)\n",
        new="                pass\n",
        tests=VERSIONS,
    ),
    Fault(
        name="folder of a complete version is not synced",
        file=OPEN_VERSION,
        old="        sync_folder(self.place.folder)\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="linked payload is not synced",
        file=OPEN_VERSION,
        old="            sync_file(self.payload)",
        new="            pass",
        tests=VERSIONS,
    ),
    Fault(
        name="manifest that came line by line is not synced",
        file=OPEN_VERSION,
        old="                sync_file(file)",
        new="                pass",
        tests=VERSIONS,
    ),
    Fault(
        name="rename is not synced",
        file=FILESYSTEM,
        old="    part.rename(final)\n    sync_folder(final.parent)\n",
        new="    part.rename(final)\n",
        tests=VERSIONS,
    ),
    Fault(
        name="replace does not flush",
        file=FILESYSTEM,
        old=_REPLACE,
        new=_REPLACE.replace("            file.flush()\n", ""),
        tests=VERSIONS,
    ),
    Fault(
        name="replace does not sync",
        file=FILESYSTEM,
        old=_REPLACE,
        new=_REPLACE.replace("            os.fsync(file.fileno())\n", ""),
        tests=VERSIONS,
    ),
    Fault(
        name="replace_soon does not flush",
        file=FILESYSTEM,
        old=_REPLACE_SOON,
        new=_REPLACE_SOON.replace("            await file.flush()\n", ""),
        tests=VERSIONS,
    ),
    Fault(
        name="replace_soon does not sync",
        file=FILESYSTEM,
        old=_REPLACE_SOON,
        new=_REPLACE_SOON.replace("            await asyncio.to_thread(os.fsync, file.fileno())\n", ""),
        tests=VERSIONS,
    ),
    Fault(
        name="replace_soon is left half-way when it is cancelled",
        file=FILESYSTEM,
        old="await to_its_end(_replace_soon(path, data))",
        new="await _replace_soon(path, data)",
        tests=VERSIONS,
    ),
    Fault(
        name="name of a new folder is not synced",
        file=FILESYSTEM,
        old="    for one in dict.fromkeys((*missing, folder)):\n        _sync_name(one)\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="folder that another process made is taken for synced",
        file=FILESYSTEM,
        old="if one in missing or one not in self._certain:",
        new="if one in missing:",
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
        file=FILLED,
        old=_RETIRE,
        new=_RETIRE_FOLDER_FIRST,
        tests=VERSIONS,
    ),
    Fault(
        name="withdrawal is not written down",
        file="shardcast/store/line_versions.py",
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
        file="shardcast/store/aside.py",
        old="    sync_folder(place.folder.parent)\n",
        new="",
        tests=VERSIONS,
    ),
    Fault(
        name="blob gets its name unsynced",
        file=INCOMING,
        old="            os.fsync(self._descriptor)\n",
        new="",
        tests=STORES,
    ),
    Fault(
        name="blob's name is not synced",
        file=INCOMING,
        old="            sync_folder(Path(self._folder.parent(digest)))\n",
        new="",
        tests=STORES,
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
        name="digest of a store is not synced",
        file=BLOBS,
        old=_FIRST,
        new="        file.write(data)\n",
        tests=STORES,
    ),
    Fault(
        name="name of a store's digest is not synced",
        file=BLOBS,
        old="        sync_folder(record.parent)\n",
        new="",
        tests=STORES,
    ),
    Fault(
        name="blob is put back unsynced",
        file=SET_ASIDE,
        old="        sync_folder(path.parent)",
        new="        pass",
        tests=STORES,
    ),
    Fault(
        name="trash is not synced",
        file="shardcast/store/blobs/collecting.py",
        old="make_folder(self._trash)",
        new="self._trash.mkdir(exist_ok=True)",
        tests=STORES,
    ),
    Fault(
        name="quarantine is not synced",
        file="shardcast/store/blobs/layout.py",
        old="    make_folder(place)\n",
        new="    place.mkdir(parents=True, exist_ok=True)\n",
        tests=STORES,
    ),
    Fault(
        name="registry's content gets its name unsynced",
        file=REGISTRY,
        old=_WRITTEN,
        new=_WRITTEN.replace("                os.fsync(file.fileno())\n", ""),
        tests=STORES,
    ),
    Fault(
        name="name of the registry's content is not synced",
        file=REGISTRY,
        old=_GIVEN,
        new="        part.rename(full)\n",
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
