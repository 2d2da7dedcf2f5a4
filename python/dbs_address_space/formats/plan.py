"""Plans as JSON."""

from __future__ import annotations

import json
from typing import Any

from dbs_address_space._core import (
    AddressSpaceBuilder,
    AddressSpacePlan,
    BackingOptions,
    Hotplug,
    Machine,
    NumaPolicy,
    NumaRegionInfo,
)
from dbs_address_space.errors import AddressSpaceError, InvalidPlan

FORMAT = "dbs-address-space-plan"
VERSION = 1


def to_json(plan: AddressSpacePlan) -> str:
    """The builder's arguments, by which `from_json` makes the plan again, and the regions for readers. Numbers are bytes."""
    regions = [[region.name, region.region_type.value, region.base, region.size] for region in plan.regions]
    content = {"format": FORMAT, "version": VERSION, "builder": _builder(plan.builder), "regions": regions}
    return json.dumps(content, indent=1)


def from_json(text: str) -> AddressSpacePlan:
    """The plan of a text that `to_json` made; anything else is `InvalidPlan`."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise _invalid(f"a plan's JSON is an object, not {json.dumps(content)[:40]}: give what to_json() made")
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise _invalid(
                f"format {content['format']!r} version {content['version']!r} is not {FORMAT!r} version {VERSION}"
            )
        plan = _read_builder(content["builder"]).plan()
        here = json.loads(to_json(plan))["regions"]
        there = content["regions"]
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
        "numa_regions": [info.__getnewargs__() for info in keywords["numa_regions"]],
        "hotplug": keywords["hotplug"] and keywords["hotplug"].__getnewargs__(),
        "backing": _options(keywords["backing"]),
    }


def _arguments(machine: Machine) -> dict[str, Any]:
    (name,), keywords = machine.__getnewargs_ex__()
    return {"name": name, **keywords}


def _options(options: BackingOptions) -> dict[str, Any]:
    _, keywords = options.__getnewargs_ex__()
    given = {name: value for name, value in keywords.items() if value is not None}
    if "policy" in given:
        (mode, nodes), strict = given["policy"].__getnewargs_ex__()
        given["policy"] = {"mode": mode, "nodes": nodes, **strict}
    return given


def _tuples(value: Any) -> Any:
    """Windows, which are lists of lists in JSON."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _read_builder(arguments: dict[str, Any]) -> AddressSpaceBuilder:
    options = dict(arguments["backing"])
    if "policy" in options:
        options["policy"] = NumaPolicy(**options["policy"])
    read = {
        "numa_regions": [NumaRegionInfo(*info) for info in arguments["numa_regions"]],
        "hotplug": arguments["hotplug"] and Hotplug(*arguments["hotplug"]),
        "backing": BackingOptions(**options),
    }
    machine = Machine(**{name: _tuples(value) for name, value in arguments["machine"].items()})
    rest = {name: value for name, value in arguments.items() if name != "machine"}
    return AddressSpaceBuilder(machine, **{**rest, **read})
