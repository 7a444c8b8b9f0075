//! The demo's second part: a VM of the disk goes out as a compressed XVA, and comes in again as another VM.

use super::console::{Meter, say};
use super::course::{Course, Interrupted};
use super::download::Export;
use super::error::DemoError;
use super::report::Finding;

/// Moves a VM of that disk, which has the sample's bytes.
pub(super) async fn round_trip(course: &mut Course, disk: &str) -> Result<(), DemoError> {
    say("making a VM of the disk ...");
    let vm = course.client.make_vm("gantry-demo", disk).await?;
    course.did("make a VM of the disk", Finding::Made { kind: "VM", id: vm.clone() });

    // The first time it is compressed while it is sent: nobody knows how long it will be. From then on its frames
    // are known, and with them its length and where any part of it comes from.
    let path = format!("vms/{vm}.xva?compress=zstd");
    let export = Export { path: &path, step: "export the .xva" };
    let doing = "exporting it as .xva with zstd";
    let xva = course.keep(export, "export.xva", doing, "export it as .xva, compressed with zstd").await?;
    let step = "export the .xva again";
    let download = Interrupted { path: &path, what: "that .xva again", step, file: "resumed.xva" };
    course.cut_and_resume(download, Some(&xva)).await?;

    let pool = course.client.pool().await?;
    let meter = Meter::begin("importing the .xva as another VM", None);
    let copy = course.client.import_vm(&pool, &xva.path, &meter).await?;
    course.moved("import the .xva as another VM", &meter, Finding::Made { kind: "VM", id: copy.clone() });

    let disk = course.client.disk_of(&copy).await?;
    let export = Export { path: &format!("vdis/{disk}.raw"), step: "export the VM's disk" };
    course.compare_with_sample(export, "exporting its disk as .raw", "export its disk as .raw").await
}
