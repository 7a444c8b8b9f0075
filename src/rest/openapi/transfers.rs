//! Exports and imports.

use serde_json::{Value, json};

use crate::inventory::Collection;

use super::objects::names;
use super::operation::{Exposure, Operation, schema};

/// All transfers.
pub fn operations() -> Vec<Operation> {
    let mut all = Vec::new();
    for collection in [Collection::Vdis, Collection::VdiSnapshots] {
        let (_, single) = names(collection);
        let (name, formats) = (collection.name(), json!({ "type": "string", "enum": ["vhd", "raw"] }));
        let nbd = json!({ "type": "integer", "minimum": 0 });
        let export =
            Operation::new("get", format!("/{name}/{{id}}.{{format}}"), format!("Export{single}"), name)
                .summary("The content of a disk.")
                .segment("format", &formats, "As what.")
                .flag("preferNbd", "Accepted, and changes nothing.")
                .query("nbdConcurrency", &nbd, "Accepted, and changes nothing.");
        all.push(exported(export));
        all.push(extents(collection));
    }
    for collection in [Collection::Vms, Collection::VmSnapshots, Collection::VmTemplates] {
        let (_, single) = names(collection);
        let name = collection.name();
        let sums = json!({ "type": "string", "enum": ["xxhash", "sha1"], "default": "xxhash" });
        let export =
            Operation::new("get", format!("/{name}/{{id}}.{{format}}"), format!("Export{single}"), name)
                .summary("A VM with its disks, as an archive.")
                .segment("format", &json!({ "type": "string", "enum": ["xva"] }), "As what.")
                .query(
                    "checksum",
                    &sums,
                    "How blocks are checked; `sha1` for importers that do not know xxHash.",
                );
        all.push(exported(export));
    }
    all.extend([import_vdi(), replace_vdi(), import_vm()]);
    all
}

fn exported(operation: Operation) -> Operation {
    let compress = json!({
        "type": "string", "enum": ["none", "zstd", "gzip", "true", "false"], "default": "none",
    });
    let text = json!({ "type": "string" });
    operation
        .exposed(Exposure::Deny)
        .description(
            "`HEAD` says the same without the bytes. Comes with `Content-Length`, a strong `ETag` and ranges, but for \
             a compressed export that nobody has had yet, whose length is not known.",
        )
        .query("compress", &compress, "`true` is gzip, `false` none.")
        .query("level", &json!({ "type": "integer", "minimum": 0 }), "How hard the compressor tries.")
        .header("Range", &text, "One range of bytes.")
        .header("If-Range", &text, "The entity tag that a range belongs to; else the whole comes.")
        .header("If-Match", &text, "The entity tag that it must have.")
        .header("If-None-Match", &text, "The entity tag that is known already.")
        .refused(&[404, 408, 409, 410, 412, 416, 422, 505])
        .answers(200, bytes("The whole."))
        .answers(206, bytes("The part that was asked for."))
        .answers(304, json!({ "description": "It is what `If-None-Match` names." }))
}

fn bytes(meaning: &str) -> Value {
    let media = json!({ "schema": { "type": "string", "format": "binary" } });
    let header = |text: &str| json!({ "description": text, "schema": { "type": "string" } });
    json!({
        "description": meaning,
        "headers": {
            "ETag": header("What the bytes are."),
            "Accept-Ranges": header("`bytes`, or `none` while the length is not known."),
            "Content-Disposition": header("`attachment; filename=<id>.<format>`"),
            "Gantry-Task": header("The task that the transfer belongs to."),
        },
        "content": {
            "application/octet-stream": media, "application/zstd": media, "application/gzip": media,
        },
    })
}

fn extents(collection: Collection) -> Operation {
    let (_, single) = names(collection);
    let name = collection.name();
    let example = json!([{ "start": 0, "length": 2_097_152, "data": true }]);
    let etag = json!({ "description": "The content that it is about.", "schema": { "type": "string" } });
    Operation::new("get", format!("/{name}/{{id}}/extents"), format!("Get{single}Extents"), name)
        .summary("Which parts of a disk hold data.")
        .shared(&["ndjson"])
        .refused(&[404, 410, 422, 505])
        .answers(
            200,
            json!({
                "description": "The parts, in their order and without a gap.",
                "headers": { "ETag": etag },
                "content": {
                    "application/json": {
                        "schema": { "type": "array", "items": schema("Extent") },
                        "examples": { "example": { "value": example } },
                    },
                    "application/x-ndjson": { "schema": { "type": "string" } },
                },
            }),
        )
}

fn imported(operation: Operation) -> Operation {
    let digest = json!({ "type": "string" });
    operation
        .flag("sparse", "Most of it is zeros: only what has to be stored counts for room.")
        .header("Repr-Digest", &digest, "A digest that the image must have (`sha-256=:<base64>:`).")
        .header("Content-Digest", &digest, "The same.")
        .refused(&[404, 408, 409, 410, 422, 507])
}

fn import_vdi() -> Operation {
    let operation = Operation::new("post", "/srs/{id}/vdis", "ImportVdi", "srs")
        .summary("Imports a disk.")
        .flag("raw", "The body is the bytes of the disk, not a VHD.")
        .query("size", &json!({ "type": "integer", "minimum": 0 }), "With `raw`: the virtual size, bytes.")
        .query("name_label", &json!({ "type": "string" }), "Its name.")
        .query("name_description", &json!({ "type": "string" }), "What it is for.")
        .takes_bytes("A VHD, dynamic or fixed; with `raw`, the bytes of the disk.")
        .repeatable();
    imported(operation.exposed(Exposure::Deny)).makes("disk", "vdis")
}

fn replace_vdi() -> Operation {
    let formats = json!({ "type": "string", "enum": ["vhd", "raw"] });
    let operation = Operation::new("put", "/vdis/{id}.{format}", "ReplaceVdiContent", "vdis")
        .summary("Replaces the content of a disk.")
        .description("Who reads the old content reads it to its end.")
        .segment("format", &formats, "What the body is.")
        .query("size", &json!({ "type": "integer", "minimum": 0 }), "With `raw`: the virtual size, bytes.")
        .takes_bytes("An image of the disk's size.");
    imported(operation.exposed(Exposure::Deny)).done()
}

fn import_vm() -> Operation {
    let operation = Operation::new("post", "/pools/{id}/vms", "ImportVm", "pools")
        .summary("Imports a VM.")
        .query(
            "sr",
            &json!({ "type": "string" }),
            "Where its disks go; the pool's default SR unless it is said.",
        )
        .flag("restore", "Keeps the VM's id and addresses.")
        .takes_bytes("An XVA, plain or in zstd or gzip.")
        .repeatable();
    imported(operation.exposed(Exposure::Deny)).makes("VM", "vms")
}
