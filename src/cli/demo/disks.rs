//! The demo's first part: a disk goes in, comes out in both formats, and one that was cut goes on.

use super::console::Meter;
use super::course::{Course, Interrupted};
use super::download::Export;
use super::error::DemoError;
use super::report::Finding;
use crate::ids::DiskFormat;

/// Moves the sample. Answers the id of the disk that was made of it.
pub(super) async fn round_trip(course: &mut Course) -> Result<String, DemoError> {
    let sr = course.client.local_sr().await?;

    let meter = Meter::begin("importing the sample as .raw", None);
    let client = &course.client;
    let disk = client.import(&sr, DiskFormat::Raw, "gantry-demo", course.sample(), &meter).await?;
    course.moved("import the sample as .raw", &meter, Finding::Made { kind: "disk", id: disk.clone() });

    let raw = format!("vdis/{disk}.raw");
    let export = Export { path: &raw, step: "export the .raw" };
    course.compare_with_sample(export, "exporting it as .raw", "export it as .raw").await?;

    let export = Export { path: &format!("vdis/{disk}.vhd"), step: "export the .vhd" };
    let vhd = course.keep(export, "export.vhd", "exporting it as .vhd", "export it as .vhd").await?;

    let meter = Meter::begin("importing the .vhd as another disk", None);
    let client = &course.client;
    let copy = client.import(&sr, DiskFormat::Vhd, "gantry-demo-copy", &vhd.path, &meter).await?;
    course.moved("import the .vhd as another disk", &meter, Finding::Made { kind: "disk", id: copy.clone() });

    let export = Export { path: &format!("vdis/{copy}.raw"), step: "export the .raw" };
    course.compare_with_sample(export, "exporting that one as .raw", "export that one as .raw").await?;

    let step = "export the .raw";
    let download = Interrupted { path: &raw, what: ".raw", step, file: "resumed.raw" };
    course.cut_and_resume(download, None).await?;
    Ok(disk)
}
