"""Faults in what does without something that a file system lacks, and in who may open what."""

from __future__ import annotations

from fault import Fault

FILE_LOCKS = "shardcast/file_locks.py"
FILE_OWNERS = "shardcast/file_owners.py"
FILE_SYSTEMS = "shardcast/file_systems.py"
FILE_MOVES = "shardcast/file_moves.py"
TEMPORARY_FILES = "shardcast/temporary_files.py"
SPECIAL = "shardcast/store/special_files.py"

DISK_FAILS = ["tests/faults/test_odd_file_systems.py::test_disk_error_is_not_taken_for_a_missing_feature"]
LOCK_FILES = ["tests/unit/base/test_file_locks.py::test_lock_file_mode_follows_write_access_to_its_folder"]
SHARED = ["tests/integration/test_group_shared.py::test_new_folders_inherit_sharing_of_the_parent"]

FAULTS = [
    # File systems
    Fault(
        name="folders-that-can-not-be-synced-end-the-work",
        file=FILE_SYSTEMS,
        old="if error.errno not in NO_FOLDER_SYNC:",
        new="if True:",
        tests=[
            "tests/faults/test_odd_file_systems.py::test_each_operation_works_without_missing_features[FUSE-client]"
        ],
    ),
    Fault(
        name="disk-that-fails-syncs-no-folders",
        file=FILE_SYSTEMS,
        old="if error.errno not in NO_FOLDER_SYNC:",
        new="if False:",
        tests=DISK_FAILS,
    ),
    Fault(
        name="disk-that-fails-keeps-no-permissions",
        file=FILE_SYSTEMS,
        old="if error.errno not in NO_PERMISSIONS:",
        new="if False:",
        tests=DISK_FAILS,
    ),
    Fault(
        name="refused-permissions-end-the-work",
        file=FILE_SYSTEMS,
        old="if error.errno not in NO_PERMISSIONS:",
        new="if True:",
        tests=[
            "tests/faults/test_odd_file_systems.py::test_each_operation_works_without_missing_features[SMB-origin]"
        ],
    ),
    Fault(
        name="lack-is-told-each-time",
        file=FILE_SYSTEMS,
        old="if _first(device, lack).acquire(blocking=False):",
        new="if True:",
        tests=["tests/unit/base/test_file_locks.py::test_file_system_without_locks_is_logged_once"],
    ),
    Fault(
        name="full-disk-without-reserving-is-not-noticed",
        file=FILE_SYSTEMS,
        old="if room.f_bavail * room.f_frsize < size:",
        new="if False:",
        tests=[
            "tests/faults/test_odd_file_systems.py::test_full_disk_without_fallocate_is_noticed_before_the_work"
        ],
    ),
    Fault(
        name="rename-to-another-disk-fails",
        file=FILE_MOVES,
        old="if error.errno != errno.EXDEV or not copy:",
        new="if True:",
        tests=["tests/faults/test_odd_file_systems.py::test_file_moves_to_another_disk"],
    ),
    Fault(
        name="copy-on-another-disk-is-of-now",
        file=FILE_MOVES,
        old="        os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))\n",
        new="",
        tests=["tests/faults/test_odd_file_systems.py::test_file_moves_to_another_disk"],
    ),
    Fault(
        name="taken-name-is-replaced-where-there-are-no-links",
        file=FILE_MOVES,
        old="        if os.path.lexists(name):\n            return False\n",
        new="",
        tests=["tests/faults/test_odd_file_systems.py::test_taken_name_is_kept_without_hard_links"],
    ),
    # Locks
    Fault(
        name="lock-file-opens-for-everybody",
        file=FILE_LOCKS,
        old="return 0o660 if Path(path).parent.stat().st_mode & stat.S_IWGRP else 0o600",
        new="return 0o644",
        tests=LOCK_FILES,
    ),
    Fault(
        name="lock-file-of-a-group-is-its-makers",
        file=FILE_LOCKS,
        old="return 0o660 if Path(path).parent.stat().st_mode & stat.S_IWGRP else 0o600",
        new="return 0o600",
        tests=LOCK_FILES,
    ),
    Fault(
        name="lock-file-of-an-earlier-node-stays-open",
        file=FILE_LOCKS,
        old="                os.fchmod(descriptor, mode)\n",
        new="                pass\n",
        tests=LOCK_FILES,
    ),
    Fault(
        name="link-in-the-place-of-a-lock-file-is-followed",
        file=FILE_LOCKS,
        old="os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)",
        new="os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)",
        tests=["tests/unit/base/test_file_locks.py::test_symlink_in_place_of_lock_file_is_not_followed"],
    ),
    Fault(
        name="waiting-for-a-lock-is-not-told",
        file=FILE_LOCKS,
        old="if waited >= _WARN_AFTER and not warned:",
        new="if False:",
        tests=["tests/unit/base/test_file_locks.py::test_waiting_for_lock_is_logged_and_times_out"],
    ),
    Fault(
        name="disk-that-fails-has-no-locks",
        file=FILE_LOCKS,
        old="if error.errno not in NO_LOCKS:",
        new="if False:",
        tests=[
            "tests/unit/base/test_file_locks.py::test_disk_error_is_not_mistaken_for_missing_lock_support"
        ],
    ),
    # Owners, groups, sockets
    Fault(
        name="part-with-a-second-name-is-written-to",
        file=FILE_OWNERS,
        old="        and found.st_nlink == 1\n",
        new="",
        tests=[
            "tests/unit/store/test_output_parts.py::test_part_writable_by_others_is_only_a_seed[link_again]"
        ],
    ),
    Fault(
        name="part-that-others-can-write-is-gone-on-with",
        file=FILE_OWNERS,
        old="        and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)\n",
        new="",
        tests=["tests/unit/store/test_output_parts.py::test_part_writable_by_others_is_only_a_seed"],
    ),
    Fault(
        name="files-of-strangers-are-trusted",
        file=FILE_OWNERS,
        old="return not folder.st_mode & stat.S_ISVTX or found.st_uid in (os.geteuid(), folder.st_uid, 0)",
        new="return True",
        tests=["tests/unit/nodes/test_outputs.py::test_lines_written_by_other_user_are_ignored"],
    ),
    Fault(
        name="folder-of-a-group-is-its-makers",
        file=FILE_OWNERS,
        old="    if is_shared(above):\n",
        new="    if False:\n",
        tests=SHARED,
    ),
    Fault(
        name="file-of-a-group-is-its-makers",
        file=FILE_OWNERS,
        old="    if is_to_share and is_shared(path.parent.stat()):",
        new="    if False:",
        tests=SHARED,
    ),
    Fault(
        name="socket-that-a-stranger-could-have-made-is-used",
        file=SPECIAL,
        old="return path if ours and private and path.is_absolute() else None",
        new="return path if ours and path.is_absolute() else None",
        tests=["tests/faults/test_odd_file_systems.py::test_socket_of_another_user_is_not_used"],
    ),
    Fault(
        name="socket-of-a-killed-node-stays-elsewhere",
        file=SPECIAL,
        old="    left = _elsewhere(own)\n",
        new="    left = None\n",
        tests=[
            "tests/faults/test_odd_file_systems.py::test_socket_elsewhere_of_killed_node_is_removed_by_the_next"
        ],
    ),
    Fault(
        name="socket-opens-for-others",
        file="shardcast/server/application.py",
        old="before = os.umask(0o177)",
        new="before = os.umask(0o000)",
        tests=["tests/faults/test_odd_file_systems.py::test_socket_elsewhere_is_found_and_removed"],
    ),
    # Names
    Fault(
        name="longest-names-have-no-temporary-ones",
        file=TEMPORARY_FILES,
        old="if len(encoded) <= limit:",
        new="if True:",
        tests=["tests/unit/base/test_file_names.py::test_file_is_replaced_and_its_leftovers_are_found"],
    ),
    Fault(
        name="long-names-that-begin-alike-share-a-temporary-one",
        file=TEMPORARY_FILES,
        old="digest = hashlib.sha256(encoded).hexdigest()[:_STEM_DIGEST]",
        new='digest = "0" * _STEM_DIGEST',
        tests=["tests/unit/base/test_file_names.py::test_leftovers_of_similar_long_names_are_distinct"],
    ),
    Fault(
        name="temporary-name-ends-within-a-character",
        file=TEMPORARY_FILES,
        old="    try:\n        encoded.decode()\n    except UnicodeDecodeError:\n",
        new="    if True:\n",
        tests=["tests/unit/base/test_file_names.py::test_temporary_name_is_not_cut_within_a_character"],
    ),
    Fault(
        name="socket-of-a-deep-directory-has-a-name-that-is-too-long",
        file=SPECIAL,
        old="if len(os.fsencode(path)) <= _LONGEST_SOCKET_NAME:",
        new="if True:",
        tests=["tests/unit/store/test_data_dir.py::test_socket_can_be_bound_and_reached_in_any_directory"],
    ),
    # Locks that hold nobody
    Fault(
        name="lock-that-holds-nobody-is-trusted",
        file=FILE_LOCKS,
        old="        return try_lock(second) is Lock.HELD\n",
        new="        return True\n",
        tests=["tests/unit/store/test_output_parts.py::test_without_locks_two_downloads_are_not_mixed"],
    ),
    Fault(
        name="every-file-system-is-of-this-machine",
        file=FILE_LOCKS,
        old="return _kind(descriptor) in _LOCAL",
        new="return True",
        tests=["tests/unit/store/test_output_parts.py::test_lock_on_local_disk_excludes_others"],
    ),
]
