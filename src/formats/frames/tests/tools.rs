//! The commands `zstd` and `gzip` as judges, both ways. They must be installed.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::formats::frames::{FrameIndex, SeekTable};

/// Runs a command with `input`; what it printed, and whether it was content.
fn run(command: &[&str], input: &[u8]) -> (Vec<u8>, bool) {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("these tests need {} (Debian: zstd, gzip): {error}", command[0]));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // It may stop reading when it does not like what it gets.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    (output.stdout, output.status.success())
}

fn windows(codec: Codec, content: &[u8], window: usize) -> Vec<Vec<u8>> {
    content.chunks(window).map(|window| framed(codec, window)).collect()
}

#[test]
fn zstd_reads_our_frames_and_their_seek_table() {
    let content = like_a_disk(3_000_000);
    let frames = windows(Codec::Zstd, &content, 1 << 20);
    let mut index = FrameIndex::new();
    frames.iter().for_each(|frame| index.push_frame(frame).unwrap());
    let table = SeekTable::new(&index, 1 << 20, content.len() as u64).unwrap().part(0, usize::MAX);
    let stream = [frames.concat(), table].concat();
    assert!(run(&["zstd", "-dc"], &stream) == (content, true));
    assert!(run(&["zstd", "-tq"], &stream).1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.zst");
    std::fs::write(&path, &stream).unwrap();
    let (listed, ok) = run(&["zstd", "-lv", path.to_str().unwrap()], &[]);
    let listed = String::from_utf8(listed).unwrap();
    assert!(ok && listed.contains("# Zstandard Frames: 3"), "{listed}");
    assert!(listed.contains("# Skippable Frames: 1") && listed.contains("Check: XXH64"), "{listed}");
    assert!(listed.contains("(3000000 B)"), "{listed}");
}

#[test]
fn gzip_reads_our_members() {
    let content = like_a_disk(3_000_000);
    let stream = windows(Codec::Gzip, &content, 1 << 20).concat();
    assert!(run(&["gzip", "-dc"], &stream) == (content, true));
    assert!(run(&["gzip", "-t"], &stream).1);
}

#[test]
fn what_the_commands_make_is_read() {
    let content = [like_a_disk(900_000), noise(200_000), vec![0; 900_000]].concat();
    let made: [(&[&str], Sniffed); 5] = [
        (&["zstd", "-c"], Sniffed::Zstd),
        (&["zstd", "-c", "--no-check", "-1"], Sniffed::Zstd),
        (&["zstd", "-c", "-12", "--long=27"], Sniffed::Zstd),
        (&["gzip", "-c"], Sniffed::Gzip),
        (&["gzip", "-9nc"], Sniffed::Gzip),
    ];
    for (command, sniffed) in made {
        let (stream, ok) = run(command, &content);
        assert!(ok, "{command:?}");
        assert!(read(sniffed, [&stream[..]]) == (content.clone(), None), "{command:?}");
        assert!(read(sniffed, stream.chunks(977)) == (content.clone(), None), "{command:?}");
        let twice = [&stream[..], &stream].concat();
        assert!(read(sniffed, [&twice[..]]) == (content.repeat(2), None), "{command:?}");
    }
    let (stream, _) = run(&["zstd", "-c", "--ultra", "--long=28"], &content);
    assert!(
        matches!(refusal(Codec::Zstd, &stream), FrameError::WindowTooLarge { found, .. } if found == 1 << 28)
    );
}

#[test]
fn what_the_commands_refuse_is_refused() {
    let zstd = framed(Codec::Zstd, b"content");
    let gzip = framed(Codec::Gzip, b"content");
    let mut damaged = zstd.clone();
    damaged[12] ^= 4;
    let streams = [
        (Codec::Zstd, zstd.clone()),
        (Codec::Zstd, [&zstd[..], &[0; 4]].concat()),
        (Codec::Zstd, [&zstd[..], b"abcd"].concat()),
        (Codec::Zstd, zstd[..zstd.len() - 1].to_vec()),
        (Codec::Zstd, damaged),
        (Codec::Gzip, gzip.clone()),
        (Codec::Gzip, [&gzip[..], &[0; 512]].concat()),
        (Codec::Gzip, [&gzip[..], b"abcd"].concat()),
        (Codec::Gzip, gzip[..gzip.len() - 1].to_vec()),
    ];
    for (codec, stream) in streams {
        let theirs = run(&[codec.name(), "-dc"], &stream).1;
        assert_eq!(read_whole(codec, &stream).1.is_none(), theirs, "{codec:?} {stream:02x?}");
    }
}
