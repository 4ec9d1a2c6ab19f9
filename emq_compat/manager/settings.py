"""eventmq's settings that concern a job manager: an INI file, and the environment over it.

The file is /etc/eventmq.conf, or what EVENTMQ_CONFIG_FILE names; its sections ``global`` and ``jobmanager``
are read in this order; ``EVENTMQ_<NAME>`` in the environment wins. Lists are JSON, as in eventmq.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from emq_compat.errors import ConfigurationError

__all__ = ["DEFAULT_WEIGHT", "EventmqSettings", "read_settings"]

#: eventmq's DEFAULT_QUEUE_WEIGHT.
DEFAULT_WEIGHT = 10

_CONFIG_FILE = "/etc/eventmq.conf"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventmqSettings:
    """eventmq's settings under eventmq's names, in lower case; times in seconds.

    ``allow`` is ours: patterns of importable paths that may be run (eventmq runs any).
    """

    queues: tuple[tuple[int, str], ...] = ((DEFAULT_WEIGHT, "default"),)
    concurrent_jobs: int = 4
    worker_addr: str = "tcp://127.0.0.1:47290"
    worker_addr_failover: str = ""
    max_job_count: int = 1024
    global_timeout: int = 300
    kill_grace_period: int = 300
    disable_heartbeats: bool = False
    heartbeat_interval: int = 3
    heartbeat_timeout: int = 5
    heartbeat_liveness: int = 3
    reconnect_timeout: int = 5
    setup_path: str = ""
    setup_callable: str = ""
    subprocess_setup_func: str = ""
    job_entry_func: str = ""
    job_exit_func: str = ""
    super_debug: bool = False
    allow: tuple[str, ...] = ()


def read_settings(environ: Mapping[str, str], section: str = "jobmanager") -> EventmqSettings:
    """Read the file and the environment.

    Raises:
        ConfigurationError: the file can't be read, or a value is of the wrong kind; the message names it.
    """
    found = _read_file(Path(environ.get("EVENTMQ_CONFIG_FILE") or _CONFIG_FILE), section)
    values: dict[str, Any] = {}
    for setting in fields(EventmqSettings):
        name = setting.name
        text = environ.get(f"EVENTMQ_{name.upper()}")
        if text is None:
            text = found.get(name)
        if text is not None:
            values[name] = _convert(name, text, setting.default)
    return EventmqSettings(**values)


def _read_file(path: Path, section: str) -> dict[str, str]:
    parser = ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, ConfigParserError) as exc:
        raise ConfigurationError(f"the settings file {path} can't be read: {exc}") from exc
    found: dict[str, str] = {}
    for name in ("global", section):
        if parser.has_section(name):
            found.update(parser.items(name))
    return found


def _convert(name: str, text: str, default: object) -> Any:
    try:
        if isinstance(default, bool):
            return "t" in text.lower()  # eventmq's own reading
        if isinstance(default, int):
            return int(text)
        if isinstance(default, tuple):
            document = json.loads(text)
            if not isinstance(document, list):
                raise ValueError("it is not a JSON list")
            if name == "queues":
                return tuple((int(weight), str(queue)) for weight, queue in document)
            return tuple(map(str, document))
    except (ValueError, TypeError) as exc:
        raise ConfigurationError(f"eventmq's setting {name.upper()} has the value {text!r}: {exc}") from None
    return text
