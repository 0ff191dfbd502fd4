-- Version 2: what is asked of the provider about jobs that it is silent on, and what we submitted ourselves.

ALTER TABLE jobs ADD COLUMN ask_at INTEGER;            -- submitted: the provider is not asked before this time
ALTER TABLE jobs ADD COLUMN asks INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN provider_status TEXT;      -- what the provider called the job's state when last asked
ALTER TABLE jobs ADD COLUMN found_at INTEGER;          -- when asking found the completion that no delivery had brought
ALTER TABLE jobs ADD COLUMN late_at INTEGER;           -- when that delivery came all the same

UPDATE jobs SET ask_at = submitted_at WHERE state = 'submitted';

CREATE INDEX jobs_to_ask ON jobs (ask_at) WHERE state = 'submitted' AND ask_at IS NOT NULL;

-- Written before anything is sent, because a submit is billed: whose answer was lost is looked for, and not sent again.
CREATE TABLE submissions (
    key TEXT PRIMARY KEY,                              -- names one image of one list, or of one call
    mark TEXT NOT NULL UNIQUE,                         -- goes along in a header, and is found in the provider's list
    ref TEXT,
    endpoint TEXT,
    source_url TEXT,
    at INTEGER NOT NULL,                               -- when it was about to be sent
    job TEXT                                           -- the provider's id, once it is known
) STRICT, WITHOUT ROWID;

CREATE INDEX submissions_open ON submissions (at) WHERE job IS NULL;

-- What happened, in numbers that outlive the process.
CREATE TABLE counters (
    name TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    count INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (name, reason)
) STRICT, WITHOUT ROWID;
