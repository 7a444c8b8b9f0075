//! What the demo prints on stdout.

use std::fmt::{self, Display, Formatter};

use super::console::{Took, size};
use super::sample_disk::Sample;

/// Everything that was done, and whether it was right.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) virtual_bytes: u64,
    pub(super) sample: Sample,
    /// Of the sample disk, in hex.
    pub(super) sha256: String,
    pub(super) steps: Vec<Step>,
    /// The data directory, when it is kept.
    pub(super) kept: Option<String>,
}

/// One of the things that were done.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) what: String,
    /// `None` when no bytes had to move.
    pub(super) took: Option<Took>,
    pub(super) finding: Finding,
}

/// What a step found out.
#[derive(Debug)]
pub(super) enum Finding {
    /// There is a new disk or VM.
    Made { kind: &'static str, id: String },
    /// The bytes are the sample's.
    Equal { sha256: String },
    /// They are not, from this byte on.
    Differs { at: u64, bytes: u64, sha256: String },
    /// A file was made whose bytes are its own.
    File { sha256: String },
    /// As far as it was meant to come.
    Cut { at: u64 },
}

impl Report {
    /// Whether every byte that was compared was equal, and whether all was compared.
    pub(super) fn is_right(&self) -> bool {
        let compared = self.steps.iter().filter(|step| matches!(step.finding, Finding::Equal { .. })).count();
        let differs = self.steps.iter().any(|step| matches!(step.finding, Finding::Differs { .. }));
        compared > 0 && !differs
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Sample disk: {}, partition table and FAT16 file system with {} files, {} of it data",
            size(self.virtual_bytes),
            self.sample.files,
            size(self.sample.allocated_bytes),
        )?;
        writeln!(f, "  sha-256 {}\n", self.sha256)?;
        for (index, step) in self.steps.iter().enumerate() {
            match step.took {
                Some(took) => {
                    let bytes = size(took.bytes);
                    writeln!(f, "{:>2}. {:<43} {bytes:>10}  {took}", index + 1, step.what)?;
                }
                None => writeln!(f, "{:>2}. {}", index + 1, step.what)?,
            }
            match &step.finding {
                Finding::Made { kind, id } => writeln!(f, "     {kind} {id}")?,
                Finding::Equal { sha256 } => writeln!(f, "     sha-256 {sha256}  equal")?,
                Finding::File { sha256 } => writeln!(f, "     sha-256 {sha256}")?,
                Finding::Cut { at } => writeln!(f, "     connection dropped at byte {at}")?,
                Finding::Differs { at, bytes, sha256 } => {
                    writeln!(f, "     sha-256 {sha256}  DIFFERS at byte {at}, in {bytes} bytes")?;
                }
            }
        }
        writeln!(f)?;
        if self.is_right() {
            writeln!(f, "Every byte was equal.\n")?;
        } else {
            writeln!(f, "The bytes are NOT equal.\n")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(
                f,
                "Kept in {kept}: the disks and VMs, and in {kept}/demo the sample and what was downloaded.\n"
            )?;
        }
        f.write_str(TOUR)
    }
}

/// How to do the same by hand. Tried as it stands, with `disk.raw` any file of whole sectors.
const TOUR: &str = "\
To repeat it with a server of your own and a disk of your own, disk.raw:

  gantry serve &
  S=http://127.0.0.1:8080/rest/v0
  T=authenticationToken=$(gantry token create)
  ID='[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'
  SR=$(curl -s --retry 9 --retry-connrefused -b $T $S/srs | grep -oE \"$ID\" | head -n 1)
  VDI=$(curl -s -b $T -T disk.raw -X POST \"$S/srs/$SR/vdis?raw&name_label=disk\" | grep -oE \"$ID\")
  curl -b $T -o disk.vhd $S/vdis/$VDI.vhd
  curl -b $T -o copy.raw $S/vdis/$VDI.raw          # cut it with Ctrl-C ...
  curl -b $T -o copy.raw -C - $S/vdis/$VDI.raw     # ... and it goes on
  VM=$(curl -s -b $T --json '{\"name_label\": \"vm\", \"vdis\": [\"'$VDI'\"]}' $S/vms | grep -oE \"$ID\")
  curl -b $T -o vm.xva \"$S/vms/$VM.xva?compress=zstd\"
  curl -b $T -o again.xva \"$S/vms/$VM.xva?compress=zstd\"        # cut it with Ctrl-C ...
  curl -b $T -o again.xva -C - \"$S/vms/$VM.xva?compress=zstd\"   # ... and it goes on
  POOL=$(curl -s -b $T $S/pools | grep -oE \"$ID\")
  NEW=$(curl -s -b $T -T vm.xva -X POST $S/pools/$POOL/vms | grep -oE \"$ID\")
  BACK=$(curl -s -b $T $S/vms/$NEW/vdis | grep -oE \"$ID\")
  curl -b $T -o back.raw $S/vdis/$BACK.raw
  sha256sum disk.raw copy.raw back.raw vm.xva again.xva
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn report(finding: Finding) -> Report {
        let took = Some(Took { bytes: 256 << 20, time: Duration::from_millis(500) });
        Report {
            virtual_bytes: 256 << 20,
            sample: Sample { allocated_bytes: 62 << 20, files: 4 },
            sha256: "5a".repeat(32),
            steps: vec![Step { what: "export .raw".into(), took, finding }],
            kept: None,
        }
    }

    #[test]
    fn the_report_reads_like_this() {
        let text = report(Finding::Equal { sha256: "5a".repeat(32) }).to_string();
        let (report, tour) = text.split_once("To repeat it").unwrap();
        let digest = "5a".repeat(32);
        let expected = format!(
            "Sample disk: 256.0 MiB, partition table and FAT16 file system with 4 files, 62.0 MiB of it data\n  \
             sha-256 {digest}\n\n\x20\
             1. export .raw                                  256.0 MiB    0.50 s    512.0 MiB/s\n     \
             sha-256 {digest}  equal\n\n\
             Every byte was equal.\n\n"
        );
        assert_eq!(report, expected);
        assert!(tour.contains("curl -b $T"));
    }

    #[test]
    fn a_step_that_moves_nothing_has_no_speed_and_a_tenth_step_keeps_the_columns() {
        let mut report = report(Finding::Equal { sha256: "5a".repeat(32) });
        let made = Finding::Made { kind: "VM", id: "x".into() };
        report.steps.push(Step { what: "make a VM of the disk".into(), took: None, finding: made });
        let text = report.to_string();
        assert!(text.contains("\n 2. make a VM of the disk\n     VM x\n"), "{text}");
        let step = |report: &Report| Step {
            what: "export .raw".into(),
            took: report.steps[0].took,
            finding: Finding::Cut { at: 1 },
        };
        while report.steps.len() < 10 {
            report.steps.push(step(&report));
        }
        let text = report.to_string();
        let columns = [" 1. ", "10. "].map(|number| {
            let line = text.lines().find(|line| line.starts_with(number)).unwrap();
            line.find("256.0 MiB").unwrap()
        });
        assert_eq!(columns[0], columns[1], "{text}");
    }

    #[test]
    fn a_difference_is_named_with_its_place_and_nothing_is_called_equal_without_a_comparison() {
        let differs = report(Finding::Differs { at: 7, bytes: 12, sha256: "00".repeat(32) });
        assert!(!differs.is_right());
        assert!(differs.to_string().contains("DIFFERS at byte 7, in 12 bytes"));
        assert!(differs.to_string().contains("NOT equal"));
        assert!(!report(Finding::Made { kind: "disk", id: "x".into() }).is_right());
    }
}
