"""The journal's tables and the statements on them, from queries.sql."""

from __future__ import annotations

from importlib import resources
from typing import Final

__all__ = ["LARGE", "SCHEMA_VERSION", "SQL", "WRITES"]

#: Version of the tables in queries.sql. Newer code migrates an older folder, older code refuses a newer one.
SCHEMA_VERSION = 5


def _load_queries() -> dict[str, str]:
    text = resources.files("emq_compat.broker").joinpath("queries.sql").read_text("utf-8")
    return {
        name.strip(): body.strip()
        for name, _, body in (part.partition("\n") for part in text.split("-- name:")[1:])
    }


SQL = _load_queries()

#: The writes that are collected, in the order in which they are executed together.
WRITES: Final = (
    "add_message",
    "add_delayed",
    "add_held",
    "add_parked",
    "fill_message",
    "give_back",
    "end_hand_out",
    "move",
    "hand_out",
    "bury",
    "drop_message",
    "remember_finished",
    "drop_lock",
    "put_lock",
    "put_pace",
    "put_result",
    "fill_result",
    "forget_result",
    "revoke",
    "put_schedule",
    "put_periodic",
    "set_counts",
    "add_part",
    "put_chord",
    "drop_parts",
    "drop_chord",
)

#: The statements that are given payloads and results, with how many values they take.
LARGE: Final = {
    "add_message": 5,
    "add_delayed": 7,
    "add_held": 6,
    "add_parked": 7,
    "put_result": 4,
    "add_part": 3,
    "release": 6,
    "fill_message": 2,
    "fill_result": 2,
}
