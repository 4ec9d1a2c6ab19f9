"""The journal's tables and the statements on them, from queries.sql."""

from __future__ import annotations

from importlib import resources

__all__ = ["SCHEMA_VERSION", "SQL"]

#: Version of the tables in queries.sql. Newer code migrates an older folder, older code refuses a newer one.
SCHEMA_VERSION = 5


def _load_queries() -> dict[str, str]:
    text = resources.files("emq_compat.broker").joinpath("queries.sql").read_text("utf-8")
    return {
        name.strip(): body.strip()
        for name, _, body in (part.partition("\n") for part in text.split("-- name:")[1:])
    }


SQL = _load_queries()
