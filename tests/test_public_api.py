"""The public names: which there are, what documents them, and the signatures that users were promised."""

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

NAMES = [name for name in dbs_address_space.__all__ if name != "__version__"]
CLASSES = [name for name in NAMES if inspect.isclass(getattr(dbs_address_space, name))]


def members(name: str) -> dict[str, Any]:
    """The public methods and properties that a class defines itself."""
    found = vars(getattr(dbs_address_space, name))
    return {name: member for name, member in found.items() if not name.startswith("_")}


def test_all_is_what_there_is() -> None:
    found = {
        name
        for name, value in vars(dbs_address_space).items()
        if not (name.startswith("_") or isinstance(value, ModuleType))
    }
    assert set(NAMES) == found
    assert len(NAMES) > 50
    assert len(set(dbs_address_space.__all__)) == len(dbs_address_space.__all__)


@pytest.mark.parametrize("module", sorted(module.name for module in pkgutil.iter_modules(dbs_address_space.__path__)))
def test_every_module_has_its_names(module: str) -> None:
    loaded = importlib.import_module(f"dbs_address_space.{module}")
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None


@pytest.mark.parametrize("name", [name for name in NAMES if callable(getattr(dbs_address_space, name))])
def test_every_name_is_documented(name: str) -> None:
    value = getattr(dbs_address_space, name)
    assert inspect.getdoc(value)
    assert value.__module__.startswith("dbs_address_space")


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_and_property_is_documented(name: str) -> None:
    undocumented = [
        member
        for member, value in members(name).items()
        if (callable(value) or inspect.isdatadescriptor(value) or isinstance(value, (staticmethod, classmethod)))
        and not inspect.getdoc(getattr(getattr(dbs_address_space, name), member))
    ]
    assert undocumented == []


def test_the_classes_have_members() -> None:
    """So that the test above looks at something."""
    assert sum(len(members(name)) for name in CLASSES) > 150


def test_the_version_is_the_packages() -> None:
    manifest = Path(__file__).parent.parent / "Cargo.toml"
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
        (AddressSpaceLayout, "(phys_end, mem_start, mem_end, *, mmio_windows=())"),
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
