BEGIN TRANSACTION;
CREATE TABLE archived_by_hour (
    hour INTEGER NOT NULL,
    duration INTEGER NOT NULL,             -- durations.low
    jobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (hour, duration)
) STRICT, WITHOUT ROWID;
INSERT INTO "archived_by_hour" VALUES(1794999600000,0,1,1234);
CREATE TABLE away (
    job INTEGER PRIMARY KEY,               -- jobs.seq
    instance TEXT NOT NULL
) STRICT;
CREATE TABLE bodies (
    job INTEGER PRIMARY KEY,               -- jobs.seq
    body BLOB NOT NULL
) STRICT;
INSERT INTO "bodies" VALUES(2,X'7B22737461747573223A2022444F4E45222C20226964223A202265787069726564222C202274797065223A202275707363616C6572222C2022726573706F6E7365223A207B227265636F726473223A205B7B225F6964223A20227265636F7264206F662065787069726564222C20225F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F736F757263652E6A7067222C20225F7769647468223A2033322C20225F686569676874223A2032342C20225F737461747573223A207B22636F6465223A203230302C202274657874223A20224F4B222C2022726571756573745F6964223A202272657175657374206F662065787069726564227D2C20225F75707363616C65645F7769647468223A2036342C20225F75707363616C65645F686569676874223A2034382C20225F75707363616C65645F696D6167655F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F657870697265642E706E67227D5D7D7D');
INSERT INTO "bodies" VALUES(3,X'7B226964223A20226661696C6564222C202274797065223A202275707363616C6572222C2022737461747573223A20224641494C4544227D');
INSERT INTO "bodies" VALUES(4,X'7B22737461747573223A2022444F4E45222C20226964223A202272656A6563746564222C202274797065223A202275707363616C6572222C2022726573706F6E7365223A207B227265636F726473223A205B7B225F6964223A20227265636F7264206F662072656A6563746564222C20225F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F736F757263652E6A7067222C20225F7769647468223A2033322C20225F686569676874223A2032342C20225F737461747573223A207B22636F6465223A203230302C202274657874223A20224F4B222C2022726571756573745F6964223A202272657175657374206F662072656A6563746564227D2C20225F75707363616C65645F7769647468223A2036342C20225F75707363616C65645F686569676874223A2034382C20225F75707363616C65645F696D6167655F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F72656A65637465642E706E67227D5D7D7D');
INSERT INTO "bodies" VALUES(5,X'7B22737461747573223A2022444F4E45222C20226964223A20226172636869766564222C202274797065223A202275707363616C6572222C2022726573706F6E7365223A207B227265636F726473223A205B7B225F6964223A20227265636F7264206F66206172636869766564222C20225F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F736F757263652E6A7067222C20225F7769647468223A2033322C20225F686569676874223A2032342C20225F737461747573223A207B22636F6465223A203230302C202274657874223A20224F4B222C2022726571756573745F6964223A202272657175657374206F66206172636869766564227D2C20225F75707363616C65645F7769647468223A2036342C20225F75707363616C65645F686569676874223A2034382C20225F75707363616C65645F696D6167655F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F61726368697665642E706E67227D5D7D7D');
INSERT INTO "bodies" VALUES(6,X'7B22737461747573223A2022444F4E45222C20226964223A202266657463686564222C202274797065223A202275707363616C6572222C2022726573706F6E7365223A207B227265636F726473223A205B7B225F6964223A20227265636F7264206F662066657463686564222C20225F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F736F757263652E6A7067222C20225F7769647468223A2033322C20225F686569676874223A2032342C20225F737461747573223A207B22636F6465223A203230302C202274657874223A20224F4B222C2022726571756573745F6964223A202272657175657374206F662066657463686564227D2C20225F75707363616C65645F7769647468223A2036342C20225F75707363616C65645F686569676874223A2034382C20225F75707363616C65645F696D6167655F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F666574636865642E706E67227D5D7D7D');
INSERT INTO "bodies" VALUES(7,X'7B22737461747573223A2022444F4E45222C20226964223A202277616974696E67222C202274797065223A202275707363616C6572222C2022726573706F6E7365223A207B227265636F726473223A205B7B225F6964223A20227265636F7264206F662077616974696E67222C20225F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F736F757263652E6A7067222C20225F7769647468223A2033322C20225F686569676874223A2032342C20225F737461747573223A207B22636F6465223A203230302C202274657874223A20224F4B222C2022726571756573745F6964223A202272657175657374206F662077616974696E67227D2C20225F75707363616C65645F7769647468223A2036342C20225F75707363616C65645F686569676874223A2034382C20225F75707363616C65645F696D6167655F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F77616974696E672E706E67227D5D7D7D');
INSERT INTO "bodies" VALUES(8,X'7B22737461747573223A2022444F4E45222C20226964223A20227265636569766564222C202274797065223A202275707363616C6572222C2022726573706F6E7365223A207B227265636F726473223A205B7B225F6964223A20227265636F7264206F66207265636569766564222C20225F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F736F757263652E6A7067222C20225F7769647468223A2033322C20225F686569676874223A2032342C20225F737461747573223A207B22636F6465223A203230302C202274657874223A20224F4B222C2022726571756573745F6964223A202272657175657374206F66207265636569766564227D2C20225F75707363616C65645F7769647468223A2036342C20225F75707363616C65645F686569676874223A2034382C20225F75707363616C65645F696D6167655F75726C223A202268747470733A2F2F6578616D706C652E636F6D2F72656365697665642E706E67227D5D7D7D');
CREATE TABLE calls (
    name TEXT PRIMARY KEY,
    next_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE clock_steps (
    seq INTEGER PRIMARY KEY,               -- jobs.seq
    at INTEGER NOT NULL,                   -- when that job became known
    before INTEGER NOT NULL                -- when the job before it did
) STRICT;
CREATE TABLE counters (
    name TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    count INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (name, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE durations (low INTEGER PRIMARY KEY) STRICT;
INSERT INTO "durations" VALUES(0);
INSERT INTO "durations" VALUES(10);
INSERT INTO "durations" VALUES(11);
INSERT INTO "durations" VALUES(14);
INSERT INTO "durations" VALUES(16);
INSERT INTO "durations" VALUES(19);
INSERT INTO "durations" VALUES(23);
INSERT INTO "durations" VALUES(28);
INSERT INTO "durations" VALUES(33);
INSERT INTO "durations" VALUES(39);
INSERT INTO "durations" VALUES(47);
INSERT INTO "durations" VALUES(56);
INSERT INTO "durations" VALUES(67);
INSERT INTO "durations" VALUES(79);
INSERT INTO "durations" VALUES(95);
INSERT INTO "durations" VALUES(113);
INSERT INTO "durations" VALUES(134);
INSERT INTO "durations" VALUES(159);
INSERT INTO "durations" VALUES(190);
INSERT INTO "durations" VALUES(226);
INSERT INTO "durations" VALUES(269);
INSERT INTO "durations" VALUES(319);
INSERT INTO "durations" VALUES(380);
INSERT INTO "durations" VALUES(452);
INSERT INTO "durations" VALUES(538);
INSERT INTO "durations" VALUES(639);
INSERT INTO "durations" VALUES(761);
INSERT INTO "durations" VALUES(905);
INSERT INTO "durations" VALUES(1076);
INSERT INTO "durations" VALUES(1279);
INSERT INTO "durations" VALUES(1522);
INSERT INTO "durations" VALUES(1810);
INSERT INTO "durations" VALUES(2152);
INSERT INTO "durations" VALUES(2559);
INSERT INTO "durations" VALUES(3044);
INSERT INTO "durations" VALUES(3620);
INSERT INTO "durations" VALUES(4305);
INSERT INTO "durations" VALUES(5119);
INSERT INTO "durations" VALUES(6088);
INSERT INTO "durations" VALUES(7240);
INSERT INTO "durations" VALUES(8610);
INSERT INTO "durations" VALUES(10239);
INSERT INTO "durations" VALUES(12177);
INSERT INTO "durations" VALUES(14481);
INSERT INTO "durations" VALUES(17221);
INSERT INTO "durations" VALUES(20479);
INSERT INTO "durations" VALUES(24354);
INSERT INTO "durations" VALUES(28963);
INSERT INTO "durations" VALUES(34443);
INSERT INTO "durations" VALUES(40959);
INSERT INTO "durations" VALUES(48709);
INSERT INTO "durations" VALUES(57926);
INSERT INTO "durations" VALUES(68886);
INSERT INTO "durations" VALUES(81919);
INSERT INTO "durations" VALUES(97419);
INSERT INTO "durations" VALUES(115852);
INSERT INTO "durations" VALUES(137772);
INSERT INTO "durations" VALUES(163839);
INSERT INTO "durations" VALUES(194839);
INSERT INTO "durations" VALUES(231704);
INSERT INTO "durations" VALUES(275544);
INSERT INTO "durations" VALUES(327679);
INSERT INTO "durations" VALUES(389679);
INSERT INTO "durations" VALUES(463409);
INSERT INTO "durations" VALUES(551089);
INSERT INTO "durations" VALUES(655359);
INSERT INTO "durations" VALUES(779358);
INSERT INTO "durations" VALUES(926819);
INSERT INTO "durations" VALUES(1102179);
INSERT INTO "durations" VALUES(1310719);
INSERT INTO "durations" VALUES(1558717);
INSERT INTO "durations" VALUES(1853638);
INSERT INTO "durations" VALUES(2204359);
INSERT INTO "durations" VALUES(2621439);
INSERT INTO "durations" VALUES(3117435);
INSERT INTO "durations" VALUES(3707276);
INSERT INTO "durations" VALUES(4408718);
INSERT INTO "durations" VALUES(5242879);
INSERT INTO "durations" VALUES(6234870);
INSERT INTO "durations" VALUES(7414552);
INSERT INTO "durations" VALUES(8817437);
INSERT INTO "durations" VALUES(10485759);
INSERT INTO "durations" VALUES(12469740);
INSERT INTO "durations" VALUES(14829104);
INSERT INTO "durations" VALUES(17634875);
INSERT INTO "durations" VALUES(20971519);
INSERT INTO "durations" VALUES(24939480);
INSERT INTO "durations" VALUES(29658208);
INSERT INTO "durations" VALUES(35269751);
INSERT INTO "durations" VALUES(41943039);
INSERT INTO "durations" VALUES(49878961);
INSERT INTO "durations" VALUES(59316416);
INSERT INTO "durations" VALUES(70539503);
INSERT INTO "durations" VALUES(83886079);
INSERT INTO "durations" VALUES(99757923);
INSERT INTO "durations" VALUES(118632832);
INSERT INTO "durations" VALUES(141079007);
INSERT INTO "durations" VALUES(167772159);
INSERT INTO "durations" VALUES(199515846);
INSERT INTO "durations" VALUES(237265664);
INSERT INTO "durations" VALUES(282158015);
INSERT INTO "durations" VALUES(335544319);
INSERT INTO "durations" VALUES(399031692);
INSERT INTO "durations" VALUES(474531328);
INSERT INTO "durations" VALUES(564316031);
INSERT INTO "durations" VALUES(671088639);
INSERT INTO "durations" VALUES(798063385);
INSERT INTO "durations" VALUES(949062656);
INSERT INTO "durations" VALUES(1128632063);
INSERT INTO "durations" VALUES(1342177279);
INSERT INTO "durations" VALUES(1596126770);
INSERT INTO "durations" VALUES(1898125312);
INSERT INTO "durations" VALUES(2257264126);
INSERT INTO "durations" VALUES(2684354559);
INSERT INTO "durations" VALUES(3192253541);
INSERT INTO "durations" VALUES(3796250623);
INSERT INTO "durations" VALUES(4514528252);
INSERT INTO "durations" VALUES(5368709118);
CREATE TABLE failed_by_day (
    day INTEGER NOT NULL,
    reason TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (day, reason)
) STRICT, WITHOUT ROWID;
INSERT INTO "failed_by_day" VALUES(1794960000000,'fetch.expired',1);
INSERT INTO "failed_by_day" VALUES(1794960000000,'provider.job_failed',1);
INSERT INTO "failed_by_day" VALUES(1794960000000,'url.source',1);
CREATE TABLE findings (
    job INTEGER PRIMARY KEY,               -- jobs.seq
    reason TEXT NOT NULL,                  -- such as archive.missing
    detail TEXT NOT NULL,
    at INTEGER NOT NULL                    -- when it was first found
) STRICT;
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
INSERT INTO "history" VALUES(1,1,1795000000000,'submitted',NULL,'submitted',NULL,NULL);
INSERT INTO "history" VALUES(2,2,1795000000000,'received',NULL,'received',NULL,NULL);
INSERT INTO "history" VALUES(3,2,1795000000000,'attempt_failed','received','received','fetch.timeout','The download did not end in time.');
INSERT INTO "history" VALUES(4,2,1795000002000,'expired','received','expired','fetch.expired','The URL''s life ended. The last attempt said: fetch.timeout, The download did not end in time.');
INSERT INTO "history" VALUES(5,3,1795000002000,'failed',NULL,'failed','provider.job_failed','FAILED');
INSERT INTO "history" VALUES(6,4,1795000002000,'received',NULL,'received',NULL,NULL);
INSERT INTO "history" VALUES(7,4,1795000002000,'rejected','received','rejected','url.source','The image URL is under none of RECEIVER_IMAGE_SOURCES.');
INSERT INTO "history" VALUES(8,5,1795000002000,'received',NULL,'received',NULL,NULL);
INSERT INTO "history" VALUES(9,5,1795000002000,'fetched','received','fetched',NULL,NULL);
INSERT INTO "history" VALUES(10,5,1795000002000,'archived','fetched','archived',NULL,NULL);
INSERT INTO "history" VALUES(11,6,1795000002000,'received',NULL,'received',NULL,NULL);
INSERT INTO "history" VALUES(12,6,1795000002000,'fetched','received','fetched',NULL,NULL);
INSERT INTO "history" VALUES(13,7,1795000002000,'received',NULL,'received',NULL,NULL);
INSERT INTO "history" VALUES(14,7,1795000002000,'attempt_failed','received','received','fetch.timeout','The download did not end in time.');
INSERT INTO "history" VALUES(15,8,1795000002000,'received',NULL,'received',NULL,NULL);
CREATE TABLE hosts (
    host TEXT NOT NULL,                    -- and port, in lower case
    chunk INTEGER NOT NULL,                -- jobs.seq / 16
    PRIMARY KEY (host, chunk)
) STRICT, WITHOUT ROWID;
INSERT INTO "hosts" VALUES('example.com',0);
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
, ask_at INTEGER, asks INTEGER NOT NULL DEFAULT 0, provider_status TEXT, found_at INTEGER, late_at INTEGER, host TEXT NOT NULL DEFAULT '', suspects INTEGER NOT NULL DEFAULT 0, suspect_since INTEGER, at_risk_from INTEGER AS ((9 * deadline + received_at) / 10), accepted TEXT, provider TEXT
    AS (CASE instr(id, ':') WHEN 0 THEN 'ximilar' ELSE substr(id, 1, instr(id, ':') - 1) END), promised_bytes INTEGER, promised_type TEXT, instance TEXT NOT NULL DEFAULT '') STRICT;
INSERT INTO "jobs" VALUES(1,'submitted','submitted','order 1','upscale_2x','https://example.com/a.jpg',NULL,NULL,NULL,NULL,NULL,NULL,0,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'submitted',NULL,NULL,NULL,1795000000000,1795000000000,NULL,NULL,NULL,1795000000000,1795000000000,0,NULL,NULL,NULL,'',0,NULL,NULL,NULL,NULL,'');
INSERT INTO "jobs" VALUES(2,'expired','expired','ref of expired',NULL,'https://example.com/source.jpg','https://example.com/expired.png',64,48,1795000001000,NULL,NULL,1,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'expired','fetch.expired','The URL''s life ended. The last attempt said: fetch.timeout, The download did not end in time.',1795000002000,1795000000000,NULL,1795000000000,NULL,NULL,1795000002000,NULL,0,NULL,NULL,NULL,'example.com',0,NULL,NULL,NULL,NULL,'');
INSERT INTO "jobs" VALUES(3,'failed','failed','ref of failed',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'failed','provider.job_failed','FAILED',1795000002000,1795000002000,NULL,1795000002000,NULL,NULL,1795000002000,NULL,0,NULL,NULL,NULL,'',0,NULL,NULL,NULL,NULL,'');
INSERT INTO "jobs" VALUES(4,'rejected','rejected','ref of rejected',NULL,'https://example.com/source.jpg','https://example.com/rejected.png',64,48,1795003600000,NULL,NULL,1,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'rejected','url.source','The image URL is under none of RECEIVER_IMAGE_SOURCES.',1795000002000,1795000002000,NULL,1795000002000,NULL,NULL,1795000002000,NULL,0,NULL,NULL,NULL,'example.com',0,NULL,NULL,NULL,NULL,'');
INSERT INTO "jobs" VALUES(5,'archived','archived','ref of archived',NULL,'https://example.com/source.jpg','https://example.com/archived.png',64,48,1795003600000,NULL,NULL,1,0,NULL,NULL,NULL,'png',64,48,1234,'5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e',NULL,NULL,'file:///archive/archived.png','tag','1','archived',NULL,NULL,NULL,1795000002000,NULL,1795000002000,1795000002000,1795000002000,1795000002000,NULL,0,NULL,NULL,NULL,'example.com',0,NULL,NULL,NULL,NULL,'');
INSERT INTO "jobs" VALUES(6,'fetched','fetched','ref of fetched',NULL,'https://example.com/source.jpg','https://example.com/fetched.png',64,48,1795003600000,NULL,NULL,0,0,NULL,NULL,NULL,'png',64,48,1234,'5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e',NULL,'fetched.5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e.png',NULL,NULL,NULL,'fetched',NULL,NULL,NULL,1795000002000,NULL,1795000002000,1795000002000,NULL,1795000002000,NULL,0,NULL,NULL,NULL,'example.com',0,NULL,NULL,NULL,NULL,'');
INSERT INTO "jobs" VALUES(7,'waiting','received','ref of waiting',NULL,'https://example.com/source.jpg','https://example.com/waiting.png',64,48,1795003600000,NULL,NULL,1,0,1795001800000,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e',NULL,NULL,NULL,NULL,'attempt_failed','fetch.timeout','The download did not end in time.',1795000002000,1795000002000,NULL,1795000002000,NULL,NULL,1795000002000,NULL,0,NULL,NULL,NULL,'example.com',1,1795000002000,NULL,NULL,NULL,'');
INSERT INTO "jobs" VALUES(8,'received','received','ref of received',NULL,'https://example.com/source.jpg','https://example.com/received.png',64,48,1795003600000,NULL,NULL,0,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'received',NULL,NULL,NULL,1795000002000,NULL,1795000002000,NULL,NULL,1795000002000,NULL,0,NULL,NULL,NULL,'example.com',0,NULL,NULL,NULL,NULL,'');
CREATE TABLE leader (
    name TEXT PRIMARY KEY,
    run TEXT NOT NULL,
    fence INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE marks (
    name TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
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
CREATE TABLE runs (
    name TEXT PRIMARY KEY,
    state TEXT NOT NULL                    -- JSON
) STRICT, WITHOUT ROWID;
CREATE TABLE spools (
    instance TEXT PRIMARY KEY,
    jobs INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
INSERT INTO "spools" VALUES('',1,1234);
CREATE TABLE submissions (
    key TEXT PRIMARY KEY,                              -- names one image of one list, or of one call
    mark TEXT NOT NULL UNIQUE,                         -- goes along in a header, and is found in the provider's list
    ref TEXT,
    endpoint TEXT,
    source_url TEXT,
    at INTEGER NOT NULL,                               -- when it was about to be sent
    job TEXT                                           -- the provider's id, once it is known
) STRICT, WITHOUT ROWID;
CREATE TABLE tickets (
    number TEXT PRIMARY KEY,
    job TEXT NOT NULL,                     -- the provider's id
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "tickets" VALUES('ticket','received',1795000002000);
CREATE TABLE totals (
    state TEXT PRIMARY KEY,
    jobs INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
INSERT INTO "totals" VALUES('archived',1,1234);
INSERT INTO "totals" VALUES('expired',1,0);
INSERT INTO "totals" VALUES('failed',1,0);
INSERT INTO "totals" VALUES('fetched',1,1234);
INSERT INTO "totals" VALUES('received',2,0);
INSERT INTO "totals" VALUES('rejected',1,0);
INSERT INTO "totals" VALUES('submitted',1,0);
CREATE TABLE unread (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    outcome TEXT NOT NULL,                 -- the reason why it is no completion
    detail TEXT NOT NULL,
    body BLOB NOT NULL
, provider TEXT) STRICT;
INSERT INTO "unread" VALUES(1,1795000000000,'body.not_json','The body is not JSON.',X'FF7B',NULL);
CREATE INDEX jobs_by_state ON jobs (state, seq);
CREATE INDEX jobs_not_archived ON jobs (received_at) WHERE state IN ('received', 'fetched');
CREATE INDEX jobs_to_fetch ON jobs (deadline)
    WHERE state = 'received' AND next_attempt_at IS NULL AND holder IS NULL AND attempts = 0;
CREATE INDEX jobs_to_fetch_again ON jobs (deadline)
    WHERE state = 'received' AND next_attempt_at IS NULL AND holder IS NULL AND attempts > 0;
CREATE INDEX jobs_waiting ON jobs (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX jobs_waiting_to_fetch ON jobs (deadline) WHERE state = 'received' AND next_attempt_at IS NOT NULL;
CREATE INDEX jobs_at_risk ON jobs (at_risk_at) WHERE state = 'received' AND at_risk_at IS NOT NULL;
CREATE INDEX jobs_silent ON jobs (submitted_at) WHERE state = 'submitted';
CREATE INDEX jobs_claimed ON jobs (lease_until) WHERE holder IS NOT NULL;
CREATE INDEX history_by_job ON history (job, seq);
CREATE INDEX unread_by_outcome ON unread (outcome, seq);
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
CREATE INDEX submissions_open ON submissions (at) WHERE job IS NULL;
CREATE TRIGGER history_keeps_its_end BEFORE DELETE ON history
WHEN OLD.seq = (SELECT max(seq) FROM history) BEGIN
    SELECT RAISE(IGNORE);
END;
CREATE TRIGGER history_pruned AFTER DELETE ON history BEGIN
    INSERT INTO marks (name, seq) VALUES ('pruned', OLD.seq)
        ON CONFLICT (name) DO UPDATE SET seq = max(seq, excluded.seq);
END;
CREATE INDEX notifications_due ON notifications (next_attempt_at) WHERE given_up_at IS NULL;
CREATE INDEX notifications_of_job ON notifications (job, seq) WHERE given_up_at IS NULL;
CREATE INDEX notifications_given_up ON notifications (seq) WHERE given_up_at IS NOT NULL;
CREATE INDEX findings_by_reason ON findings (reason);
CREATE INDEX jobs_to_fetch_by_host ON jobs (host, (attempts > 0), deadline)
    WHERE state = 'received' AND next_attempt_at IS NULL AND holder IS NULL;
CREATE INDEX jobs_refused ON jobs (suspect_since) WHERE state = 'received' AND suspect IS NOT NULL;
CREATE INDEX jobs_not_at_risk ON jobs (at_risk_from) WHERE state = 'received' AND at_risk_at IS NULL;
CREATE INDEX jobs_by_ref ON jobs (ref, state, seq) WHERE ref IS NOT NULL;
CREATE INDEX jobs_by_reason ON jobs (reason, state, seq) WHERE reason IS NOT NULL;
CREATE INDEX jobs_by_ref_and_reason ON jobs (ref, reason, state, seq) WHERE ref IS NOT NULL AND reason IS NOT NULL;
CREATE INDEX submissions_by_time ON submissions (at, job) WHERE job IS NOT NULL;
CREATE TRIGGER jobs_know_clock_steps AFTER INSERT ON jobs
WHEN NEW.created_at < (SELECT created_at FROM jobs WHERE seq < NEW.seq ORDER BY seq DESC LIMIT 1) BEGIN
    INSERT INTO clock_steps SELECT NEW.seq, NEW.created_at, created_at FROM jobs
        WHERE seq < NEW.seq ORDER BY seq DESC LIMIT 1;
END;
CREATE INDEX jobs_by_provider ON jobs (provider, state, seq);
CREATE INDEX jobs_to_ask ON jobs (provider, ask_at) WHERE state = 'submitted' AND ask_at IS NOT NULL;
CREATE INDEX jobs_to_archive ON jobs (instance, attempts, fetched_at)
    WHERE state = 'fetched' AND next_attempt_at IS NULL AND holder IS NULL;
CREATE INDEX away_by_instance ON away (instance);
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
COMMIT;
PRAGMA application_id = 1970303858;
PRAGMA user_version = 5;
