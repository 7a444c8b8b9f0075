//! Other people's programs. One that is missing fails the test with the name of its Debian package.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where a program is. Fails, naming the Debian package, when it is nowhere.
pub fn program(name: &str, package: &str) -> PathBuf {
    find(name)
        .unwrap_or_else(|| panic!("{name} is not installed: it comes with the Debian package {package}"))
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Runs a program to its end, insists on success, and returns what it printed.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = S>) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().expect("the program runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}: {}\n{complaint}\n{text}", output.status);
    output.stdout
}

/// `qemu-img` and `qemu-io`, from Debian's qemu-utils.
pub mod qemu {
    use super::*;

    /// Runs `qemu-img`.
    #[track_caller]
    pub fn img<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Vec<u8> {
        run(&program("qemu-img", "qemu-utils"), arguments)
    }

    /// Makes a VHD of a raw file; `options` as after `-o`.
    #[track_caller]
    pub fn raw_to_vhd(raw: &Path, vhd: &Path, options: &str) {
        let arguments = ["convert", "-f", "raw", "-O", "vpc", "-o", options].map(OsStr::new);
        img(arguments.into_iter().chain([raw.as_os_str(), vhd.as_os_str()]));
    }

    /// Makes a raw file, with holes, of a VHD.
    #[track_caller]
    pub fn vhd_to_raw(vhd: &Path, raw: &Path) {
        let arguments = ["convert", "-f", "vpc", "-O", "raw"].map(OsStr::new);
        img(arguments.into_iter().chain([vhd.as_os_str(), raw.as_os_str()]));
    }

    /// The virtual size that qemu sees in a VHD.
    #[track_caller]
    pub fn virtual_size(vhd: &Path) -> u64 {
        let arguments = ["info", "-f", "vpc", "--output=json"].map(OsStr::new);
        let told = img(arguments.into_iter().chain([vhd.as_os_str()]));
        let told: serde_json::Value = serde_json::from_slice(&told).expect("qemu-img info prints JSON");
        told["virtual-size"].as_u64().expect("a virtual size")
    }

    /// Insists that two images hold the same bytes (sizes apart: see [`virtual_size`]). Skips what is a hole in
    /// both, so that size costs nothing.
    #[track_caller]
    pub fn same(format_a: &str, a: &Path, format_b: &str, b: &Path) {
        let arguments = ["compare", "-f", format_a, "-F", format_b].map(OsStr::new);
        img(arguments.into_iter().chain([a.as_os_str(), b.as_os_str()]));
    }
}

/// The size of the disk that libvhdi finds in a VHD, from Debian's python3-libvhdi, and its bytes
/// `offset..offset + length`.
#[track_caller]
pub fn libvhdi_read(vhd: &Path, offset: u64, length: u64) -> (u64, Vec<u8>) {
    let script = r#"
import sys
try:
    import pyvhdi
except ImportError:
    sys.exit("the Debian package python3-libvhdi is not installed")
disk = pyvhdi.file()
disk.open(sys.argv[1])
offset, left = int(sys.argv[2]), int(sys.argv[3])
out = sys.stdout.buffer
out.write(disk.get_media_size().to_bytes(8, "big"))
disk.seek(offset)
while left:
    piece = disk.read_buffer(min(left, 1 << 20))
    if not piece:
        sys.exit("short read")
    out.write(piece)
    left -= len(piece)
"#;
    // The system's own interpreter: only that one sees the Debian package.
    let python = PathBuf::from("/usr/bin/python3");
    assert!(python.is_file(), "/usr/bin/python3 is not installed: it comes with python3-libvhdi");
    let (offset, length) = (offset.to_string(), length.to_string());
    let first = [OsStr::new("-c"), OsStr::new(script), vhd.as_os_str()];
    let told = run(&python, first.into_iter().chain([offset.as_ref(), length.as_ref()]));
    let (size, bytes) = told.split_first_chunk().expect("a size");
    (u64::from_be_bytes(*size), bytes.to_vec())
}

/// 7-Zip's name differs between Debian's releases.
fn seven_zip() -> PathBuf {
    find("7zz").or_else(|| find("7z")).unwrap_or_else(|| program("7zz", "7zip"))
}

/// The disk that 7-Zip finds in a VHD.
#[track_caller]
pub fn seven_zip_read(vhd: &Path) -> Vec<u8> {
    let arguments = ["x", "-tvhd", "-so", "-bd"].map(OsStr::new);
    run(&seven_zip(), arguments.into_iter().chain([vhd.as_os_str()]))
}

/// The size that 7-Zip sees in a VHD, without reading its blocks.
#[track_caller]
pub fn seven_zip_size(vhd: &Path) -> u64 {
    let arguments = ["l", "-tvhd", "-slt"].map(OsStr::new);
    let told = run(&seven_zip(), arguments.into_iter().chain([vhd.as_os_str()]));
    let told = String::from_utf8_lossy(&told).into_owned();
    let item = told.split("----------").nth(1).unwrap_or_else(|| panic!("no list of items in {told}"));
    let size = item.lines().find_map(|line| line.strip_prefix("Size = "));
    size.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no size in {told}"))
}

/// A command that runs `inner` where the folder `at` is an empty file system of `mebibytes`, in memory. Other
/// processes do not see it there, only under `/proc/<pid>/root`.
pub fn on_file_system_of(mebibytes: u64, at: &Path, inner: Command) -> Command {
    let unshare = program("unshare", "util-linux");
    let namespaces = ["--user", "--map-root-user", "--mount"];
    let allowed = Command::new(&unshare).args(namespaces).arg("true").output().expect("the program runs");
    assert!(
        allowed.status.success(),
        "this test needs a file system of limited size, for which it has to make a user namespace: {}",
        String::from_utf8_lossy(&allowed.stderr)
    );
    std::fs::create_dir_all(at).expect("the folder can be made");
    let script = r#"mount -t tmpfs -o "size=$1m" tmpfs "$2" && shift 2 && exec "$@""#;
    let mut command = Command::new(unshare);
    command.args(namespaces).args(["sh", "-c", script, "sh"]).arg(mebibytes.to_string()).arg(at);
    wrapping(command, &inner)
}

/// A command that runs `inner` with the file systems that the process `pid` sees.
pub fn where_it_runs(pid: i32, inner: Command) -> Command {
    let mut command = Command::new(program("nsenter", "util-linux"));
    command.args(["--user", "--mount", "--preserve-credentials", "--target"]).arg(pid.to_string());
    wrapping(command, &inner)
}

fn wrapping(mut outer: Command, inner: &Command) -> Command {
    outer.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// A certificate for this machine that signs itself, and its key, both PEM.
pub fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let openssl = program("openssl", "openssl");
    let mut arguments: Vec<&OsStr> =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
            .map(OsStr::new)
            .to_vec();
    arguments.extend(
        ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"].map(OsStr::new),
    );
    arguments.extend([OsStr::new("-out"), cert.as_os_str(), OsStr::new("-keyout"), key.as_os_str()]);
    run(&openssl, arguments);
    (cert, key)
}
