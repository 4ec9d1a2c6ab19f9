"""What the shim loads at its first use, so that importing it and declaring tasks stay cheap.

``later.build(…)`` stands for ``from emq_compat.shim.build import build``: at the first use of a name its
module is imported and the name becomes an attribute of this module; from then on it costs what any attribute
does. This is the only place where that is done. The table below says where each name is; type checkers see
the imports themselves. A worker loads what tasks need before it forks (``load``).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from emq_compat.address import DEFAULT_URL as DEFAULT_URL
    from emq_compat.address import is_kombu as is_kombu
    from emq_compat.shim.alias.finder import alias_module as alias_module
    from emq_compat.shim.alias.finder import install as install
    from emq_compat.shim.annotations import annotations_of as annotations_of
    from emq_compat.shim.annotations import sources_of as sources_of
    from emq_compat.shim.announce import announced as announced
    from emq_compat.shim.apublish import published as published
    from emq_compat.shim.awaiting import inside as inside
    from emq_compat.shim.backend_kinds import EmqBackend as EmqBackend
    from emq_compat.shim.backend_kinds import backend_of as backend_of
    from emq_compat.shim.beat.program import Beat as Beat
    from emq_compat.shim.bug_report import bug_report as bug_report
    from emq_compat.shim.build import Plan as Plan
    from emq_compat.shim.build import argument_check as argument_check
    from emq_compat.shim.build import as_carried as as_carried
    from emq_compat.shim.build import build as build
    from emq_compat.shim.build import build_with as build_with
    from emq_compat.shim.call_terms import CallTerms as CallTerms
    from emq_compat.shim.call_terms import call_terms as call_terms
    from emq_compat.shim.canvas.chain import chain as chain
    from emq_compat.shim.canvas.chord import chord as chord
    from emq_compat.shim.canvas.composite import is_a as is_a
    from emq_compat.shim.canvas.group import group as group
    from emq_compat.shim.canvas.kinds import KINDS as KINDS
    from emq_compat.shim.canvas.maps import chunks as chunks
    from emq_compat.shim.canvas.maps import xmap as xmap
    from emq_compat.shim.canvas.maps import xstarmap as xstarmap
    from emq_compat.shim.canvas.places import counted_by_backend as counted_by_backend
    from emq_compat.shim.canvas.regen import as_list as as_list
    from emq_compat.shim.canvas.signature import Signature as Signature
    from emq_compat.shim.canvas.signature import maybe_signature as maybe_signature
    from emq_compat.shim.canvas.signature import signature as signature
    from emq_compat.shim.canvas.stamping import StampingVisitor as StampingVisitor
    from emq_compat.shim.codec import dumps as dumps
    from emq_compat.shim.codec import revive as revive
    from emq_compat.shim.connections import Connection as Connection
    from emq_compat.shim.connections import Given as Given
    from emq_compat.shim.connections import Pool as Pool
    from emq_compat.shim.connections import Producer as Producer
    from emq_compat.shim.eager import run_here as run_here
    from emq_compat.shim.events.clock import Clock as Clock
    from emq_compat.shim.execution import execute as execute
    from emq_compat.shim.flow import collected_into as collected_into
    from emq_compat.shim.flow import place_in_chord as place_in_chord
    from emq_compat.shim.graph import DependencyGraph as DependencyGraph
    from emq_compat.shim.graph import GraphFormatter as GraphFormatter
    from emq_compat.shim.models import dumped as dumped
    from emq_compat.shim.models import with_models as with_models
    from emq_compat.shim.options import ADDRESS as ADDRESS
    from emq_compat.shim.options import read_options as read_options
    from emq_compat.shim.options import unknown_options as unknown_options
    from emq_compat.shim.over_kombu import KombuPools as KombuPools
    from emq_compat.shim.over_kombu import client_of as client_of
    from emq_compat.shim.over_kombu import connection_of as connection_of
    from emq_compat.shim.paths import TaskPath as TaskPath
    from emq_compat.shim.paths import path_of as path_of
    from emq_compat.shim.pipeline import Pipeline as Pipeline
    from emq_compat.shim.pipeline import pipeline_of as pipeline_of
    from emq_compat.shim.pipeline import publish_with_tries as publish_with_tries
    from emq_compat.shim.programs import Worker as Worker
    from emq_compat.shim.programs import run_command as run_command
    from emq_compat.shim.promise import Promise as Promise
    from emq_compat.shim.request import Context as Context
    from emq_compat.shim.request import request_of as request_of
    from emq_compat.shim.results.content import exception_of as exception_of
    from emq_compat.shim.results.content import value_of as value_of
    from emq_compat.shim.results.eager import EagerResult as EagerResult
    from emq_compat.shim.results.groups import GroupResult as GroupResult
    from emq_compat.shim.results.sets import ResultSet as ResultSet
    from emq_compat.shim.results.single import AsyncResult as AsyncResult
    from emq_compat.shim.results.single import leaves as leaves
    from emq_compat.shim.retention import seconds_kept as seconds_kept
    from emq_compat.shim.retrying import rebound as rebound
    from emq_compat.shim.retrying import retry_message as retry_message
    from emq_compat.shim.settings_effect import WITHOUT_EFFECT as WITHOUT_EFFECT
    from emq_compat.shim.settings_option import option_named as option_named
    from emq_compat.shim.settings_text import as_text as as_text
    from emq_compat.shim.settings_text import censored_items as censored_items
    from emq_compat.shim.settings_values import check_values as check_values
    from emq_compat.shim.settings_values import number_in as number_in
    from emq_compat.shim.settings_values import odd_values as odd_values
    from emq_compat.shim.zones import zone_named as zone_named

#: Module, below emq_compat → names of it.
NAMES: Final[dict[str, tuple[str, ...]]] = {
    "address": ("DEFAULT_URL", "is_kombu"),
    "shim.alias.finder": ("alias_module", "install"),
    "shim.annotations": ("annotations_of", "sources_of"),
    "shim.announce": ("announced",),
    "shim.apublish": ("published",),
    "shim.awaiting": ("inside",),
    "shim.backend_kinds": ("EmqBackend", "backend_of"),
    "shim.bug_report": ("bug_report",),
    "shim.beat.program": ("Beat",),
    "shim.build": ("Plan", "argument_check", "as_carried", "build", "build_with"),
    "shim.call_terms": ("CallTerms", "call_terms"),
    "shim.canvas.chain": ("chain",),
    "shim.canvas.chord": ("chord",),
    "shim.canvas.composite": ("is_a",),
    "shim.canvas.group": ("group",),
    "shim.canvas.kinds": ("KINDS",),
    "shim.canvas.maps": ("chunks", "xmap", "xstarmap"),
    "shim.canvas.places": ("counted_by_backend",),
    "shim.canvas.regen": ("as_list",),
    "shim.canvas.signature": ("Signature", "maybe_signature", "signature"),
    "shim.canvas.stamping": ("StampingVisitor",),
    "shim.codec": ("dumps", "revive"),
    "shim.connections": ("Connection", "Given", "Pool", "Producer"),
    "shim.eager": ("run_here",),
    "shim.events.clock": ("Clock",),
    "shim.execution": ("execute",),
    "shim.flow": ("collected_into", "place_in_chord"),
    "shim.graph": ("DependencyGraph", "GraphFormatter"),
    "shim.models": ("dumped", "with_models"),
    "shim.options": ("ADDRESS", "read_options", "unknown_options"),
    "shim.over_kombu": ("KombuPools", "client_of", "connection_of"),
    "shim.paths": ("TaskPath", "path_of"),
    "shim.pipeline": ("Pipeline", "pipeline_of", "publish_with_tries"),
    "shim.programs": ("Worker", "run_command"),
    "shim.promise": ("Promise",),
    "shim.request": ("Context", "request_of"),
    "shim.results.content": ("exception_of", "value_of"),
    "shim.results.eager": ("EagerResult",),
    "shim.results.groups": ("GroupResult",),
    "shim.results.sets": ("ResultSet",),
    "shim.results.single": ("AsyncResult", "leaves"),
    "shim.retention": ("seconds_kept",),
    "shim.retrying": ("rebound", "retry_message"),
    "shim.settings_effect": ("WITHOUT_EFFECT",),
    "shim.settings_option": ("option_named",),
    "shim.settings_text": ("as_text", "censored_items"),
    "shim.settings_values": ("check_values", "number_in", "odd_values"),
    "shim.zones": ("zone_named",),
}
#: Modules of these that few tasks need: a process that does loads them itself.
SELDOM: Final = frozenset(
    {
        "shim.alias.finder",
        "shim.annotations",
        "shim.apublish",
        "shim.beat.program",
        "shim.bug_report",
        "shim.connections",
        "shim.eager",
        "shim.graph",
        "shim.over_kombu",
        "shim.programs",
        "shim.promise",
        "shim.settings_option",
    }
)
_HOMES: Final = {name: f"emq_compat.{home}" for home, names in NAMES.items() for name in names}


def load() -> None:
    """Load what tasks need now: processes that are forked from this one share it, and none need load it."""
    for home, names in NAMES.items():
        if home not in SELDOM:
            for name in names:
                globals()[name] = _found(name)


def _found(name: str) -> Any:
    return getattr(import_module(_HOMES[name]), name)


if not TYPE_CHECKING:  # to type checkers it would promise any name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = _found(name)
        return value
