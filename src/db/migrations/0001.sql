-- Money, keys and jobs. Written in SQLite's words; PostgreSQL gets BYTEA for BLOB, BIGINT for
-- INTEGER, and no STRICT, WITHOUT ROWID. Times are Unix milliseconds, money is nano-dollars, other
-- quantities are millionths of their unit. Media is never in here. What has long rows or several
-- indexes keeps its row ids: SQLite then writes half as much.

-- Counts every change of a tenant's rights, so that every replica sees it in time.
CREATE TABLE revision (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO revision (name, value) VALUES ('tenants', 1);

-- Small facts about this database, such as the check value of the master key.
CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE org (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    -- 1: calls are paid from credits bought beforehand and stop when they are used up.
    prepaid INTEGER NOT NULL DEFAULT 0,
    -- Credits left below which a webhook is sent.
    low_balance INTEGER,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,
    rev INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE project (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL REFERENCES org (id),
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,
    rev INTEGER NOT NULL,
    UNIQUE (org, name)
) STRICT, WITHOUT ROWID;

-- Keys of the data listener. `hash` is HMAC-SHA-256 of the secret under the pepper.
CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL REFERENCES org (id),
    project TEXT NOT NULL REFERENCES project (id),
    name TEXT NOT NULL,
    hash BLOB NOT NULL,
    -- JSON lists of patterns.
    models TEXT NOT NULL,
    endpoints TEXT NOT NULL,
    rpm INTEGER,
    ipm INTEGER,
    tpm INTEGER,
    max_concurrent INTEGER,
    -- 0: a repeat by an SDK is never joined to the job it repeats.
    join_retries INTEGER NOT NULL DEFAULT 1,
    heartbeat INTEGER NOT NULL DEFAULT 0,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    rev INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX api_key_rev ON api_key (rev);

-- Credentials of the admin listener. `org` is empty for one over all organisations.
CREATE TABLE admin_key (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    hash BLOB NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    rev INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What a key, an end user, a project or an organisation may use in a period.
CREATE TABLE budget (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL REFERENCES org (id),
    name TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('key', 'user', 'project', 'org')),
    scope_id TEXT NOT NULL,
    -- 'usd', or a unit of the catalogue such as 'image'.
    unit TEXT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('day', 'week', 'month', 'total')),
    amount INTEGER NOT NULL CHECK (amount >= 0),
    -- Share in percent at which a webhook is sent.
    alert_percent INTEGER,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,
    rev INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX budget_rev ON budget (rev);

-- A project's own keys at providers, sealed under the master key.
CREATE TABLE provider_key (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL REFERENCES org (id),
    project TEXT NOT NULL REFERENCES project (id),
    provider TEXT NOT NULL,
    sealed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,
    rev INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Everything an operator did. Append-only.
CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    org TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    -- JSON, without secrets.
    detail TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The stored balance of whoever can run out. `posted` is what was used less what was paid in,
-- `pending` what is held. Everything else (revenue, cost, payables) is folded from transfers.
CREATE TABLE account (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    unit TEXT NOT NULL,
    posted INTEGER NOT NULL,
    pending INTEGER NOT NULL CHECK (pending >= 0),
    -- What posted + pending may come to; none is no limit.
    cap INTEGER,
    -- The cap, or what was used already when the cap was lowered below it: never exceeded.
    ceiling INTEGER,
    frozen INTEGER NOT NULL DEFAULT 0,
    CHECK (ceiling IS NULL OR posted + pending <= ceiling)
) STRICT, WITHOUT ROWID;

-- Every movement of money or units. Append-only.
CREATE TABLE transfer (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('fund', 'hold', 'capture', 'release', 'expire', 'refund',
        'provider_cost', 'absorb', 'suspense', 'adjust')),
    org TEXT NOT NULL,
    unit TEXT NOT NULL,
    debit TEXT NOT NULL,
    credit TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0),
    -- The hold that a capture, a release or an expiry closes, and how much of it.
    hold TEXT,
    held INTEGER,
    job TEXT,
    memo TEXT,
    at INTEGER NOT NULL
) STRICT;
-- A hold is closed once: a second capture cannot be written.
CREATE UNIQUE INDEX transfer_closes ON transfer (hold) WHERE hold IS NOT NULL;
-- The listings of an account and of everybody, newest first. Those of a job begin with its id.
CREATE INDEX transfer_debit ON transfer (debit, at);
CREATE INDEX transfer_credit ON transfer (credit, at);
CREATE INDEX transfer_at ON transfer (at);

CREATE TABLE job (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    project TEXT NOT NULL,
    api_key TEXT NOT NULL,
    task TEXT NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN
        ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'unknown')),
    request_id TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    deadline_at INTEGER NOT NULL,
    finished_at INTEGER,
    -- When payload, result and the row itself are erased.
    expires_at INTEGER NOT NULL,
    -- Who drives it: every write says which epoch it belongs to.
    owner TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    -- What is held, JSON: [{"account", "unit", "amount"}]; settled 1 once captured or released.
    legs TEXT NOT NULL,
    settled INTEGER NOT NULL,
    charge INTEGER,
    -- 1: the caller is gone without the answer, and its repeat may join.
    abandoned INTEGER NOT NULL DEFAULT 0,
    cancel_asked INTEGER NOT NULL DEFAULT 0,
    simulated INTEGER NOT NULL DEFAULT 0,
    -- JSON object of names and values: usage by label.
    labels TEXT NOT NULL,
    error_code TEXT,
    -- Sealed: what was asked; what came of it.
    payload BLOB,
    result BLOB
) STRICT;
CREATE INDEX job_of_key ON job (api_key, created_at);
CREATE INDEX job_of_request ON job (request_id);
CREATE INDEX job_unfinished ON job (lease_until) WHERE finished_at IS NULL;
CREATE INDEX job_lost ON job (api_key, fingerprint) WHERE abandoned = 1;
CREATE INDEX job_expires ON job (expires_at);

-- Every submit to a provider, written down before it is sent.
CREATE TABLE attempt (
    id TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    -- 0, 1, 2, ... within the job.
    number INTEGER NOT NULL,
    deployment TEXT NOT NULL,
    provider TEXT NOT NULL,
    credential TEXT NOT NULL,
    -- Which of the job's outputs it is for.
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    seed TEXT,
    state TEXT NOT NULL CHECK (state IN
        ('intent', 'accepted', 'produced', 'delivered', 'failed', 'unknown')),
    outcome TEXT,
    sent_at INTEGER NOT NULL,
    ms INTEGER,
    -- What the catalogue says it costs us, and what the provider said.
    expected INTEGER,
    billed INTEGER,
    -- Sealed: the provider's job; where its outputs are.
    remote BLOB,
    output BLOB
) STRICT;
CREATE INDEX attempt_of_job ON attempt (job);
CREATE INDEX attempt_unknown ON attempt (sent_at) WHERE state = 'unknown';

-- One use of an Idempotency-Key. `id` is SHA-256 of project, route and key, in hex.
CREATE TABLE idempotency (
    id TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    job TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_expires ON idempotency (expires_at);

-- What was used, by day. `day` is days since 1970. One row per unit that a request used: `requests`
-- is how many used it, `quantity` millionths of it, `amount` what its line came to. The row with unit
-- 'request' is there for every request, with an amount of its own only where the request itself has
-- a price, so that the amounts of all units add up to the charge. Rows with a label repeat those
-- without one, once per label; `label` and `value` are empty in the latter.
CREATE TABLE usage_day (
    day INTEGER NOT NULL,
    org TEXT NOT NULL,
    project TEXT NOT NULL,
    api_key TEXT NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    label TEXT NOT NULL,
    value TEXT NOT NULL,
    unit TEXT NOT NULL,
    requests INTEGER NOT NULL,
    quantity INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    PRIMARY KEY (org, day, project, api_key, model, provider, label, value, unit)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_day_of_key ON usage_day (api_key, label, day);
CREATE INDEX usage_day_of_all ON usage_day (label, day);

-- What providers cost us, by day: by our price list, and as far as they said themselves. By
-- organisation too, so that no two of them wait for each other's rows.
CREATE TABLE cost_day (
    day INTEGER NOT NULL,
    org TEXT NOT NULL,
    provider TEXT NOT NULL,
    credential TEXT NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    expected INTEGER NOT NULL,
    reported_requests INTEGER NOT NULL,
    reported INTEGER NOT NULL,
    suspense INTEGER NOT NULL,
    PRIMARY KEY (day, org, provider, credential, model)
) STRICT, WITHOUT ROWID;

-- Where an organisation wants to be told, and what is yet to be told.
CREATE TABLE webhook (
    id TEXT PRIMARY KEY,
    org TEXT NOT NULL REFERENCES org (id),
    url TEXT NOT NULL,
    sealed_secret BLOB NOT NULL,
    -- JSON list: "credits.low", "budget.alert", "budget.exceeded".
    events TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,
    rev INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE outbox (
    id TEXT PRIMARY KEY,
    webhook TEXT NOT NULL,
    event TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    -- When it is sent next; none once it was delivered or given up.
    next_at INTEGER,
    delivered_at INTEGER,
    last_error TEXT,
    -- A budget's alert is sent once a period.
    once TEXT UNIQUE
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_due ON outbox (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX outbox_of_webhook ON outbox (webhook, created_at);

INSERT INTO org (id, name, created_at, rev) VALUES ('default', 'default', 0, 1);
INSERT INTO project (id, org, name, created_at, rev) VALUES ('default', 'default', 'default', 0, 1);
