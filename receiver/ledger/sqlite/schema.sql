-- The ledger, version 1. All times are whole milliseconds since the epoch, UTC, but for lease_until.

CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,               -- order of arrival: newest first is ORDER BY seq DESC, a page is seq < ?
    id TEXT NOT NULL UNIQUE,               -- the provider's id
    state TEXT NOT NULL CHECK (state IN (
        'submitted',  -- → received, failed
        'received',   -- → fetched, rejected, expired
        'fetched',    -- → archived, received
        'archived',   -- final
        'failed',     -- → received
        'rejected',   -- → received
        'expired'     -- → received
    )),
    ref TEXT,
    endpoint TEXT,
    source_url TEXT,
    image_url TEXT,
    promised_width INTEGER,
    promised_height INTEGER,

    deadline INTEGER,                      -- when the image URL's life ends
    at_risk_at INTEGER,                    -- when little of that life was found to be left
    confirmed_at INTEGER,                  -- when the provider itself said so, and not only a delivery
    attempts INTEGER NOT NULL DEFAULT 0,   -- of the present state's work
    refreshes INTEGER NOT NULL DEFAULT 0,  -- other URLs that the provider has named since the delivery
    next_attempt_at INTEGER,               -- set: waits until then, and stands in no index that claims are taken from
    holder TEXT,                           -- set: claimed; names the claim, so that a late worker cannot write
    lease_until INTEGER,                   -- on the holder's monotonic clock, which no change of the wall clock moves

    format TEXT,
    width INTEGER,
    height INTEGER,
    bytes INTEGER,
    sha256 TEXT,
    suspect TEXT,                          -- sha256 of bytes that failed verification: the same again are no accident
    spool TEXT,                            -- the verified file's name in the spool, while fetched
    uri TEXT,
    etag TEXT,
    version TEXT,

    event TEXT NOT NULL,                   -- what happened last, and why: the triggers copy these three into history
    reason TEXT,
    detail TEXT,
    reason_at INTEGER,

    created_at INTEGER NOT NULL,           -- when the receiver first heard of the job
    submitted_at INTEGER,
    received_at INTEGER,
    fetched_at INTEGER,
    archived_at INTEGER,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE INDEX jobs_by_state ON jobs (state, seq);
CREATE INDEX jobs_by_ref ON jobs (ref, seq) WHERE ref IS NOT NULL;
CREATE INDEX jobs_by_reason ON jobs (reason, seq) WHERE reason IS NOT NULL;
CREATE INDEX jobs_not_archived ON jobs (received_at) WHERE state IN ('received', 'fetched');

-- What a worker takes next. A job that waits for its next attempt stands in neither, however many such there are.
-- First attempts and further ones stand apart, so that a crowd of failing jobs cannot keep fresh ones waiting.
CREATE INDEX jobs_to_fetch ON jobs (deadline)
    WHERE state = 'received' AND next_attempt_at IS NULL AND holder IS NULL AND attempts = 0;
CREATE INDEX jobs_to_fetch_again ON jobs (deadline)
    WHERE state = 'received' AND next_attempt_at IS NULL AND holder IS NULL AND attempts > 0;
CREATE INDEX jobs_to_archive ON jobs (attempts, fetched_at)
    WHERE state = 'fetched' AND next_attempt_at IS NULL AND holder IS NULL;

CREATE INDEX jobs_waiting ON jobs (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX jobs_waiting_to_fetch ON jobs (deadline) WHERE state = 'received' AND next_attempt_at IS NOT NULL;
CREATE INDEX jobs_at_risk ON jobs (at_risk_at) WHERE state = 'received' AND at_risk_at IS NOT NULL;
CREATE INDEX jobs_silent ON jobs (submitted_at) WHERE state = 'submitted';
CREATE INDEX jobs_claimed ON jobs (lease_until) WHERE holder IS NOT NULL;

CREATE TABLE history (
    seq INTEGER PRIMARY KEY,               -- one order over all jobs
    job INTEGER NOT NULL,                  -- jobs.seq
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    before TEXT,
    after TEXT NOT NULL,
    reason TEXT,
    detail TEXT
) STRICT;

CREATE INDEX history_by_job ON history (job, seq);

-- Kept by triggers, because counting ten million jobs takes seconds.
CREATE TABLE totals (
    state TEXT PRIMARY KEY,
    jobs INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

INSERT INTO totals (state) VALUES
    ('submitted'), ('received'), ('fetched'), ('archived'), ('failed'), ('rejected'), ('expired');

-- The raw delivery that a job's present data come from; a table of its own, so that jobs stay small to read.
CREATE TABLE bodies (
    job INTEGER PRIMARY KEY,               -- jobs.seq
    body BLOB NOT NULL
) STRICT;

-- What came with good headers and was no completion.
CREATE TABLE unread (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    outcome TEXT NOT NULL,                 -- the reason why it is no completion
    detail TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE INDEX unread_by_outcome ON unread (outcome, seq);

-- A ticket belongs to the first job that used it.
CREATE TABLE tickets (
    number TEXT PRIMARY KEY,
    job TEXT NOT NULL,                     -- the provider's id
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER jobs_born AFTER INSERT ON jobs BEGIN
    INSERT INTO history (job, at, event, before, after, reason, detail)
        VALUES (NEW.seq, NEW.updated_at, NEW.event, NULL, NEW.state, NEW.reason, NEW.detail);
    UPDATE totals SET jobs = jobs + 1, bytes = bytes + coalesce(NEW.bytes, 0) WHERE state = NEW.state;
END;

CREATE TRIGGER jobs_happened AFTER UPDATE OF state, event ON jobs BEGIN
    INSERT INTO history (job, at, event, before, after, reason, detail)
        VALUES (NEW.seq, NEW.updated_at, NEW.event, OLD.state, NEW.state, NEW.reason, NEW.detail);
END;

CREATE TRIGGER jobs_moved AFTER UPDATE OF state ON jobs WHEN NEW.state <> OLD.state BEGIN
    UPDATE totals SET jobs = jobs - 1, bytes = bytes - coalesce(OLD.bytes, 0) WHERE state = OLD.state;
    UPDATE totals SET jobs = jobs + 1, bytes = bytes + coalesce(NEW.bytes, 0) WHERE state = NEW.state;
END;

CREATE TRIGGER jobs_move_is_legal BEFORE UPDATE OF state ON jobs
WHEN NEW.state <> OLD.state AND (OLD.state, NEW.state) NOT IN (VALUES
    ('submitted', 'received'), ('submitted', 'failed'),
    ('received', 'fetched'), ('received', 'rejected'), ('received', 'expired'),
    ('fetched', 'archived'), ('fetched', 'received'),
    ('failed', 'received'), ('rejected', 'received'), ('expired', 'received')
) BEGIN
    SELECT RAISE(ABORT, 'illegal move');
END;
