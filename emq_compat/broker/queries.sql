-- Named queries of store.py: each stands under a line "-- name: NAME".

-- name: schema
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- counts are written with every commit that changes them, so that a start needs no scan
CREATE TABLE queues (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    waiting INTEGER NOT NULL DEFAULT 0, delayed INTEGER NOT NULL DEFAULT 0
);
-- key: queue, priority and age in one integer (records.home_key), so that the table is in the order of hand-out;
-- a delayed message has its sequence as key (queue 0), its home, and when it is due
CREATE TABLE messages (
    key INTEGER PRIMARY KEY, msgid TEXT NOT NULL UNIQUE, headers TEXT NOT NULL, payload BLOB NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0, losses INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER, home INTEGER
);
CREATE INDEX messages_due ON messages (due_ms) WHERE due_ms IS NOT NULL;
CREATE TABLE in_flight (
    key INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, worker BLOB NOT NULL, late INTEGER NOT NULL
);
-- msgids finished in this minute and in the one before: the older of the two is emptied in turn
CREATE TABLE finished_0 (msgid TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE finished_1 (msgid TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE results (
    task_id TEXT PRIMARY KEY, state TEXT NOT NULL, body BLOB NOT NULL, expires_at REAL
) WITHOUT ROWID;
CREATE INDEX results_expiry ON results (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE revoked (task_id TEXT PRIMARY KEY, expires_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE dead (
    key INTEGER PRIMARY KEY, msgid TEXT NOT NULL, queue TEXT NOT NULL, headers TEXT NOT NULL, payload BLOB NOT NULL,
    attempt INTEGER NOT NULL, losses INTEGER NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL
);
CREATE TABLE schedules (
    key TEXT PRIMARY KEY, queue TEXT NOT NULL, headers TEXT NOT NULL, payload BLOB NOT NULL,
    interval_s INTEGER NOT NULL, cron TEXT NOT NULL, next_at REAL NOT NULL, runs_left INTEGER NOT NULL
) WITHOUT ROWID;

-- name: migrate_1
-- task_id: of messages that are parts of a chord or have an epilogue ('' where such a one has none)
ALTER TABLE messages ADD COLUMN task_id TEXT;
CREATE INDEX messages_task ON messages (task_id) WHERE task_id IS NOT NULL;
-- body: the key of the held message; it has a home, and is not due
CREATE TABLE chords (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, grown INTEGER NOT NULL,
    arrived INTEGER NOT NULL, body INTEGER, failure TEXT, at REAL NOT NULL
);
-- no value: a part that is awaited since it was added to its chord
CREATE TABLE parts (chord INTEGER NOT NULL, place TEXT NOT NULL, value BLOB, PRIMARY KEY (chord, place)) WITHOUT ROWID;

-- name: migrate_2
-- gate: what a parked message waits at (gates.py); like a delayed one it has its sequence as key, and its home
ALTER TABLE messages ADD COLUMN gate TEXT;
CREATE INDEX messages_gate ON messages (gate, home, key) WHERE gate IS NOT NULL;
-- unique keys (locks.py), times in unix seconds, 0: never
CREATE TABLE locks (key TEXT PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX locks_until ON locks (until) WHERE until > 0;
-- when a gate lets the next one through, unix seconds
CREATE TABLE paces (gate TEXT PRIMARY KEY, next_at REAL NOT NULL) WITHOUT ROWID;
-- what the workers said last of a task's shares
CREATE TABLE shares (
    task TEXT PRIMARY KEY, slots INTEGER NOT NULL, slots_by_key INTEGER NOT NULL,
    pace_s REAL NOT NULL, pace_by_key INTEGER NOT NULL
) WITHOUT ROWID;

-- name: migrate_3
-- the entries of beats: last_run_at by the beat's clock, sent_at by the broker's
CREATE TABLE periodic (
    schedule TEXT NOT NULL, name TEXT NOT NULL, last_run_at REAL NOT NULL, sent_at REAL NOT NULL,
    total INTEGER NOT NULL, token TEXT NOT NULL, task TEXT NOT NULL, shown TEXT NOT NULL,
    PRIMARY KEY (schedule, name)
) WITHOUT ROWID;

-- name: migrate_4
-- what is declared of a queue (declared.py), JSON
ALTER TABLE queues ADD COLUMN options TEXT;
CREATE TABLE exchanges (name TEXT PRIMARY KEY, kind TEXT NOT NULL, options TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE bindings (
    exchange TEXT NOT NULL, key TEXT NOT NULL, queue TEXT NOT NULL, PRIMARY KEY (exchange, key, queue)
) WITHOUT ROWID;

-- name: known
SELECT j.value FROM json_each(?) AS j WHERE EXISTS (SELECT 1 FROM messages WHERE msgid = j.value)
    OR EXISTS (SELECT 1 FROM finished_0 WHERE msgid = j.value) OR EXISTS (SELECT 1 FROM finished_1 WHERE msgid = j.value)

-- name: add_queue
INSERT INTO queues (name) VALUES (?)

-- name: queues
SELECT id, name, waiting, delayed FROM queues ORDER BY id

-- name: drop_queue
DELETE FROM queues WHERE id = ?

-- name: set_queue_options
UPDATE queues SET options = ?2 WHERE id = ?1

-- name: queue_options
SELECT id, options FROM queues WHERE options IS NOT NULL ORDER BY id

-- name: put_exchange
INSERT INTO exchanges (name, kind, options) VALUES (?, ?, ?)

-- name: drop_exchange
DELETE FROM exchanges WHERE name = ?

-- name: drop_bindings
DELETE FROM bindings WHERE exchange = ?

-- name: exchanges
SELECT name, kind, options FROM exchanges ORDER BY name

-- name: put_binding
INSERT OR IGNORE INTO bindings (exchange, key, queue) VALUES (?, ?, ?)

-- name: drop_binding
DELETE FROM bindings WHERE exchange = ? AND key = ? AND queue = ?

-- name: bindings
SELECT exchange, key, queue FROM bindings ORDER BY exchange, key, queue

-- name: set_counts
UPDATE queues SET waiting = ?, delayed = ? WHERE id = ?

-- name: add_message
INSERT INTO messages (key, msgid, headers, payload, task_id) VALUES (?, ?, ?, ?, ?)

-- name: add_delayed
INSERT INTO messages (key, home, due_ms, msgid, headers, payload, task_id) VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: add_held
INSERT INTO messages (key, home, msgid, headers, payload, task_id) VALUES (?, ?, ?, ?, ?, ?)

-- name: release
UPDATE messages SET key = ?2, home = ?3, due_ms = ?4, headers = ?5, payload = ?6 WHERE key = ?1

-- name: marked_as
SELECT key, msgid, headers, payload, attempt, losses, home, gate FROM messages
    WHERE task_id = ? AND (home IS NULL OR due_ms IS NOT NULL OR gate IS NOT NULL)
    AND key NOT IN (SELECT key FROM in_flight)

-- name: delayed_in
SELECT key, msgid, headers, payload, attempt, losses FROM messages
    WHERE due_ms IS NOT NULL AND home >= ?1 AND home <= ?2 ORDER BY due_ms, key LIMIT ?3

-- name: browse
SELECT key, msgid, headers, payload, attempt, losses FROM messages
    WHERE key > ?1 AND key <= ?2 AND key NOT IN (SELECT key FROM in_flight) ORDER BY key LIMIT ?3

-- name: browse_apart
SELECT key, msgid, headers, payload, attempt, losses FROM messages
    WHERE key > ?3 AND key < 1 << 45 AND home >= ?1 AND home <= ?2
    AND (due_ms IS NOT NULL OR gate IS NOT NULL AND gate NOT LIKE 'f%') ORDER BY key LIMIT ?4

-- name: waiting_as
SELECT key, msgid, headers, x'', attempt, losses, home, gate FROM messages
    WHERE msgid IN (SELECT value FROM json_each(?))
    AND (home IS NULL OR due_ms IS NOT NULL OR gate IS NOT NULL AND gate NOT LIKE 'f%')
    AND key NOT IN (SELECT key FROM in_flight) ORDER BY key

-- name: marked_in
SELECT key, msgid, headers, CASE WHEN instr(headers, 'epilogue') THEN payload ELSE x'' END, attempt, losses FROM messages
    WHERE task_id IS NOT NULL AND (home IS NULL OR due_ms IS NOT NULL OR gate IS NOT NULL)
    AND (key > ?1 AND key <= ?2 OR home >= ?1 AND home <= ?2) AND key NOT IN (SELECT key FROM in_flight)

-- name: next_due_ms
SELECT min(due_ms) FROM messages WHERE due_ms IS NOT NULL

-- name: due
SELECT key, home FROM messages WHERE due_ms <= ? ORDER BY due_ms, key LIMIT ?

-- name: make_ready
UPDATE messages SET key = ?2, due_ms = NULL, home = NULL WHERE key = ?1

-- name: read_messages
SELECT key, msgid, headers, payload, attempt, losses FROM messages WHERE key > ? AND key <= ? ORDER BY key LIMIT ?

-- name: read_message
SELECT key, msgid, headers, payload, attempt, losses FROM messages WHERE key = ?

-- name: hand_out
INSERT INTO in_flight (key, attempt, worker, late) VALUES (?, ?, ?, ?)

-- name: give_back
UPDATE messages SET attempt = ?2, losses = ?3 WHERE key = ?1

-- name: mark_redelivered
UPDATE messages SET headers = headers || ',redelivered' WHERE key = ? AND headers NOT LIKE '%,redelivered%'

-- name: end_hand_out
DELETE FROM in_flight WHERE key = ?

-- name: in_flight
SELECT m.key, m.msgid, m.headers, x'', m.attempt, m.losses, f.attempt, f.worker, f.late
    FROM in_flight f JOIN messages m ON m.key = f.key ORDER BY f.key

-- name: drop_message
DELETE FROM messages WHERE key = ?

-- name: remember_finished
INSERT OR IGNORE INTO finished_{current} (msgid) VALUES (?)

-- name: forget_finished_0
DELETE FROM finished_0

-- name: forget_finished_1
DELETE FROM finished_1

-- name: bury
INSERT INTO dead (msgid, queue, headers, payload, attempt, losses, reason, at)
    SELECT msgid, ?2, headers, payload, ?6, ?5, ?3, ?4 FROM messages WHERE key = ?1

-- name: purge_waiting
DELETE FROM messages WHERE key > ?1 AND key <= ?2 AND key NOT IN (SELECT key FROM in_flight)

-- name: purge_delayed
DELETE FROM messages WHERE due_ms IS NOT NULL AND home >= ?1 AND home <= ?2

-- name: purge_parked
DELETE FROM messages WHERE gate IS NOT NULL AND home >= ?1 AND home <= ?2

-- name: add_parked
INSERT INTO messages (key, home, gate, msgid, headers, payload, task_id) VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: move
UPDATE messages SET key = ?2, home = ?3, gate = ?4 WHERE key = ?1

-- name: let_all
UPDATE messages SET key = home | key, home = NULL, gate = NULL
    WHERE key IN (SELECT key FROM messages WHERE gate = ?1 AND home = ?2 ORDER BY key LIMIT ?3)

-- name: parked_counts
SELECT gate, home, count(*) FROM messages WHERE gate IS NOT NULL GROUP BY gate, home

-- name: parked
SELECT key, msgid, headers, payload, attempt, losses FROM messages WHERE gate = ? AND home = ? ORDER BY key LIMIT ?

-- name: parked_at
SELECT key, msgid, headers, payload, attempt, losses, home FROM messages WHERE gate = ? ORDER BY home, key

-- name: locks
SELECT key, owner, until, expires FROM locks WHERE key IN (SELECT value FROM json_each(?))

-- name: all_locks
SELECT key, owner, until, expires FROM locks WHERE key > ? ORDER BY key LIMIT ?

-- name: count_locks
SELECT count(*) FROM locks

-- name: find
-- behind: the headers from the value of `id` on, which ends at a comma
WITH found AS (SELECT *, substr(headers, instr(',' || headers, ',id:') + 3) AS behind FROM messages)
SELECT key, msgid, headers, x'', attempt, losses, home, gate, substr(behind, 1, instr(behind || ',', ',') - 1) AS id
    FROM found WHERE id IN (SELECT value FROM json_each(?)) AND key NOT IN (SELECT key FROM in_flight)

-- name: put_lock
INSERT INTO locks (key, owner, until, expires) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, until = excluded.until, expires = excluded.expires

-- name: drop_lock
DELETE FROM locks WHERE key = ? AND owner = ?

-- name: expire_locks
DELETE FROM locks WHERE key IN (SELECT key FROM locks WHERE until > 0 AND until <= ? ORDER BY until LIMIT ?)

-- name: put_pace
INSERT INTO paces (gate, next_at) VALUES (?, ?) ON CONFLICT (gate) DO UPDATE SET next_at = excluded.next_at

-- name: drop_paces
DELETE FROM paces WHERE next_at <= ?

-- name: paces
SELECT gate, next_at FROM paces WHERE next_at > ?

-- name: put_shares
INSERT INTO shares (task, slots, slots_by_key, pace_s, pace_by_key) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (task) DO UPDATE SET slots = excluded.slots, slots_by_key = excluded.slots_by_key,
        pace_s = excluded.pace_s, pace_by_key = excluded.pace_by_key

-- name: drop_shares
DELETE FROM shares WHERE task = ?

-- name: shares
SELECT task, slots, slots_by_key, pace_s, pace_by_key FROM shares

-- name: chords
SELECT c.number, c.id, c.size, c.grown, c.arrived, c.body, c.failure, c.at,
    coalesce(m.home, 0), coalesce(m.msgid, ''), coalesce(m.headers, '')
    FROM chords c LEFT JOIN messages m ON m.key = c.body ORDER BY c.number

-- name: put_chord
-- One that was begun anew under its id takes the place of that which the same batch drops.
INSERT OR REPLACE INTO chords (number, id, size, grown, arrived, body, failure, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)

-- name: drop_chord
DELETE FROM chords WHERE number = ?

-- name: expect_part
INSERT OR IGNORE INTO parts (chord, place) VALUES (?, ?)

-- name: add_part
INSERT INTO parts (chord, place, value) VALUES (?, ?, ?)
    ON CONFLICT (chord, place) DO UPDATE SET value = excluded.value WHERE value IS NULL

-- name: parts
SELECT place, value FROM parts WHERE chord = ? AND value IS NOT NULL

-- name: drop_parts
DELETE FROM parts WHERE chord = ?

-- name: put_result
INSERT INTO results (task_id, state, body, expires_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (task_id) DO UPDATE SET state = excluded.state, body = excluded.body, expires_at = excluded.expires_at

-- name: results
SELECT task_id, state, body FROM results WHERE task_id IN (SELECT value FROM json_each(?))

-- name: result_sizes
SELECT task_id, state, length(body) FROM results WHERE task_id IN (SELECT value FROM json_each(?))

-- name: fill_message
UPDATE messages SET payload = ?1 WHERE key = ?2

-- name: fill_result
UPDATE results SET body = ?1 WHERE task_id = ?2

-- name: forget_result
DELETE FROM results WHERE task_id = ?

-- name: expire_results
DELETE FROM results WHERE task_id IN (SELECT task_id FROM results WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)

-- name: revoke
INSERT INTO revoked (task_id, expires_at) VALUES (?, ?)
    ON CONFLICT (task_id) DO UPDATE SET expires_at = excluded.expires_at

-- name: drop_old_revokes
DELETE FROM revoked WHERE expires_at <= ?

-- name: revoked
SELECT task_id FROM revoked

-- name: put_schedule
INSERT INTO schedules (key, queue, headers, payload, interval_s, cron, next_at, runs_left)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET queue = excluded.queue, headers = excluded.headers, payload = excluded.payload,
        interval_s = excluded.interval_s, cron = excluded.cron, next_at = excluded.next_at,
        runs_left = excluded.runs_left

-- name: drop_schedule
DELETE FROM schedules WHERE key = ?

-- name: schedules
SELECT key, queue, headers, payload, interval_s, cron, next_at, runs_left FROM schedules

-- name: put_periodic
INSERT INTO periodic (schedule, name, last_run_at, sent_at, total, token, task, shown) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (schedule, name) DO UPDATE SET last_run_at = excluded.last_run_at, sent_at = excluded.sent_at,
        total = excluded.total, token = excluded.token, task = excluded.task, shown = excluded.shown

-- name: drop_periodic
DELETE FROM periodic WHERE schedule = ? AND name = ?

-- name: periodic
SELECT schedule, name, last_run_at, sent_at, total, token, task, shown FROM periodic

-- name: dead_letters
SELECT key, msgid, queue, headers, x'', attempt, losses, reason, at FROM dead WHERE key > ? ORDER BY key LIMIT ?

-- name: dead_letter
SELECT key, msgid, queue, headers, payload, attempt, losses, reason, at FROM dead WHERE key = ?

-- name: drop_dead
DELETE FROM dead WHERE key = ?

-- name: count_dead
SELECT count(*) FROM dead

-- name: count_results
SELECT count(*) FROM results

-- name: get_meta
SELECT value FROM meta WHERE name = ?

-- name: set_meta
INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value
