BEGIN TRANSACTION;
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE artifact (
    id TEXT NOT NULL,
    "key" TEXT,
    type TEXT NOT NULL,
    description TEXT,
    data TEXT NOT NULL,
    root INTEGER,
    flow_run INTEGER,
    task_run INTEGER,
    created FLOAT NOT NULL,
    updated FLOAT NOT NULL,
    PRIMARY KEY (id)
);
INSERT INTO "artifact" VALUES('artifact-1','report','markdown','Numbers','"# Report"',4294967297,4294967297,NULL,1764111106.0,1764111107.0);
CREATE TABLE cache_lock (
    "key" TEXT NOT NULL,
    session INTEGER NOT NULL,
    PRIMARY KEY ("key")
);
INSERT INTO "cache_lock" VALUES('k1',1);
CREATE TABLE cached (
    "key" TEXT NOT NULL,
    task_key TEXT NOT NULL,
    created FLOAT NOT NULL,
    expires FLOAT,
    form TEXT NOT NULL,
    result BLOB,
    size INTEGER,
    preview TEXT,
    task_run TEXT,
    parts TEXT,
    PRIMARY KEY ("key")
);
INSERT INTO "cached" VALUES('cache-key','flows.py:double',1764111102.0,NULL,'json',X'34',NULL,'4','run-1','{"inputs": "ab"}');
INSERT INTO "cached" VALUES('big','flows.py:double',1764111102.0,1764211102.0,'file',NULL,5000000000,NULL,NULL,'{"inputs": "ab"}');
CREATE TABLE concurrency_limit (
    name TEXT NOT NULL,
    slots INTEGER NOT NULL,
    slots_per_second FLOAT,
    used FLOAT NOT NULL,
    at FLOAT NOT NULL,
    PRIMARY KEY (name)
);
INSERT INTO "concurrency_limit" VALUES('gpu',4,NULL,2.0,0.0);
INSERT INTO "concurrency_limit" VALUES('api',10,0.5,1.5,1764111102.0);
CREATE TABLE dependency (
    task_run INTEGER NOT NULL,
    upstream INTEGER NOT NULL,
    PRIMARY KEY (task_run, upstream)
)
 WITHOUT ROWID;
INSERT INTO "dependency" VALUES(4294967302,4294967299);
INSERT INTO "dependency" VALUES(4294967302,4294967300);
CREATE TABLE flow_run (
    id INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    root INTEGER NOT NULL,
    parent INTEGER,
    parent_task_run TEXT,
    name TEXT NOT NULL,
    flow_name TEXT NOT NULL,
    flow_key TEXT NOT NULL,
    flow_source BLOB,
    entrypoint TEXT,
    runner TEXT,
    tags TEXT NOT NULL,
    inputs BLOB,
    parameters BLOB,
    parameters_preview TEXT,
    not_resumable TEXT,
    state_type TEXT NOT NULL,
    state_name TEXT NOT NULL,
    message TEXT,
    created FLOAT NOT NULL,
    started FLOAT,
    ended FLOAT,
    attempt INTEGER NOT NULL,
    form TEXT,
    result BLOB,
    preview TEXT,
    PRIMARY KEY (id),
    UNIQUE (run_id)
);
INSERT INTO "flow_run" VALUES(4294967297,'01234567-89ab-cdef-0123-000000000001',4294967297,NULL,NULL,'brisk-otter','etl','flows.py:etl',X'0102','flows.py:etl','threads','["nightly"]',X'00696E',X'80057069636B6C6564FF','{"n": 3}',NULL,'RUNNING','Running',NULL,1764111101.0,1764111101.25,NULL,1,NULL,NULL,NULL);
INSERT INTO "flow_run" VALUES(4294967298,'01234567-89ab-cdef-0123-000000000002',4294967297,4294967297,NULL,'calm-heron','part','flows.py:part',X'0102',NULL,NULL,'[]',NULL,NULL,NULL,'it cannot be pickled: lock','FAILED','Failed',NULL,1764111101.5,1764111101.5,NULL,2,NULL,NULL,NULL);
CREATE TABLE lease (
    id INTEGER NOT NULL,
    name TEXT NOT NULL,
    session INTEGER NOT NULL,
    slots INTEGER NOT NULL,
    taken FLOAT NOT NULL,
    PRIMARY KEY (id)
);
INSERT INTO "lease" VALUES(1,'gpu',1,2,1764111102.0);
CREATE TABLE log (
    id INTEGER NOT NULL,
    root INTEGER,
    flow_run INTEGER,
    task_run INTEGER,
    at FLOAT NOT NULL,
    level INTEGER NOT NULL,
    logger TEXT NOT NULL,
    run_name TEXT,
    message TEXT NOT NULL,
    PRIMARY KEY (id)
);
INSERT INTO "log" VALUES(1,4294967297,4294967297,NULL,1764111101.3,20,'anabranch.flow_run','brisk-otter','began');
INSERT INTO "log" VALUES(2,4294967297,NULL,NULL,1764111101.4,40,'mine',NULL,'a ? b % c;
second line');
CREATE TABLE session (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    prefix TEXT NOT NULL,
    root INTEGER,
    host TEXT NOT NULL,
    boot TEXT NOT NULL,
    pid INTEGER NOT NULL,
    process_start TEXT NOT NULL,
    beat INTEGER NOT NULL,
    opened FLOAT NOT NULL,
    closed FLOAT,
    UNIQUE (prefix)
);
INSERT INTO "session" VALUES(1,'0123456789abcdef0123',4294967297,'host','0b1c2d3e-boot',4242,'98765',3,1764111100.5,NULL);
CREATE TABLE submission (
    id INTEGER NOT NULL,
    flow_run INTEGER,
    parent INTEGER,
    task INTEGER NOT NULL,
    count INTEGER NOT NULL,
    first_index INTEGER NOT NULL,
    map_id TEXT,
    submitted FLOAT NOT NULL,
    PRIMARY KEY (id)
);
INSERT INTO "submission" VALUES(4294967299,4294967297,NULL,1,3,0,'map-1',1764111102.0);
CREATE TABLE task (
    id INTEGER NOT NULL,
    "key" TEXT NOT NULL,
    name TEXT NOT NULL,
    source BLOB NOT NULL,
    PRIMARY KEY (id)
);
INSERT INTO "task" VALUES(1,'flows.py:double','double',X'000102030405060708090A0B0C0D0E0F');
INSERT INTO "task" VALUES(2,'flows.py:broken','broken ü',X'101112131415161718191A1B1C1D1E1F');
CREATE TABLE task_run (
    id INTEGER NOT NULL,
    flow_run INTEGER,
    task INTEGER NOT NULL,
    number INTEGER NOT NULL,
    phase INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    started FLOAT,
    ended FLOAT,
    inputs BLOB,
    form TEXT,
    result BLOB,
    name TEXT,
    state_name TEXT,
    message TEXT,
    parent INTEGER,
    preview TEXT,
    submitted FLOAT,
    PRIMARY KEY (id)
);
INSERT INTO "task_run" VALUES(4294967299,4294967297,1,0,9,1,1764111102.0,1764111102.125,X'00000000000000000000000000000000','json',X'30',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "task_run" VALUES(4294967300,4294967297,1,1,9,1,1764111103.0,1764111103.125,X'01010101010101010101010101010101','json',X'32',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "task_run" VALUES(4294967301,4294967297,1,2,9,1,1764111104.0,1764111104.125,X'02020202020202020202020202020202','json',X'34',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "task_run" VALUES(4294967302,4294967298,2,0,10,3,1764111105.0,1764111105.5,NULL,NULL,NULL,'broken-0','Failed','ValueError: it''s; broken
über',4294967299,NULL,1764111104.5);
CREATE TABLE transition (
    id INTEGER NOT NULL,
    flow_run INTEGER,
    task_run INTEGER,
    at FLOAT NOT NULL,
    state_type TEXT NOT NULL,
    state_name TEXT NOT NULL,
    message TEXT,
    attempt INTEGER NOT NULL,
    PRIMARY KEY (id)
);
INSERT INTO "transition" VALUES(1,4294967297,NULL,1764111101.0,'RUNNING','Running',NULL,1);
INSERT INTO "transition" VALUES(2,4294967298,4294967302,1764111105.5,'FAILED','Failed','ValueError: it''s; broken',3);
CREATE INDEX artifact_key ON artifact ("key");
CREATE INDEX artifact_root ON artifact (root);
CREATE INDEX cache_lock_session ON cache_lock (session);
CREATE INDEX cached_task_key ON cached (task_key);
CREATE INDEX flow_run_created ON flow_run (created);
CREATE INDEX flow_run_root ON flow_run (root);
CREATE INDEX lease_name ON lease (name);
CREATE INDEX lease_session ON lease (session);
CREATE INDEX log_root ON log (root, id);
CREATE UNIQUE INDEX session_owner ON session (root) WHERE closed IS NULL;
CREATE INDEX session_root ON session (root);
CREATE UNIQUE INDEX task_identity ON task ("key", name, source);
CREATE INDEX transition_flow_run ON transition (flow_run);
CREATE INDEX transition_task_run ON transition (task_run);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('session',1);
COMMIT;
