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

CREATE INDEX artifact_key ON artifact ("key");

CREATE INDEX artifact_root ON artifact (root);

CREATE TABLE cache_lock (
    "key" TEXT NOT NULL,
    session INTEGER NOT NULL,
    PRIMARY KEY ("key")
);

CREATE INDEX cache_lock_session ON cache_lock (session);

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

CREATE INDEX cached_task_key ON cached (task_key);

CREATE TABLE concurrency_limit (
    name TEXT NOT NULL,
    slots INTEGER NOT NULL,
    slots_per_second FLOAT,
    used FLOAT NOT NULL,
    at FLOAT NOT NULL,
    PRIMARY KEY (name)
);

CREATE TABLE dependency (
    task_run INTEGER NOT NULL,
    upstream INTEGER NOT NULL,
    PRIMARY KEY (task_run, upstream)
)
 WITHOUT ROWID;

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

CREATE INDEX flow_run_created ON flow_run (created);

CREATE INDEX flow_run_root ON flow_run (root);

CREATE TABLE lease (
    id INTEGER NOT NULL,
    name TEXT NOT NULL,
    session INTEGER NOT NULL,
    slots INTEGER NOT NULL,
    taken FLOAT NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX lease_name ON lease (name);

CREATE INDEX lease_session ON lease (session);

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

CREATE INDEX log_root ON log (root, id);

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

CREATE UNIQUE INDEX session_owner ON session (root) WHERE closed IS NULL;

CREATE INDEX session_root ON session (root);

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

CREATE TABLE task (
    id INTEGER NOT NULL,
    "key" TEXT NOT NULL,
    name TEXT NOT NULL,
    source BLOB NOT NULL,
    PRIMARY KEY (id)
);

CREATE UNIQUE INDEX task_identity ON task ("key", name, source);

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

CREATE INDEX transition_flow_run ON transition (flow_run);

CREATE INDEX transition_task_run ON transition (task_run);

CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

INSERT INTO alembic_version VALUES ('0001');
