"""Hypothesis strategies: every command as any peer of ours may say it, and frames that are nearly right."""

from __future__ import annotations

import json
import string

from hypothesis import strategies as st

from emq_compat.message import Headers, Publish, ReplyHeaders
from emq_compat.protocol.commands import (
    SHOWN,
    VERSION,
    Ack,
    Answer,
    Ask,
    Capabilities,
    Command,
    Disconnect,
    Heartbeat,
    Hello,
    Inform,
    Kbye,
    Nack,
    PublishTopic,
    Ready,
    Reply,
    Request,
    Schedule,
    Show,
    Shown,
    Unschedule,
    Update,
)
from emq_compat.protocol.limits import MAX_NUMBER
from emq_compat.terms import Shares

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
IDS = st.text(string.ascii_letters + string.digits + "-_.@é☃", min_size=1, max_size=40).filter(
    lambda text: not text.startswith("[")
)
QUEUES = st.text(string.ascii_letters + string.digits + "-_.:/ ,é☃", max_size=60)
NUMBERS = st.integers(0, MAX_NUMBER)
SECONDS = st.floats(0, 4e9, allow_nan=False).map(lambda seconds: round(seconds, 6))
BODIES = st.binary(max_size=200)
OBJECTS = st.binary(max_size=50).map(lambda raw: b'{"value":"' + raw.hex().encode() + b'"}')
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
JSON_OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)
PARTS = st.builds(
    lambda chord, index, more: f"{chord}:{'.'.join(map(str, index))}{more}",
    IDS,
    st.lists(st.integers(0, 10**6), min_size=1, max_size=4),
    st.sampled_from(["", "+"]),
)

HEADERS = st.builds(
    Headers,
    guarantee=st.booleans(),
    reply_requested=st.booleans(),
    retry_count=st.integers(0, 1000),
    timeout=st.none() | st.integers(0, 10**6),
    task_id=TEXT.filter(str.isprintable),
    task=TEXT,
    priority=st.integers(0, 9),
    eta=SECONDS,
    expires=SECONDS,
    no_result=st.booleans(),
    limit_s=st.none() | SECONDS,
    soft_limit_s=st.none() | SECONDS,
    attempt=st.integers(0, 10**6),
    redelivered=st.booleans(),
    retries=st.integers(0, 1000),
    chord=st.just("") | PARTS,
    awaits=st.just("") | st.builds("{}:{}".format, IDS, st.integers(0, 10**6)),
    immutable=st.booleans(),
    epilogue=st.booleans(),
    concludes=st.booleans(),
    settled=TEXT,
    keep_s=st.none() | SECONDS,
    tags=TEXT,
)
REPLY_HEADERS = st.builds(
    ReplyHeaders,
    attempt=NUMBERS,
    state=TEXT,
    no_result=st.booleans(),
    unattended=st.booleans(),
    keep_s=st.none() | SECONDS,
)
PUBLISHES = st.builds(Publish, msgid=IDS, queue=QUEUES, headers=HEADERS, payload=BODIES)
SCHEDULED = {
    "msgid": IDS,
    "queue": QUEUES,
    "headers": st.sampled_from(["", "nohaste", "run_count:3", "nohaste,run_count:1"]),
    "interval_s": st.integers(-1, 10**6),
    "payload": BODIES,
    "cron": st.sampled_from(["", "* * * * *", "*/5 1 * * 2"]),
}
CAPABILITIES = st.builds(
    Capabilities,
    slots=NUMBERS,
    held=st.lists(st.tuples(IDS, NUMBERS, st.booleans()), max_size=4).map(tuple),
    tasks=st.none() | st.dictionaries(TEXT, st.sampled_from(["", "l", "r", "lr"]), max_size=4),
    intervals=st.dictionaries(TEXT, st.floats(1e-6, 1e6), max_size=2),
    shares=st.none()
    | st.dictionaries(
        TEXT, st.builds(Shares, NUMBERS, st.booleans(), st.floats(0, 1e6), st.booleans()), max_size=2
    ),
    control=TEXT,
    pid=NUMBERS,
    hostname=TEXT,
    consumer=st.booleans(),
)

_WEIGHTED = st.lists(st.tuples(NUMBERS, QUEUES), max_size=4).map(tuple)

#: What every peer of ours may say.
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(Request, msgid=IDS, queue=QUEUES, headers=HEADERS, payload=BODIES),
    st.builds(
        Reply,
        msgid=IDS,
        body=OBJECTS,
        request_msgid=IDS,
        headers=REPLY_HEADERS,
        follow_ups=st.lists(PUBLISHES, max_size=3).map(tuple),
    ),
    st.builds(Reply, msgid=IDS, body=OBJECTS, request_msgid=IDS),
    st.builds(Reply, msgid=IDS, body=st.just(b""), request_msgid=IDS),
    st.builds(Update, msgid=IDS, body=BODIES, request_msgid=IDS, headers=REPLY_HEADERS),
    st.builds(Ack, msgid=IDS, acked=st.lists(IDS, max_size=4)),
    st.builds(Ready, msgid=IDS, count=NUMBERS),
    st.builds(Nack, msgid=IDS, returned=st.lists(st.tuples(IDS, NUMBERS), max_size=4).map(tuple)),
    st.builds(
        Heartbeat,
        msgid=IDS,
        timestamp=st.floats(0, 4e9, allow_nan=False),
        not_begun=st.frozensets(IDS, max_size=4),
    ),
    st.builds(
        Inform,
        msgid=IDS,
        queues=_WEIGHTED,
        role=st.sampled_from(["worker", "scheduler"]),
        capabilities=st.none() | CAPABILITIES,
    ),
    st.builds(Schedule, **SCHEDULED),
    st.builds(Unschedule, **SCHEDULED),
    st.builds(PublishTopic, msgid=IDS, topic=TEXT, payload=BODIES),
    st.builds(Disconnect, msgid=IDS),
    st.builds(Kbye, msgid=IDS),
    st.builds(Hello, msgid=IDS, about=JSON_OBJECTS),
    st.builds(Ask, msgid=IDS, verb=IDS, arguments=JSON_OBJECTS),
    st.builds(Answer, msgid=IDS, body=BODIES, asked=IDS),
    st.builds(Show, msgid=IDS, what=st.sampled_from(SHOWN)),
    st.builds(Shown, msgid=IDS, body=OBJECTS),
)

WORDS = [
    b"REQUEST", b"REPLY", b"ACK", b"READY", b"HEARTBEAT", b"INFORM", b"UPDATE", b"NACK", b"SCHEDULE",
    b"UNSCHEDULE", b"PUBLISH", b"DISCONNECT", b"KBYE", b"KBAI", b"HELLO", b"ASK", b"ANSWER",
    *(what.encode() for what in SHOWN),
]  # fmt: skip

_NEARLY = st.one_of(
    st.binary(max_size=60),
    TEXT.map(str.encode),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"", b"[", b"{}", b"[[]]", b"[[1,2]]", b"-1", b"1e999", b"NaN", b"\xff\xfe"]),
    st.just(b"a" * 5000),
    st.integers().map(lambda n: str(n).encode()),
)

#: Frames that begin as a message does, with anything behind.
NEARLY_MESSAGES = st.tuples(st.sampled_from(WORDS), st.lists(_NEARLY, max_size=12)).map(
    lambda parts: [b"", VERSION, parts[0], *parts[1]]
)
