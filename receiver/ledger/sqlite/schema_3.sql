-- Version 3: who listens to the history can go on where it stopped, and who is to be told of a job's end is told.

-- Positions in the history. 'pruned': lines up to here may have been removed; 'notified': those up to here were
-- looked through for something to tell.
CREATE TABLE marks (
    name TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Only deleting pays for these two. The last line stays, because SQLite would give its number out again.
CREATE TRIGGER history_keeps_its_end BEFORE DELETE ON history
WHEN OLD.seq = (SELECT max(seq) FROM history) BEGIN
    SELECT RAISE(IGNORE);
END;

CREATE TRIGGER history_pruned AFTER DELETE ON history BEGIN
    INSERT INTO marks (name, seq) VALUES ('pruned', OLD.seq)
        ON CONFLICT (name) DO UPDATE SET seq = max(seq, excluded.seq);
END;

-- What is to be sent to RECEIVER_NOTIFY_URL, and what was given up. What was taken is deleted.
CREATE TABLE notifications (
    seq INTEGER PRIMARY KEY,               -- history.seq: the line in which the job became final
    job TEXT NOT NULL,                     -- the provider's id
    at INTEGER NOT NULL,                   -- when the job became final
    body BLOB NOT NULL,                    -- as it was first sent, so that the same id never says two things
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at INTEGER NOT NULL,
    given_up_at INTEGER,
    detail TEXT                            -- what the last attempt met
) STRICT;

CREATE INDEX notifications_due ON notifications (next_attempt_at) WHERE given_up_at IS NULL;
CREATE INDEX notifications_of_job ON notifications (job, seq) WHERE given_up_at IS NULL;
CREATE INDEX notifications_given_up ON notifications (seq) WHERE given_up_at IS NOT NULL;
