"""The public names: which there are, and the signatures that users were promised."""

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import dbs_address_space
import pytest
from dbs_address_space import AddressSpace, AddressSpaceBase, AddressSpaceLayout, AddressSpaceRegion, NumaNodeInfo

ALL: list[str] = dbs_address_space.__all__  # type: ignore[attr-defined]  # computed
NAMES = [name for name in ALL if name != "__version__"]


def test_all_is_what_there_is() -> None:
    found = {name: getattr(dbs_address_space, name) for name in dir(dbs_address_space) if not name.startswith("_")}
    assert set(NAMES) == {name for name, value in found.items() if not isinstance(value, ModuleType)}
    assert len(NAMES) > 50
    assert len(set(ALL)) == len(ALL)


def test_the_stub_has_the_same_names() -> None:
    stub = ast.parse((Path(dbs_address_space.__path__[0]) / "__init__.pyi").read_text())
    names: set[str] = set()
    for statement in stub.body:
        assert isinstance(statement, ast.ImportFrom)
        if statement.names[0].name == "*":
            names.update(importlib.import_module(f"dbs_address_space.{statement.module}").__all__)
        else:
            names.update(alias.asname or "" for alias in statement.names)
    assert names == set(ALL)


def test_every_name_can_be_imported() -> None:
    namespace: dict[str, object] = {}
    exec("from dbs_address_space import *", namespace)
    assert set(NAMES) <= set(namespace)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = dbs_address_space.nothing  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="nothing"):
        from dbs_address_space import nothing  # type: ignore[attr-defined]  # noqa: F401, PLC0415


@pytest.mark.parametrize("module", sorted(module.name for module in pkgutil.iter_modules(dbs_address_space.__path__)))
def test_every_module_has_its_names(module: str) -> None:
    loaded = importlib.import_module(f"dbs_address_space.{module}")
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None


def test_the_version_is_the_packages() -> None:
    manifest = Path(__file__).parents[2] / "Cargo.toml"
    version = tomllib.loads(manifest.read_text(encoding="utf-8"))["package"]["version"]
    assert dbs_address_space.__version__ == importlib.metadata.version("dbs-address-space") == version


def test_the_package_is_typed() -> None:
    directory = Path(dbs_address_space.__path__[0])
    assert (directory / "py.typed").exists()
    assert (directory / "_core.pyi").exists()


@pytest.mark.parametrize(
    ("function", "signature"),
    [
        (
            AddressSpaceRegion,
            (
                "(region_type, base, size, *, name=None, host_numa_node_id=None, mem_type=None, mem_file_path='', file=None, "
                "file_offset=0, perm_flags=None, prot_flags=None, page_size=None, is_hugepage=None, is_hotplug=False, "
                "is_anonpage=None, is_mergeable=False, backing=None)"
            ),
        ),
        (
            AddressSpaceRegion.create_default_memory_region,
            (
                "(base, size, numa_node_id, mem_type, mem_file_path, mem_prealloc=False, is_hotplug=False, "
                "is_mergeable=False, *, name=None, page_size=None)"
            ),
        ),
        (
            AddressSpaceRegion.create_memory_region,
            (
                "(base, size, numa_node_id, mem_type, mem_file_path, mem_prealloc, prot_flags, is_hotplug=False, *, name=None, "
                "page_size=None)"
            ),
        ),
        (AddressSpaceRegion.create_device_region, "(base, size, *, name=None)"),
        (AddressSpaceRegion.create_firmware_region, "(base, size, prot_flags=3, *, name=None)"),
        (AddressSpaceRegion.create_dax_region, "(base, size, *, name=None)"),
        (AddressSpaceLayout, "(phys_end, mem_start, mem_end, *, mmio_windows=(), reserved=())"),
        (AddressSpaceBase.from_regions, "(regions, layout)"),
        (AddressSpaceBase.gaps, "(self, /, low=0, high=None)"),
        (AddressSpace, "(layout)"),
        (AddressSpace.from_regions, "(regions, layout)"),
        (AddressSpace.remove_region, "(self, /, x, *, timeout=0.0)"),
        (AddressSpace.wait_for_change, "(self, /, generation, timeout=None)"),
        (AddressSpace.transaction, "(self, /, *, if_generation=None)"),
        (AddressSpace.map_memory, "(self, /, *, progress=None)"),
        (NumaNodeInfo, "(base, size)"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.__qualname__,
)
def test_the_signatures_are_as_promised(function: Any, signature: str) -> None:
    assert str(inspect.signature(function)) == signature
