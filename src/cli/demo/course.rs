//! The way that the demo goes: the sample that it begins with, what its parts share, and what was found out so far.

use std::path::{Path, PathBuf};

use super::client::{Client, Service};
use super::console::{Meter, say};
use super::download::{Export, Part};
use super::error::DemoError;
use super::report::{Finding, Report, Step};
use super::sample_disk::{Sample, SampleSpec, make_sample};
use super::sink::{Received, Target, check_file};
use super::workspace::Workspace;

/// Where a download is cut, in hundredths.
const CUT_AT: u64 = 40;

/// A demo at work.
pub(super) struct Course {
    pub(super) client: Client,
    files: PathBuf,
    sample: PathBuf,
    /// What the sample is, as if it had been downloaded.
    source: Received,
    report: Report,
}

/// A file that was downloaded before, to compare with.
pub(super) struct Original {
    pub(super) path: PathBuf,
    pub(super) received: Received,
}

/// A download that is cut and resumed.
pub(super) struct Interrupted<'a> {
    /// Its address below `/rest/v0/`.
    pub(super) path: &'a str,
    /// What is downloaded, for people.
    pub(super) what: &'static str,
    /// What the first part is for, as it fits behind "cannot".
    pub(super) step: &'static str,
    /// Name of the file that it goes to.
    pub(super) file: &'static str,
}

impl Course {
    /// Makes the sample disk.
    pub(super) async fn begin(
        service: &Service,
        workspace: &Workspace,
        spec: SampleSpec,
    ) -> Result<Self, DemoError> {
        let client = Client::new(service)?;
        let files = workspace.files().to_owned();
        let sample = files.join("sample.raw");
        say("making a sample disk ...");
        let path = sample.clone();
        let (made, source) = tokio::task::spawn_blocking(move || made(&path, &spec)).await??;
        let report = Report {
            virtual_bytes: spec.virtual_bytes,
            sample: made,
            sha256: source.sha256.clone(),
            steps: Vec::new(),
            kept: workspace.kept(),
        };
        Ok(Self { client, files, sample, source, report })
    }

    /// The sample disk.
    pub(super) fn sample(&self) -> &Path {
        &self.sample
    }

    /// One of the demo's own files.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }

    /// Something was done that moved no bytes.
    pub(super) fn did(&mut self, what: impl Into<String>, finding: Finding) {
        self.report.steps.push(Step { what: what.into(), took: None, finding });
    }

    /// A stage came to its end.
    pub(super) fn moved(&mut self, what: impl Into<String>, meter: &Meter, finding: Finding) {
        self.report.steps.push(Step { what: what.into(), took: Some(meter.end()), finding });
    }

    /// Downloads a whole export and compares it with the sample on its way.
    pub(super) async fn compare_with_sample(
        &mut self,
        export: Export<'_>,
        doing: &str,
        done: &str,
    ) -> Result<(), DemoError> {
        let meter = Meter::begin(doing, None);
        let target = Target { reference: Some(self.sample.clone()), file: None };
        let came = export.download(&self.client, Part::Whole, target, &meter).await?;
        let finding = compared(came.received, &self.source);
        self.moved(done, &meter, finding);
        Ok(())
    }

    /// Downloads a whole export to a file.
    pub(super) async fn keep(
        &mut self,
        export: Export<'_>,
        file: &str,
        doing: &str,
        done: &str,
    ) -> Result<Original, DemoError> {
        let meter = Meter::begin(doing, None);
        let path = self.file(file);
        let target = Target { file: Some((path.clone(), 0)), reference: None };
        let came = export.download(&self.client, Part::Whole, target, &meter).await?;
        self.moved(done, &meter, Finding::File { sha256: came.received.sha256.clone() });
        Ok(Original { path, received: came.received })
    }

    /// Begins a download, drops its connection, fetches the rest, and compares the file with what it has to be:
    /// the sample, unless it is something else.
    pub(super) async fn cut_and_resume(
        &mut self,
        download: Interrupted<'_>,
        original: Option<&Original>,
    ) -> Result<(), DemoError> {
        const RESUME: &str = "resume the download";
        let Interrupted { path, what, step, file } = download;
        let file = self.file(file);

        let meter = Meter::begin("downloading, to be cut", None);
        let target = Target { file: Some((file.clone(), 0)), reference: None };
        let part = Part::First { percent: CUT_AT };
        let first = Export { path, step }.download(&self.client, part, target, &meter).await?;
        let from = first.received.bytes;
        self.moved(format!("download {what}, cut at {CUT_AT} %"), &meter, Finding::Cut { at: from });

        let meter = Meter::begin("resuming the download", None).going_on_after(from);
        let target = Target { file: Some((file.clone(), from)), reference: None };
        let part = Part::Rest { from, etag: &first.etag };
        let rest = Export { path, step: RESUME }.download(&self.client, part, target, &meter).await?;
        let took = Some(meter.end());
        if rest.whole != first.whole {
            return Err(DemoError::Unexpected {
                step: RESUME,
                expected: "the same total as before the cut",
                found: format!("{:?} bytes after {:?}", rest.whole, first.whole),
            });
        }
        let (reference, known) = match original {
            Some(original) => (original.path.as_path(), &original.received),
            None => (self.sample.as_path(), &self.source),
        };
        let finding = compared(check_both(&file, reference).await?, known);
        self.report.steps.push(Step { what: "resume it with Range and If-Range".into(), took, finding });
        Ok(())
    }

    /// What was found out.
    pub(super) fn end(self) -> Report {
        self.report
    }
}

/// Makes the sample, and reads it again. Blocking.
fn made(path: &Path, spec: &SampleSpec) -> Result<(Sample, Received), DemoError> {
    let failed = |source| DemoError::File { action: "write", path: path.into(), source };
    Ok((make_sample(path, spec).map_err(failed)?, check_file(path, None)?))
}

async fn check_both(path: &Path, reference: &Path) -> Result<Received, DemoError> {
    let (path, reference) = (path.to_owned(), reference.to_owned());
    tokio::task::spawn_blocking(move || check_file(&path, Some(&reference))).await?
}

/// Whether what came is the source: byte for byte, and by its digest.
fn compared(received: Received, source: &Received) -> Finding {
    let Received { bytes, sha256, differs_at } = received;
    match differs_at {
        None if sha256 == source.sha256 => Finding::Equal { sha256 },
        at => Finding::Differs { at: at.unwrap_or(0), bytes, sha256 },
    }
}
