-- Version 5: what real senders, hosts and stores do.

-- Host and port of the image's URL, empty where there is none: no host gets all downloads while others wait.
ALTER TABLE jobs ADD COLUMN host TEXT AS (coalesce(lower(substr(
    image_url,
    instr(image_url, '://') + 3,
    instr(substr(replace(replace(image_url, '?', '/'), '#', '/') || '/', instr(image_url, '://') + 3), '/') - 1
)), ''));

CREATE INDEX jobs_to_fetch_by_host ON jobs (host, (attempts > 0), deadline)
    WHERE state = 'received' AND next_attempt_at IS NULL AND holder IS NULL;

-- `suspect` is an answer that was not the promised image, of whatever kind; it is rejected only after it came
-- several times over some minutes.
ALTER TABLE jobs ADD COLUMN suspects INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN suspect_since INTEGER;

CREATE INDEX jobs_refused ON jobs (suspect_since) WHERE state = 'received' AND suspect IS NOT NULL;
