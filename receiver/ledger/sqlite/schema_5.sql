-- Version 5: what real senders, hosts and stores do.

-- Host and port of the image's URL, empty where there is none: no host gets all downloads while others wait.
ALTER TABLE jobs ADD COLUMN host TEXT NOT NULL DEFAULT '';

UPDATE jobs SET host = lower(substr(
    image_url,
    instr(image_url, '://') + 3,
    instr(substr(replace(replace(image_url, '?', '/'), '#', '/') || '/', instr(image_url, '://') + 3), '/') - 1
)) WHERE state IN ('submitted', 'received', 'fetched', 'failed', 'rejected', 'expired') AND image_url IS NOT NULL;

CREATE INDEX jobs_to_fetch_by_host ON jobs (host, (attempts > 0), deadline)
    WHERE state = 'received' AND next_attempt_at IS NULL AND holder IS NULL;

-- `suspect` is an answer that was not the promised image, of whatever kind; it is rejected only after it came
-- several times over some minutes.
ALTER TABLE jobs ADD COLUMN suspects INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN suspect_since INTEGER;

CREATE INDEX jobs_refused ON jobs (suspect_since) WHERE state = 'received' AND suspect IS NOT NULL;

-- From when on a job is at risk: a tenth of the life of its image's URL is left.
ALTER TABLE jobs ADD COLUMN at_risk_from INTEGER AS ((9 * deadline + received_at) / 10);

CREATE INDEX jobs_not_at_risk ON jobs (at_risk_from) WHERE state = 'received' AND at_risk_at IS NULL;

-- A whole catalogue may have one reference, and three of its jobs may have failed.
DROP INDEX jobs_by_ref;
DROP INDEX jobs_by_reason;
CREATE INDEX jobs_by_ref ON jobs (ref, state, seq) WHERE ref IS NOT NULL;
CREATE INDEX jobs_by_reason ON jobs (reason, state, seq) WHERE reason IS NOT NULL;
CREATE INDEX jobs_by_ref_and_reason ON jobs (ref, reason, state, seq) WHERE ref IS NOT NULL AND reason IS NOT NULL;
CREATE INDEX submissions_by_time ON submissions (at, job) WHERE job IS NOT NULL;

-- Jobs that became known at an earlier time than the job before them: the clock was set back. Between two of
-- these, jobs are in the order of their times, so that a time is found among them without an index.
CREATE TABLE clock_steps (
    seq INTEGER PRIMARY KEY,               -- jobs.seq
    at INTEGER NOT NULL,                   -- when that job became known
    before INTEGER NOT NULL                -- when the job before it did
) STRICT;

INSERT INTO clock_steps SELECT * FROM (
    SELECT seq, created_at AS at, lag(created_at) OVER (ORDER BY seq) AS before FROM jobs
) WHERE at < before;

CREATE TRIGGER jobs_know_clock_steps AFTER INSERT ON jobs
WHEN NEW.created_at < (SELECT created_at FROM jobs WHERE seq < NEW.seq ORDER BY seq DESC LIMIT 1) BEGIN
    INSERT INTO clock_steps SELECT NEW.seq, NEW.created_at, created_at FROM jobs
        WHERE seq < NEW.seq ORDER BY seq DESC LIMIT 1;
END;

-- Why verification refused the image's bytes, where an operator took them all the same.
ALTER TABLE jobs ADD COLUMN accepted TEXT;

-- Which provider a job is of: it stands in the id, as in `NAME:ID`. Jobs from before other providers have bare ids.
ALTER TABLE jobs ADD COLUMN provider TEXT
    AS (CASE instr(id, ':') WHEN 0 THEN 'ximilar' ELSE substr(id, 1, instr(id, ':') - 1) END);

-- The file's bytes and its media type, as the completion says.
ALTER TABLE jobs ADD COLUMN promised_bytes INTEGER;
ALTER TABLE jobs ADD COLUMN promised_type TEXT;

CREATE INDEX jobs_by_provider ON jobs (provider, state, seq);

DROP INDEX jobs_to_ask;
CREATE INDEX jobs_to_ask ON jobs (provider, ask_at) WHERE state = 'submitted' AND ask_at IS NOT NULL;

ALTER TABLE unread ADD COLUMN provider TEXT;

-- Several receivers may share a ledger that is in no file. Which of them works on the job, or did so last, and has
-- the job's file in its spool while the job is fetched; empty where there is only one.
ALTER TABLE jobs ADD COLUMN instance TEXT NOT NULL DEFAULT '';

DROP INDEX jobs_to_archive;
CREATE INDEX jobs_to_archive ON jobs (instance, attempts, fetched_at)
    WHERE state = 'fetched' AND next_attempt_at IS NULL AND holder IS NULL;

-- What lies in the spool of each instance: the fetched jobs. Kept by triggers, as the totals are.
CREATE TABLE spools (
    instance TEXT PRIMARY KEY,
    jobs INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

INSERT INTO spools SELECT '', jobs, bytes FROM totals WHERE state = 'fetched';

-- Jobs that are received again although the spool of an instance that is dead has their image: others may fetch them.
CREATE TABLE away (
    job INTEGER PRIMARY KEY,               -- jobs.seq
    instance TEXT NOT NULL
) STRICT;

CREATE INDEX away_by_instance ON away (instance);

-- The receivers that share the ledger. A file is never shared: this and the next two tables stay empty there.
CREATE TABLE instances (
    id TEXT PRIMARY KEY,                   -- kept in the data directory, so that the spool is found again
    name TEXT NOT NULL,
    run TEXT NOT NULL,                     -- which process: of two with one data directory, the later one counts
    version TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL,
    stopped INTEGER NOT NULL DEFAULT 0,    -- 1: in good order, so that another may have its name at once
    buried_at INTEGER                      -- when its work was given to others
) STRICT, WITHOUT ROWID;

-- Which process does the work that is to be done once. The fence grows with each change of hands.
CREATE TABLE leader (
    name TEXT PRIMARY KEY,
    run TEXT NOT NULL,
    fence INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- When the next call of each rate may be made.
CREATE TABLE calls (
    name TEXT PRIMARY KEY,
    next_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER jobs_enter_spools AFTER UPDATE OF state ON jobs
WHEN NEW.state = 'fetched' AND OLD.state <> 'fetched' BEGIN
    DELETE FROM away WHERE job = NEW.seq;
    INSERT INTO spools (instance, jobs, bytes) VALUES (NEW.instance, 1, coalesce(NEW.bytes, 0))
        ON CONFLICT (instance) DO UPDATE SET jobs = jobs + 1, bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER jobs_leave_spools AFTER UPDATE OF state ON jobs
WHEN OLD.state = 'fetched' AND NEW.state <> 'fetched' BEGIN
    UPDATE spools SET jobs = jobs - 1, bytes = bytes - coalesce(OLD.bytes, 0) WHERE instance = OLD.instance;
END;

-- Where jobs of a host are: some of 16 neighbouring ones name it in the URL of their image or of its source. An index of
-- both hosts would take 70 bytes of each job, and twice the time of a delivery. As an index, it is never pruned: jobs stay.
CREATE TABLE hosts (
    host TEXT NOT NULL,                    -- and port, in lower case
    chunk INTEGER NOT NULL,                -- jobs.seq / 16
    PRIMARY KEY (host, chunk)
) STRICT, WITHOUT ROWID;

INSERT INTO hosts SELECT DISTINCT
    lower(substr(rest, 1, instr(replace(replace(rest, '?', '/'), '#', '/') || '/', '/') - 1)), seq / 16
FROM (
    SELECT seq, substr(url, instr(url, '://') + 3) AS rest
    FROM (SELECT seq, image_url AS url FROM jobs UNION ALL SELECT seq, source_url FROM jobs)
    WHERE instr(url, '://') > 0
) WHERE true ON CONFLICT DO NOTHING;

CREATE TRIGGER jobs_born_with_hosts AFTER INSERT ON jobs BEGIN
    INSERT INTO hosts SELECT NEW.host, NEW.seq / 16 WHERE NEW.host <> '' ON CONFLICT DO NOTHING;
    INSERT INTO hosts SELECT
        lower(substr(rest, 1, instr(replace(replace(rest, '?', '/'), '#', '/') || '/', '/') - 1)), NEW.seq / 16
    FROM (SELECT substr(NEW.source_url, instr(NEW.source_url, '://') + 3) AS rest)
    WHERE instr(NEW.source_url, '://') > 0 ON CONFLICT DO NOTHING;
END;

CREATE TRIGGER jobs_change_hosts AFTER UPDATE OF host, source_url ON jobs BEGIN
    INSERT INTO hosts SELECT NEW.host, NEW.seq / 16 WHERE NEW.host <> '' ON CONFLICT DO NOTHING;
    INSERT INTO hosts SELECT
        lower(substr(rest, 1, instr(replace(replace(rest, '?', '/'), '#', '/') || '/', '/') - 1)), NEW.seq / 16
    FROM (SELECT substr(NEW.source_url, instr(NEW.source_url, '://') + 3) AS rest)
    WHERE instr(NEW.source_url, '://') > 0 ON CONFLICT DO NOTHING;
END;

-- The lower bounds, in ms, of the classes that times from receipt to archive are counted in; each is a fifth longer than
-- the one before it.
CREATE TABLE durations (low INTEGER PRIMARY KEY) STRICT;

INSERT INTO durations WITH RECURSIVE bounds (low) AS (
    SELECT 10.0 UNION ALL SELECT low * 1.189207115 FROM bounds WHERE low < 5e9
) SELECT 0 UNION SELECT CAST(low AS INTEGER) FROM bounds;

-- What the status page shows of the last week, kept with each move, because reading it from the jobs takes the longer
-- the more there are. `hour` and `day` are when they begin.
CREATE TABLE archived_by_hour (
    hour INTEGER NOT NULL,
    duration INTEGER NOT NULL,             -- durations.low
    jobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (hour, duration)
) STRICT, WITHOUT ROWID;

CREATE TABLE failed_by_day (
    day INTEGER NOT NULL,
    reason TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (day, reason)
) STRICT, WITHOUT ROWID;

-- After the history, which has a line of each move, whether a job was inserted or updated.
CREATE TRIGGER history_counts_archived AFTER INSERT ON history
WHEN NEW.after = 'archived' AND NEW.before IS NOT 'archived' BEGIN
    INSERT INTO archived_by_hour
    SELECT at - at % 3600000, (SELECT max(low) FROM durations WHERE low <= max(at - coalesce(received_at, at), 0)),
        1, coalesce(bytes, 0)
    FROM (SELECT *, coalesce(archived_at, updated_at) AS at FROM jobs WHERE seq = NEW.job)
    WHERE true ON CONFLICT DO UPDATE SET jobs = jobs + 1, bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER history_counts_failed AFTER INSERT ON history
WHEN NEW.after IN ('failed', 'rejected', 'expired') AND NEW.before IS NOT NEW.after BEGIN
    INSERT INTO failed_by_day VALUES (NEW.at - NEW.at % 86400000, coalesce(NEW.reason, ''), 1)
    ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;

INSERT INTO archived_by_hour
SELECT at - at % 3600000, (SELECT max(low) FROM durations WHERE low <= max(at - coalesce(received_at, at), 0)) AS low,
    count(*), coalesce(sum(bytes), 0)
FROM (SELECT *, coalesce(archived_at, updated_at) AS at FROM jobs WHERE state = 'archived')
WHERE true GROUP BY 1, 2;

INSERT INTO failed_by_day
SELECT coalesce(reason_at, updated_at) / 86400000 * 86400000, coalesce(reason, ''), count(*)
FROM jobs WHERE state IN ('failed', 'rejected', 'expired') GROUP BY 1, 2;
