-- Schema 3: VMs and what belongs to them, compressed exports' frame indexes.
-- "record" is JSON of typed XML-RPC values (formats/xva/value.rs): everything that is known of an object in xapi's own
-- terms, what Gantry does not use included. Where a column says the same, the column is right.
ALTER TABLE vdis ADD COLUMN record TEXT NOT NULL DEFAULT '[]';

CREATE TABLE networks (
    id TEXT PRIMARY KEY,
    name_label TEXT NOT NULL,
    name_description TEXT NOT NULL,
    tags TEXT NOT NULL,                 -- JSON array
    bridge TEXT NOT NULL,
    mtu INTEGER NOT NULL,
    record TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE vms (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,                 -- VM, VM-snapshot, VM-template
    name_label TEXT NOT NULL,
    name_description TEXT NOT NULL,
    tags TEXT NOT NULL,                 -- JSON array
    snapshot_of TEXT,                   -- id of the VM, which may be gone
    snapshot_ms INTEGER,
    created_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,        -- when anything was last changed that an export of it shows
    record TEXT NOT NULL,
    extra TEXT NOT NULL                 -- JSON array of [class, record]: objects of its archive that have no table
) STRICT;
CREATE INDEX vms_by_kind ON vms (kind, id);
CREATE INDEX vms_by_origin ON vms (snapshot_of);

CREATE TABLE vbds (
    id TEXT PRIMARY KEY,
    vm_id TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    vdi_id TEXT,                        -- NULL: empty
    userdevice TEXT NOT NULL,           -- position: 0, 1, ...
    kind TEXT NOT NULL,                 -- Disk, CD, Floppy
    mode TEXT NOT NULL,                 -- RW, RO
    bootable INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX vbds_of_vm ON vbds (vm_id, userdevice);
CREATE INDEX vbds_of_vdi ON vbds (vdi_id);

CREATE TABLE vifs (
    id TEXT PRIMARY KEY,
    vm_id TEXT NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    network_id TEXT,
    device TEXT NOT NULL,
    mac TEXT NOT NULL,
    mtu INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT;
CREATE INDEX vifs_of_vm ON vifs (vm_id);
CREATE INDEX vifs_of_network ON vifs (network_id);

-- A VBD goes with its VDI, as in xapi, whichever way the VDI goes.
CREATE TRIGGER vbds_go_with_vdi AFTER DELETE ON vdis BEGIN
    DELETE FROM vbds WHERE vdi_id = OLD.id;
END;
-- vms.changed_ms moves with whatever an export of the VM shows: its VBDs and VIFs, the names of its disks, SRs and
-- networks.
-- It always grows, also when a clock is set back.
CREATE TRIGGER vm_changed_by_new_vbd AFTER INSERT ON vbds BEGIN
    UPDATE vms SET changed_ms = max(changed_ms + 1, CAST(unixepoch('subsec') * 1000 AS INTEGER)) WHERE id = NEW.vm_id;
END;
CREATE TRIGGER vm_changed_by_vbd AFTER UPDATE ON vbds BEGIN
    UPDATE vms SET changed_ms = max(changed_ms + 1, CAST(unixepoch('subsec') * 1000 AS INTEGER)) WHERE id = NEW.vm_id;
END;
CREATE TRIGGER vm_changed_by_old_vbd AFTER DELETE ON vbds BEGIN
    UPDATE vms SET changed_ms = max(changed_ms + 1, CAST(unixepoch('subsec') * 1000 AS INTEGER)) WHERE id = OLD.vm_id;
END;
CREATE TRIGGER vm_changed_by_new_vif AFTER INSERT ON vifs BEGIN
    UPDATE vms SET changed_ms = max(changed_ms + 1, CAST(unixepoch('subsec') * 1000 AS INTEGER)) WHERE id = NEW.vm_id;
END;
CREATE TRIGGER vm_changed_by_vif AFTER UPDATE ON vifs BEGIN
    UPDATE vms SET changed_ms = max(changed_ms + 1, CAST(unixepoch('subsec') * 1000 AS INTEGER)) WHERE id = NEW.vm_id;
END;
CREATE TRIGGER vm_changed_by_old_vif AFTER DELETE ON vifs BEGIN
    UPDATE vms SET changed_ms = max(changed_ms + 1, CAST(unixepoch('subsec') * 1000 AS INTEGER)) WHERE id = OLD.vm_id;
END;
CREATE TRIGGER vm_changed_by_vdi AFTER UPDATE ON vdis BEGIN
    UPDATE vms SET changed_ms = max(changed_ms + 1, CAST(unixepoch('subsec') * 1000 AS INTEGER))
    WHERE id IN (SELECT vm_id FROM vbds WHERE vdi_id = NEW.id);
END;
CREATE TRIGGER vm_changed_by_sr AFTER UPDATE ON srs BEGIN
    UPDATE vms SET changed_ms = max(changed_ms + 1, CAST(unixepoch('subsec') * 1000 AS INTEGER))
    WHERE id IN (SELECT vm_id FROM vbds JOIN vdis ON vdis.id = vbds.vdi_id WHERE vdis.sr_id = NEW.id);
END;
CREATE TRIGGER vm_changed_by_network AFTER UPDATE ON networks BEGIN
    UPDATE vms SET changed_ms = max(changed_ms + 1, CAST(unixepoch('subsec') * 1000 AS INTEGER))
    WHERE id IN (SELECT vm_id FROM vifs WHERE network_id = NEW.id);
END;

CREATE TABLE export_documents (         -- the ova.xml of exports that somebody may go on with
    etag TEXT PRIMARY KEY,              -- of the plain export
    xml BLOB NOT NULL,
    touched_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE frame_indexes (            -- where the frames of a compressed export are
    etag TEXT PRIMARY KEY,              -- of the compressed export
    version INTEGER NOT NULL,           -- of the segments' encoding
    windows INTEGER NOT NULL,           -- how many frames the whole has
    frames INTEGER NOT NULL,            -- how many are recorded, from the first on
    bytes INTEGER NOT NULL,             -- their length together
    touched_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE frame_segments (
    etag TEXT NOT NULL REFERENCES frame_indexes (etag) ON DELETE CASCADE,
    first INTEGER NOT NULL,             -- number of its first frame
    entries BLOB NOT NULL,              -- per frame: length u32, XXH64 u64, little-endian
    PRIMARY KEY (etag, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE frame_contents (           -- an index goes with the contents that it was made of
    etag TEXT NOT NULL REFERENCES frame_indexes (etag) ON DELETE CASCADE,
    content_id TEXT NOT NULL,
    PRIMARY KEY (etag, content_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX frames_of_content ON frame_contents (content_id);
CREATE TRIGGER frames_go_with_their_content AFTER DELETE ON contents BEGIN
    DELETE FROM frame_indexes WHERE etag IN (SELECT etag FROM frame_contents WHERE content_id = OLD.id);
END;

-- The audit: a chain of records, each of which covers the one before it. "record" is JSON, kept byte for byte, because
-- the hash is of these bytes: sha256(hash of the one before || record).
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,            -- 1, 2, ... without a gap
    time_ms INTEGER NOT NULL,
    task_id TEXT,
    record TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX audit_of_task ON audit (task_id) WHERE task_id IS NOT NULL;
CREATE TABLE audit_ends (
    name TEXT PRIMARY KEY,              -- anchor: the last record that was cut off; head: the last that was written
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;
INSERT INTO audit_ends VALUES ('anchor', 0, zeroblob(32)), ('head', 0, zeroblob(32));
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit is append-only');
END;
CREATE TRIGGER audit_is_cut_at_its_front BEFORE DELETE ON audit
WHEN OLD.seq > (SELECT seq FROM audit_ends WHERE name = 'anchor') BEGIN
    SELECT RAISE(ABORT, 'the audit is append-only');
END;
