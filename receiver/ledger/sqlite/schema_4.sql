-- Version 4: audits and rebuilds: what they found, and how far they are.

-- What is wrong with archived objects. An archived job stays archived.

CREATE TABLE findings (
    job INTEGER PRIMARY KEY,               -- jobs.seq
    reason TEXT NOT NULL,                  -- such as archive.missing
    detail TEXT NOT NULL,
    at INTEGER NOT NULL                    -- when it was first found
) STRICT;

CREATE INDEX findings_by_reason ON findings (reason);

-- How far a long run has come; here, so that a ledger that is restored knows of no more than it holds.
CREATE TABLE runs (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL                    -- JSON
) STRICT, WITHOUT ROWID;
