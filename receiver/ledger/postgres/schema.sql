-- Version 1. schema.py takes tables and indexes from ../sqlite/schema*.sql, which explain the triggers, too.

CREATE TABLE schema_version (version BIGINT NOT NULL, structure TEXT NOT NULL);

INSERT INTO totals (state) VALUES
    ('submitted'), ('received'), ('fetched'), ('archived'), ('failed'), ('rejected'), ('expired')
    ON CONFLICT DO NOTHING;
ALTER TABLE totals SET (fillfactor = 10);
ALTER TABLE jobs SET (fillfactor = 95); -- new rows leave old pages alone, which stay all-visible to counts

-- Names are qualified in functions: they also run for whoever has another search_path.

CREATE FUNCTION count_ended(job upscale_receiver.jobs) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    ended BIGINT := coalesce(job.archived_at, job.updated_at);
    took BIGINT := greatest(ended - coalesce(job.received_at, ended), 0);
BEGIN
    IF job.state = 'archived' THEN
        -- The classes of the table `durations` in SQLite.
        INSERT INTO upscale_receiver.archived_by_hour VALUES (
            ended - ended % 3600000, CASE WHEN took < 10 THEN 0
                ELSE trunc(10 * 2 ^ (floor(4 * ln(took / 10.0) / ln(2.0)) / 4))::bigint END,
            1, coalesce(job.bytes, 0)
        ) ON CONFLICT (hour, duration) DO UPDATE SET
            jobs = archived_by_hour.jobs + 1, bytes = archived_by_hour.bytes + excluded.bytes;
    ELSIF job.state IN ('failed', 'rejected', 'expired') THEN
        INSERT INTO upscale_receiver.failed_by_day VALUES (
            job.updated_at - job.updated_at % 86400000, coalesce(job.reason, ''), 1
        ) ON CONFLICT (day, reason) DO UPDATE SET jobs = failed_by_day.jobs + 1;
    END IF;
END $$;

CREATE FUNCTION jobs_born() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO upscale_receiver.history (job, at, event, before, after, reason, detail)
        SELECT seq, updated_at, event, NULL, state, reason, detail FROM born ORDER BY seq;
    UPDATE upscale_receiver.totals SET jobs = totals.jobs + added.jobs, bytes = totals.bytes + added.bytes
        FROM (SELECT state, count(*) AS jobs, coalesce(sum(bytes), 0) AS bytes FROM born GROUP BY state)
        AS added WHERE totals.state = added.state;
    INSERT INTO upscale_receiver.clock_steps
        SELECT * FROM (
            SELECT seq, created_at AS at, lag(created_at, 1, (
                SELECT created_at FROM upscale_receiver.jobs
                    WHERE seq < (SELECT min(seq) FROM born) ORDER BY seq DESC LIMIT 1
            )) OVER (ORDER BY seq) AS before FROM born
        ) AS steps WHERE at < before;
    INSERT INTO upscale_receiver.hosts
        SELECT DISTINCT named, seq / 16 AS chunk
        FROM born, unnest(ARRAY[host, left(lower(substring(source_url FROM '://([^/?#]*)')), 255)]) AS named
        WHERE named <> '' ORDER BY named, chunk ON CONFLICT DO NOTHING;
    PERFORM upscale_receiver.count_ended(job) FROM upscale_receiver.jobs AS job
        WHERE seq IN (SELECT seq FROM born WHERE state NOT IN ('submitted', 'received'));
    RETURN NULL;
END $$;

CREATE FUNCTION jobs_happened() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO upscale_receiver.history (job, at, event, before, after, reason, detail)
        VALUES (NEW.seq, NEW.updated_at, NEW.event, OLD.state, NEW.state, NEW.reason, NEW.detail);
    IF NEW.state = OLD.state THEN
        RETURN NULL;
    ELSIF (OLD.state, NEW.state) NOT IN (
        ('submitted', 'received'), ('submitted', 'failed'),
        ('received', 'fetched'), ('received', 'rejected'), ('received', 'expired'),
        ('fetched', 'archived'), ('fetched', 'received'),
        ('failed', 'received'), ('rejected', 'received'), ('expired', 'received')
    ) THEN
        RAISE 'illegal move';
    END IF;
    UPDATE upscale_receiver.totals SET
        jobs = jobs + CASE state WHEN NEW.state THEN 1 ELSE -1 END,
        bytes = bytes + CASE state WHEN NEW.state THEN coalesce(NEW.bytes, 0) ELSE -coalesce(OLD.bytes, 0) END
        WHERE state IN (OLD.state, NEW.state);
    PERFORM upscale_receiver.count_ended(NEW);
    IF NEW.state = 'fetched' THEN
        DELETE FROM upscale_receiver.away WHERE job = NEW.seq;
        INSERT INTO upscale_receiver.spools VALUES (NEW.instance, 1, coalesce(NEW.bytes, 0))
            ON CONFLICT (instance) DO UPDATE SET
            jobs = spools.jobs + 1, bytes = spools.bytes + excluded.bytes;
    ELSIF OLD.state = 'fetched' THEN
        UPDATE upscale_receiver.spools SET jobs = jobs - 1, bytes = bytes - coalesce(OLD.bytes, 0)
            WHERE instance = OLD.instance;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION jobs_change_hosts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO upscale_receiver.hosts SELECT named, NEW.seq / 16
        FROM unnest(ARRAY[NEW.host, left(lower(substring(NEW.source_url FROM '://([^/?#]*)')), 255)]) AS named
        WHERE named <> '' ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

-- A sequence gives no number twice, but what reads the history takes its end from the last line: that stays.
CREATE FUNCTION history_pruned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO upscale_receiver.history SELECT * FROM gone
        WHERE seq > (SELECT coalesce(max(seq), 0) FROM upscale_receiver.history) ORDER BY seq DESC LIMIT 1;
    INSERT INTO upscale_receiver.marks (name, seq)
        SELECT 'pruned', max(seq) FROM gone WHERE seq < (SELECT max(seq) FROM upscale_receiver.history)
        HAVING count(*) > 0
        ON CONFLICT (name) DO UPDATE SET seq = greatest(marks.seq, excluded.seq);
    RETURN NULL;
END $$;

CREATE TRIGGER jobs_born AFTER INSERT ON jobs
    REFERENCING NEW TABLE AS born FOR EACH STATEMENT EXECUTE FUNCTION jobs_born();
CREATE TRIGGER jobs_happened AFTER UPDATE OF state, event ON jobs
    FOR EACH ROW EXECUTE FUNCTION jobs_happened();
CREATE TRIGGER jobs_change_hosts AFTER UPDATE OF host, source_url ON jobs
    FOR EACH ROW EXECUTE FUNCTION jobs_change_hosts();
CREATE TRIGGER history_pruned AFTER DELETE ON history
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION history_pruned();
