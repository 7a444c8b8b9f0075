//! TLS: certificates that are made, and certificates that change while the server runs.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::curl::Curl;
use crate::support::server::{Setup, gantry, scratch};
use crate::support::{tools, wait};

/// The SHA-256 of the certificate that a new connection is shown, as openssl prints it.
fn shown(address: std::net::SocketAddr) -> String {
    let command = format!(
        "openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha256"
    );
    let output = std::process::Command::new("sh").args(["-c", &command]).output().expect("sh runs");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    text.rsplit('=').next().unwrap_or_default().to_owned()
}

#[test]
fn sighup_takes_another_certificate_and_running_connections_go_on() {
    let server = Setup::default().tls().start();
    let first = shown(server.address());
    assert!(server.log().contains(&first), "it is told at the start: {first}");
    // A connection that is there before, and asks again after.
    let mut old = std::process::Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &server.address().to_string()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("openssl runs");
    let mut ask = old.stdin.take().expect("it is piped");
    let mut answers = std::io::BufReader::new(old.stdout.take().expect("it is piped"));
    let mut pong = |last: &str| {
        use std::io::{BufRead, Write};
        let request = format!("GET /rest/v0/ping HTTP/1.1\r\nHost: x\r\n{last}\r\n");
        ask.write_all(request.as_bytes()).and_then(|()| ask.flush()).expect("it takes it");
        let mut text = String::new();
        while !text.contains("pong") {
            assert_ne!(answers.read_line(&mut text).expect("it answers"), 0, "closed after {text:?}");
            if text.contains("\r\n\r\n") {
                let mut body = vec![0; 8];
                std::io::Read::read_exact(&mut answers, &mut body).expect("a body");
                text.push_str(&String::from_utf8_lossy(&body));
                while !text.trim_end().ends_with('}') {
                    let mut byte = [0];
                    std::io::Read::read_exact(&mut answers, &mut byte).expect("a body");
                    text.push(char::from(byte[0]));
                }
            }
        }
    };
    pong("");
    // A bad file changes nothing and says so.
    let key = std::fs::read(server.path("key.pem")).expect("it is there");
    std::fs::write(server.path("key.pem"), "no key").expect("it can be written");
    server.signal(Signal::HUP);
    wait::until(Duration::from_secs(10), || {
        match server.log().contains("the certificate is bad, nothing was changed") {
            true => Ok(()),
            false => Err("it has not said that the certificate is bad".to_owned()),
        }
    });
    assert_eq!(shown(server.address()), first);
    std::fs::write(server.path("key.pem"), key).expect("it can be written");
    // Another one.
    let other = scratch();
    let (cert, key) = tools::certificate(other.path());
    std::fs::copy(cert, server.path("cert.pem")).expect("it can be copied");
    std::fs::copy(key, server.path("key.pem")).expect("it can be copied");
    server.signal(Signal::HUP);
    wait::until(Duration::from_secs(10), || match server.log().contains("the certificate was read again") {
        true => Ok(()),
        false => Err("it has not read it again".to_owned()),
    });
    let second = shown(server.address());
    assert_ne!(second, first);
    assert!(server.log().contains(&second), "{second}");
    pong("Connection: close\r\n");
    let _ = old.kill();
    let _ = old.wait();
    let done = Curl::new(&server).run(&server.url("/rest/v0/srs"));
    assert_eq!((done.status, done.http.as_str()), (200, "2"), "{done:?}");
}

#[test]
fn the_flags_of_the_command_line_offer_tls_too() {
    use std::io::{BufRead, BufReader};

    let scratch = scratch();
    let data = scratch.path().join("data");
    let mut served = gantry(["serve", "--tls-self-signed", "--listen", "127.0.0.1:0", "--data"]);
    let mut child = served.arg(&data).stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("it says where it listens");
    let (cert, key) = tools::certificate(scratch.path());
    let printed = |arguments: &[&std::ffi::OsStr]| {
        let done = gantry(["serve", "--print-config"]).args(arguments).output().expect("it runs");
        (done.status.code(), String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let both = printed(&["--tls-cert".as_ref(), cert.as_os_str(), "--tls-key".as_ref(), key.as_os_str()]);
    let half = printed(&["--tls-cert".as_ref(), cert.as_os_str()]);
    child.kill().expect("it can be ended");
    child.wait().expect("it ends");
    assert!(line.starts_with("gantry listening on https://127.0.0.1:"), "{line}");
    assert_eq!(both.0, Some(0));
    assert!(
        both.1.contains(&cert.display().to_string()) && both.1.contains(&key.display().to_string()),
        "{}",
        both.1
    );
    assert_eq!(half.0, Some(2));
}

#[test]
fn a_certificate_of_its_own_is_told_by_its_fingerprint_and_kept() {
    let mut server = Setup::default().self_signed().start();
    let fingerprint = shown(server.address());
    assert_eq!(fingerprint.len(), 95, "{fingerprint}");
    assert!(server.log().contains(&fingerprint), "it is told at the start");
    server.terminate();
    server.start_again();
    assert_eq!(shown(server.address()), fingerprint);
}
