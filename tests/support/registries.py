"""The registry whose interface ours has, DataJoint 2.0.0's, and an S3 server for both.

A test module takes the fixtures by name: ``datajoint = registries.datajoint``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from tests.support import legacy

_BUCKETS = itertools.count(1)


@dataclass(frozen=True)
class DataJoint:
    """DataJoint's own modules, without the database that the rest of it needs."""

    hash_registry: Any
    settings: Any
    gc: Any
    errors: Any

    def configure(self, stores: dict[str, Any]) -> None:
        """Have its registry use these stores."""
        self.settings.config.stores = stores


class _Settings:
    """Base of DataJoint's configuration class that reads no environment and checks no types."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)


def _field(default: Any = None, default_factory: Callable[[], Any] | None = None, **_: Any) -> Any:
    """Return the default of a field, as ``pydantic.Field`` would."""
    return default_factory() if default_factory else default


def _stand_ins(folder: Path) -> dict[str, types.ModuleType]:
    """Return stand-ins for DataJoint's package, so that only the needed modules run, and for pydantic."""
    package = types.ModuleType("datajoint")
    package.__path__ = [str(folder / "datajoint")]
    pydantic, pydantic_settings = types.ModuleType("pydantic"), types.ModuleType("pydantic_settings")
    vars(pydantic).update(Field=_field, SecretStr=str, field_validator=lambda *_, **__: lambda made: made)
    vars(pydantic_settings).update(BaseSettings=_Settings, SettingsConfigDict=dict)
    return {"datajoint": package, "pydantic": pydantic, "pydantic_settings": pydantic_settings}


@contextlib.contextmanager
def _standing_in(modules: dict[str, types.ModuleType]) -> Iterator[None]:
    """Put modules into ``sys.modules`` while the block runs."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@pytest.fixture(scope="session")
def datajoint() -> Iterator[DataJoint]:
    """Import DataJoint 2.0.0; skip where it can't be had."""
    folder = legacy.installed_peer("datajoint")
    with _standing_in(_stand_ins(folder)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no configuration file
        names = ("hash_registry", "settings", "gc", "errors")
        yield DataJoint(**{name: importlib.import_module(f"datajoint.{name}") for name in names})
        for name in [name for name in sys.modules if name.startswith("datajoint.")]:
            del sys.modules[name]


@dataclass(frozen=True)
class S3:
    """An S3 server, and the configuration of stores in it."""

    endpoint: str

    def store(self, **more: Any) -> dict[str, Any]:
        """Make a bucket, and return the configuration of a store in it."""
        import s3fs

        bucket = f"bucket-{next(_BUCKETS)}"
        keys = {"access_key": "someone", "secret_key": "secret"}
        client = {"endpoint_url": f"http://{self.endpoint}"}
        s3fs.S3FileSystem(key="someone", secret="secret", client_kwargs=client).mkdir(bucket)
        own = {
            "protocol": "s3",
            "endpoint": self.endpoint,
            "secure": False,
            "bucket": bucket,
            "location": "lab",
        }
        return {**own, **keys, **more}


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """Run moto's S3 over HTTP on 127.0.0.1."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield S3(f"127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
