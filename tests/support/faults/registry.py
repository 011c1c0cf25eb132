"""Operations of a hash registry in a directory."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable

import pytest

from shardcast.cli.exit_codes import DONE, OTHER_FAILURE
from shardcast.errors import MissingExternalFile, StoreInaccessible
from shardcast.registry import Registry
from shardcast.registry import gc as registry_gc
from tests.support.faults.cells import Operation
from tests.support.faults.process import Outcome, outcome_of
from tests.support.faults.published import payload

_SEEDS = itertools.count(20_000)


class RegistryOperation(Operation):
    """An operation of a hash registry on a directory; it raises instead of ending with a code."""

    failures = frozenset({OTHER_FAILURE})

    def begin(self) -> None:
        self.folder = self.place / "registry"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        spec = {"protocol": "file", "location": str(self.folder)}
        self.registry = Registry({"default": "main", "main": spec})
        self.kept = [(data, self.registry.put_hash(data, "lab")) for data in (payload(11), payload(12))]

    def prepare(self) -> None:
        self.blob = payload(next(_SEEDS))

    def attempt(self, work: Callable[[], object]) -> Outcome:
        """Run the operation, which may fail with the registry's errors only."""
        return outcome_of(work)

    def assert_kept(self) -> None:
        """Assert that the content from before is there."""
        for data, metadata in self.kept:
            assert self.registry.get_hash(metadata) == data


class RegistryPut(RegistryOperation):
    """Content put into a schema."""

    name = "registry: put"

    def put(self) -> None:
        """Put the content."""
        self.metadata = self.registry.put_hash(self.blob, "lab")

    def act(self) -> Outcome:
        return self.attempt(self.put)

    def check(self, outcome: Outcome) -> None:
        self.assert_kept()
        if outcome.code == DONE:
            assert self.registry.get_hash(self.metadata) == self.blob

    def recover(self) -> None:
        self.put()
        self.check(Outcome(DONE))
        assert self.registry.delete_path(self.metadata["path"])


class RegistryPutIntoNewSchema(RegistryPut):
    """Content put into a schema without a folder."""

    name = "registry: put into a new schema"

    def prepare(self) -> None:
        super().prepare()
        shutil.rmtree(self.folder / "_hash" / "new", ignore_errors=True)

    def put(self) -> None:
        """Put the content."""
        self.metadata = self.registry.put_hash(self.blob, "new")


class RegistryGet(RegistryOperation):
    """Content read."""

    name = "registry: get"

    def act(self) -> Outcome:
        return self.attempt(self.assert_kept)

    def check(self, outcome: Outcome) -> None:
        self.assert_kept()

    def recover(self) -> None:
        self.assert_kept()


class RegistryCollect(RegistryPut):
    """Content without a reference, collected."""

    name = "registry: gc"

    def collect(self) -> None:
        """Collect what has no reference."""
        references = [metadata for _, metadata in self.kept]
        done = registry_gc.collect(
            "lab", references=references, registry=self.registry, dry_run=False, min_age=0, quarantine=0
        )
        if done["errors"]:
            raise StoreInaccessible(f"{done['errors']} files could not be dealt with")

    def prepare(self) -> None:
        super().prepare()
        self.put()

    def act(self) -> Outcome:
        return self.attempt(self.collect)

    def check(self, outcome: Outcome) -> None:
        self.assert_kept()

    def recover(self) -> None:
        self.put()
        self.collect()
        self.assert_kept()
        with pytest.raises(MissingExternalFile):
            self.registry.get_hash(self.metadata)


OPERATIONS: tuple[type[Operation], ...] = (
    RegistryPut,
    RegistryPutIntoNewSchema,
    RegistryGet,
    RegistryCollect,
)
