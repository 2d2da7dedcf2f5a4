"""Plans as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dbs_address_space._core import (
    AddressSpaceBuilder,
    AddressSpacePlan,
    BackingOptions,
    Hotplug,
    Machine,
    NumaPolicy,
    NumaRegionInfo,
)
from dbs_address_space.enums import MapFlags
from dbs_address_space.errors import AddressSpaceError, InvalidPlan

from .json_text import parsed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dbs_address_space._core import AddressSpaceRegion, NumaNode
    from dbs_address_space.reports import PlanCost

_RANGE = ("base", "size")
_RESERVED = ("base", "size", "kind")
_INFO = ("size", "host_numa_node_id", "guest_numa_node_id", "vcpu_ids")
_HOTPLUG = ("max_memory", "slots")

FORMAT = "dbs-address-space-plan"
VERSION = 1


def to_json(plan: AddressSpacePlan) -> str:
    """The builder's arguments, by which `from_json` makes the plan again, and for readers all that it is. Numbers are bytes."""
    return json.dumps(_content(plan), indent=1)


def diff(before: AddressSpacePlan, after: AddressSpacePlan) -> dict[str, tuple[Any, Any]]:
    """The leaves of both JSON texts that differ, by their paths."""
    here, there = (dict(_leaves("", _content(plan))) for plan in (before, after))
    return {path: (here.get(path), there.get(path)) for path in here | there if here.get(path) != there.get(path)}


def _content(plan: AddressSpacePlan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "builder": _builder(plan.builder),
        "layout": _layout(plan),
        "numa_nodes": {str(number): _node(node) for number, node in plan.numa_nodes.items()},
        "regions": [_region(region, reason) for region, reason in zip(plan.regions, plan.reasons, strict=True)],
        "hotplug_window": _range(plan.hotplug_window),
        "cost": _cost(plan.cost),
        "problems": plan.problems,
    }


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values that hold no others, with their paths; regions go by their names, for their number says little."""
    parts: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, (list, tuple)):
        names = [
            part["name"] if isinstance(part, dict) and "name" in part else index for index, part in enumerate(value)
        ]
        parts = zip(names, value, strict=True)
    else:
        yield path, value
        return
    for name, part in parts:
        yield from _leaves(f"{path}.{name}".lstrip("."), part)


def from_json(text: str) -> AddressSpacePlan:
    """The plan of a text that `to_json` made; anything else is `InvalidPlan`."""
    try:
        content = parsed(text)
        if not isinstance(content, dict):
            raise _invalid(f"a plan's JSON is an object, not {json.dumps(content)[:40]}: give what to_json() made")
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise _invalid(
                f"format {content['format']!r} version {content['version']!r} is not {FORMAT!r} version {VERSION}"
            )
        plan = _read_builder(content["builder"]).plan()
        here = [(region.name, region.region_type.value, region.base, region.size) for region in plan.regions]
        there = [_place(region) for region in content["regions"]]
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, InvalidPlan):
            raise
        raise _invalid(f"not a plan's JSON: {_reason(error)}") from error
    if here != there:
        raise _invalid("the regions in the JSON are not those that this version plans for the same builder")
    return plan


def _invalid(problem: str) -> InvalidPlan:
    return InvalidPlan(problem, problems=(problem,))


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError) and not isinstance(error, AddressSpaceError):
        return f"{error} is missing"
    return str(error)


def _builder(builder: AddressSpaceBuilder) -> dict[str, Any]:
    (machine,), keywords = builder.__getnewargs_ex__()
    return {
        **keywords,
        "machine": _arguments(machine),
        "mem_type": keywords["mem_type"].value,
        "numa_regions": [_info(info) for info in keywords["numa_regions"]],
        "dax_window": _dax(keywords["dax_window"]),
        "hotplug": keywords["hotplug"] and _keyed(_HOTPLUG, keywords["hotplug"].__getnewargs__()),
        "backing": _options(keywords["backing"]),
    }


def _dax(given: int | tuple[int, int] | None) -> int | dict[str, int] | None:
    """A size, or a place."""
    return _range(given) if isinstance(given, tuple) else given


def _arguments(machine: Machine) -> dict[str, Any]:
    (name,), keywords = machine.__getnewargs_ex__()
    windows = {
        "mmio_windows": [_range(window) for window in machine.layout.mmio_windows],
        "reserved": [_keyed(_RESERVED, reserved) for reserved in machine.reserved],
        "firmware": _range(machine.firmware),
    }
    return {"name": name, **keywords, **windows}


def _layout(plan: AddressSpacePlan) -> dict[str, Any]:
    layout = plan.layout
    return {
        "phys_end": layout.phys_end,
        "mem_start": layout.mem_start,
        "mem_end": layout.mem_end,
        "mmio_windows": [_range(window) for window in layout.mmio_windows],
        "reserved": [_keyed(_RESERVED, reserved) for reserved in layout.reserved],
    }


def _node(node: NumaNode) -> dict[str, Any]:
    regions, hotplug = (
        [_range((info.base, info.size)) for info in infos] for infos in (node.region_infos, node.hotplug_infos)
    )
    devices = node.generic_initiators
    return {"regions": regions, "vcpu_ids": node.vcpu_ids, "hotplug": hotplug, "generic_initiators": devices}


def _region(region: AddressSpaceRegion, reason: str) -> dict[str, Any]:
    return {
        "name": region.name,
        "region_type": region.region_type.value,
        "base": region.base,
        "size": region.size,
        "mem_type": region.mem_type and region.mem_type.value,
        "mem_file_path": region.mem_file_path,
        "file_offset": region.file_offset,
        "shared": bool(region.perm_flags & MapFlags.SHARED),
        "page_size": region.page_size,
        "host_numa_node_id": region.host_numa_node_id,
        "prealloc": bool(region.perm_flags & MapFlags.POPULATE),
        "backing": _options(region.backing),
        "reason": reason,
    }


def _place(region: dict[str, Any]) -> tuple[Any, ...]:
    """The part that two versions have to agree on."""
    return region["name"], region["region_type"], region["base"], region["size"]


def _cost(cost: PlanCost) -> dict[str, Any]:
    pages = [{"page_size": size, "count": count} for size, count in cost.pages.items()]
    nodes = [{"host_numa_node_id": node, "size": size} for node, size in cost.nodes.items()]
    return {"size": cost.size, "preallocated": cost.preallocated, "pages": pages, "nodes": nodes}


def _range(given: tuple[int, int] | None) -> dict[str, int] | None:
    return given and _keyed(_RANGE, given)


def _keyed(keys: tuple[str, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(keys, values, strict=True))


def _values(keys: tuple[str, ...], given: dict[str, Any] | None) -> tuple[Any, ...] | None:
    return None if given is None else tuple(given[key] for key in keys)


def _options(options: BackingOptions) -> dict[str, Any]:
    _, keywords = options.__getnewargs_ex__()
    return _without_policy({name: value for name, value in keywords.items() if value is not None})


def _info(info: NumaRegionInfo) -> dict[str, Any]:
    arguments, keywords = info.__getnewargs_ex__()
    if "mem_type" in keywords:
        keywords["mem_type"] = keywords["mem_type"].value
    return {**_keyed(_INFO, arguments), **_without_policy(keywords)}


def _without_policy(given: dict[str, Any]) -> dict[str, Any]:
    """With the arguments of the policy in its place."""
    if "policy" not in given:
        return given
    (mode, nodes), strict = given["policy"].__getnewargs_ex__()
    return {**given, "policy": {"mode": mode, "nodes": nodes, **strict}}


def _with_policy(given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "policy": NumaPolicy(**given["policy"])} if "policy" in given else given


def _read_builder(arguments: dict[str, Any]) -> AddressSpaceBuilder:
    read = {
        "numa_regions": [NumaRegionInfo(**_with_policy(info)) for info in arguments["numa_regions"]],
        "dax_window": _values(_RANGE, window) if isinstance(window := arguments["dax_window"], dict) else window,
        "hotplug": arguments["hotplug"] and Hotplug(**arguments["hotplug"]),
        "backing": BackingOptions(**_with_policy(arguments["backing"])),
    }
    machine = Machine(**_read_machine(arguments["machine"]))
    rest = {name: value for name, value in arguments.items() if name != "machine"}
    return AddressSpaceBuilder(machine, **{**rest, **read})


def _read_machine(arguments: dict[str, Any]) -> dict[str, Any]:
    windows = {
        "mmio_windows": [_values(_RANGE, window) for window in arguments["mmio_windows"]],
        "reserved": [_values(_RESERVED, reserved) for reserved in arguments["reserved"]],
        "firmware": _values(_RANGE, arguments["firmware"]),
    }
    return {**arguments, **windows}
