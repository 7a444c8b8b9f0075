//! The demo against a server of the tests' own.

mod fake;

use std::future::pending;
use std::path::PathBuf;

use tokio::sync::oneshot;

use super::sink::check_file;
use super::*;
use fake::{Fault, TOKEN, VHD_HEAD, XVA_HEAD, serve};

const SMALL: SampleSpec = SampleSpec { virtual_bytes: 20 << 20, noise_bytes: 1_000_003, text_bytes: 500_001 };
/// Runs the demo against a server with that fault. Also answers where it worked.
async fn demo(fault: Fault) -> (Result<Report, DemoError>, PathBuf) {
    let (told, place) = oneshot::channel();
    let start = move |data: PathBuf| async move {
        told.send(data).unwrap();
        let (base_url, stop) = serve(fault);
        Ok((Service { base_url, token: TOKEN.into() }, stop))
    };
    let done = perform(None, &SMALL, start, pending).await;
    (done, place.await.unwrap().parent().unwrap().to_owned())
}

#[tokio::test]
async fn every_step_is_done_and_every_byte_compared() {
    let (done, place) = demo(Fault::None).await;
    let report = done.unwrap();
    assert!(report.is_right());
    let text = report.to_string();
    let whole = SMALL.virtual_bytes;
    let bytes = report.steps.iter().map(|step| step.took.map(|took| took.bytes));
    let vhd = whole + VHD_HEAD.len() as u64;
    let xva = whole + XVA_HEAD.len() as u64;
    let [cut, xva_cut] = [whole, xva].map(|bytes| bytes / 100 * 40);
    let of_disks = [whole, whole, vhd, vhd, whole, cut, whole - cut].map(Some);
    let of_vms = [xva, xva_cut, xva - xva_cut, xva, whole].map(Some);
    let expected: Vec<_> = of_disks.into_iter().chain([None]).chain(of_vms).collect();
    assert_eq!(bytes.collect::<Vec<_>>(), expected, "{text}");
    assert_eq!(text.matches("  equal\n").count(), 5, "{text}");
    for cut in [cut, xva_cut] {
        assert!(text.contains(&format!("connection dropped at byte {cut}\n")), "{text}");
    }
    assert!(text.contains("Every byte was equal."), "{text}");
    assert!(!place.exists(), "the temporary directory is gone");
}

#[tokio::test]
async fn one_changed_byte_is_found_and_its_place_named() {
    let at = 13_000_001;
    for fault in [Fault::FlipsAByteOfTheCopy(at), Fault::FlipsAByteOfTheVm(at)] {
        let (done, place) = demo(fault).await;
        let report = done.unwrap();
        assert!(!report.is_right(), "{fault:?}");
        let text = report.to_string();
        assert!(text.contains(&format!("DIFFERS at byte {at}, in")), "{text}");
        assert_eq!(text.matches("  equal\n").count(), 4, "{text}");
        assert!(!place.exists());
    }
}

#[tokio::test]
async fn a_resumed_download_with_other_bytes_is_found() {
    let report = demo(Fault::WrongRest).await.0.unwrap();
    let cut = SMALL.virtual_bytes / 100 * 40;
    assert!(!report.is_right());
    assert!(report.to_string().contains(&format!("DIFFERS at byte {cut}")), "{report}");
}

#[tokio::test]
async fn an_xva_that_comes_out_another_way_the_second_time_is_found() {
    let report = demo(Fault::OtherXva).await.0.unwrap();
    assert!(!report.is_right());
    assert!(report.to_string().contains("DIFFERS at byte 5, in"), "{report}");
}

#[tokio::test]
async fn what_the_server_does_not_keep_of_its_promises_ends_the_demo() {
    for (fault, said) in [
        (Fault::NoRanges, "cannot resume the download: expected 206 Partial Content, found 200 OK"),
        (
            Fault::RangeFromTooEarly,
            "cannot resume the download: expected the Content-Range that was asked for",
        ),
        (Fault::NoSpace, "cannot import the .raw: the server answered 507 Insufficient Storage: {\"code\""),
        (Fault::CutsExports, "cannot export the .raw: "),
        (
            Fault::NeverKnowsItsLength,
            "cannot export the .xva again: expected content-length, found no such header",
        ),
        (Fault::LosesTheDisk, "cannot find the VM's disk: expected one disk, found []"),
    ] {
        let (done, place) = demo(fault).await;
        let error = done.unwrap_err().to_string();
        assert!(error.starts_with(said), "{fault:?}: {error}");
        assert!(!place.exists(), "{fault:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_start_leaves_nothing() {
    let (told, place) = oneshot::channel();
    let start = move |data: PathBuf| async move {
        told.send(data).unwrap();
        Err::<(Service, std::future::Ready<()>), _>("the address is in use".into())
    };
    let error = perform(None, &SMALL, start, pending).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start the server: the address is in use");
    assert!(!place.await.unwrap().parent().unwrap().exists());
}

#[tokio::test]
async fn a_data_directory_that_was_given_is_kept_with_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (base_url, stop) = serve(Fault::None);
    let service = Service { base_url, token: TOKEN.into() };
    let report =
        perform(Some(data.clone()), &SMALL, |_| async { Ok((service, stop)) }, pending).await.unwrap();
    assert!(report.to_string().contains(&format!("Kept in {}", data.display())));
    for name in ["sample.raw", "export.vhd", "resumed.raw", "export.xva", "resumed.xva"] {
        assert!(data.join("demo").join(name).exists(), "{name}");
    }
    let same = check_file(&data.join("demo/resumed.raw"), Some(&data.join("demo/sample.raw"))).unwrap();
    assert_eq!(same.differs_at, None);
}

#[tokio::test]
async fn an_interrupted_demo_stops_its_server_and_leaves_nothing() {
    let (told, place) = oneshot::channel();
    let (stopped, was_stopped) = oneshot::channel();
    let start = move |data: PathBuf| async move {
        told.send(data).unwrap();
        // Accepts, and never answers.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", silent.local_addr().unwrap());
        let stop = async move {
            drop(silent);
            stopped.send(()).unwrap();
        };
        Ok((Service { base_url, token: TOKEN.into() }, stop))
    };
    let mut presses = 0;
    let ctrl_c = async || {
        presses += 1;
        if presses > 1 {
            pending::<()>().await;
        }
    };
    let error = perform(None, &SMALL, start, ctrl_c).await.unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
    was_stopped.await.unwrap();
    assert!(!place.await.unwrap().parent().unwrap().exists());
}

#[tokio::test]
async fn a_second_interruption_does_not_wait_for_the_server() {
    let (told, place) = oneshot::channel();
    let start = move |data: PathBuf| async move {
        told.send(data).unwrap();
        Ok((Service { base_url: "http://127.0.0.1:9".into(), token: TOKEN.into() }, pending()))
    };
    let error = perform(None, &SMALL, start, async || {}).await.unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
    assert!(!place.await.unwrap().parent().unwrap().exists());
}
