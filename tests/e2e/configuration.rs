//! Configuration: what wins over what, and what is refused.

use std::path::Path;
use std::process::Output;

use crate::support::server::{gantry, scratch};

/// Runs `serve --print-config` with a file, variables and flags.
fn printed(toml: &str, variables: &[(&str, &str)], flags: &[&str]) -> Output {
    let folder = scratch();
    let file = folder.path().join("gantry.toml");
    std::fs::write(&file, toml).expect("it can be written");
    let mut command = gantry(["serve", "--print-config", "--config"]);
    command.arg(&file).args(flags).envs(variables.iter().copied()).current_dir(folder.path());
    let output = command.output().expect("the program runs");
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("it is there").flatten().collect();
    assert_eq!(left.len(), 1, "it creates nothing: {left:?}");
    output
}

#[track_caller]
fn table(output: &Output) -> toml::Table {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8_lossy(&output.stdout).parse().expect("TOML")
}

#[test]
fn the_defaults_are_printed_as_toml_and_nothing_is_created() {
    let config = table(&printed("", &[], &[]));
    assert_eq!(config["data"].as_str(), Some("./gantry-data"));
    assert_eq!(config["listen"].as_array().map(Vec::len), Some(1));
    assert_eq!(config["listen"][0].as_str(), Some("127.0.0.1:8080"));
    assert_eq!(config["storage"]["sr_roots"].as_array().map(Vec::len), Some(0), "empty lists included");
    assert_eq!(config["storage"]["content_format"].as_str(), Some("raw"));
    assert_eq!(config["transfers"]["memory_budget"].as_str(), Some("512MiB"));
    assert_eq!(config["transfers"]["window"].as_str(), Some("32MiB"));
    assert_eq!(config["transfers"]["upload_idle"].as_str(), Some("300s"));
    assert_eq!(config["storage"]["stuck_after"].as_str(), Some("60s"));
    assert_eq!(config["http"]["head_timeout"].as_str(), Some("10s"));
    assert_eq!(config["auth"]["failure_delay"].as_str(), Some("2s"));
    assert_eq!(config["limits"]["concurrent"].as_integer(), Some(0));
    assert_eq!(config["tasks"]["keep"].as_integer(), Some(1000));
    assert_eq!(config["log"]["level"].as_str(), Some("info"));
    assert_eq!(config["tls"]["self_signed"].as_bool(), Some(false));
    // What was printed is a configuration.
    let again = printed(&config.to_string(), &[], &[]);
    assert_eq!(table(&again), config);
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let toml = "data = \"/from/file\"\nlisten = [\"127.0.0.1:1\"]\n[storage]\nsr_roots = [\"/file\"]\n[transfers]\nwindow = \"8MiB\"";
    let variables = [
        ("GANTRY_DATA", "/from/environment"),
        ("GANTRY_STORAGE__SR_ROOTS", "/a,/b"),
        ("GANTRY_LISTEN", "127.0.0.1:2,127.0.0.1:3"),
    ];
    let config = table(&printed(toml, &[], &[]));
    assert_eq!(config["data"].as_str(), Some("/from/file"));
    assert_eq!(config["transfers"]["window"].as_str(), Some("8MiB"));
    let config = table(&printed(toml, &variables, &[]));
    assert_eq!(config["data"].as_str(), Some("/from/environment"));
    assert_eq!(config["listen"].as_array().map(Vec::len), Some(2));
    let roots: Vec<&str> = config["storage"]["sr_roots"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    assert_eq!(roots, ["/a", "/b"]);
    let config = table(&printed(toml, &variables, &["--data", "/from/flag", "--listen", "127.0.0.1:4"]));
    assert_eq!(config["data"].as_str(), Some("/from/flag"));
    assert_eq!(config["listen"].as_array().map(Vec::len), Some(1));
    assert_eq!(config["listen"][0].as_str(), Some("127.0.0.1:4"));
}

#[test]
fn secrets_are_masked() {
    let output = printed("[metrics]\ntoken = \"very-secret-token\"", &[], &[]);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("very-secret-token"));
    assert!(table(&output)["metrics"]["token"].is_str(), "that there is one is told");
}

#[test]
fn a_bad_configuration_is_refused_with_its_line() {
    for (toml, line) in [
        ("data = \"x\"\nnonsense = 1\n", "2"),
        ("data = \"x\"\n\n[storage]\nsr_root = []\n", "4"),
        ("[nonsense]\nx = 1\n", "1"),
        ("[transfers]\nwindow = \"8MiB\"\nupload_idle = \"soon\"\n", "3"),
        ("[transfers]\nwindow = 8.5\n", "2"),
        ("[tasks]\nkeep = \"many\"\n", "2"),
        ("listen = [\"127.0.0.1:0\"]\ndata = \n", "2"),
        ("listen = [\"nowhere\"]\n", "1"),
        ("[storage]\ncontent_format = \"qcow2\"\n", "2"),
    ] {
        let output = printed(toml, &[], &[]);
        assert_eq!(output.status.code(), Some(2), "{toml:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{toml:?}: {output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let words: Vec<&str> = told.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        assert!(words.contains(&line), "line {line} of {toml:?} in {told}");
    }
    let output = gantry(["serve", "--config", "/nowhere/gantry.toml"]).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_bad_environment_variable_is_refused_by_name() {
    for (name, value) in
        [("GANTRY_TRANSFERS__WINDOW", "large"), ("GANTRY_NONSENSE__KEY", "1"), ("GANTRY_LISTEN", "nowhere")]
    {
        let output = printed("", &[(name, value)], &[]);
        assert_eq!(output.status.code(), Some(2), "{name}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(name), "{output:?}");
    }
}

#[test]
fn the_example_configuration_is_one() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/gantry.toml");
    let text = std::fs::read_to_string(&example).expect("it is there");
    let defaults = table(&printed("", &[], &[]));
    assert_eq!(table(&printed(&text, &[], &[])), defaults, "as it stands it changes nothing");
    // Each option is in it, commented out with its default; with the comment taken away it is still the default.
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(option)
                if option.starts_with(|c: char| c.is_ascii_lowercase()) && option.contains(" = ") =>
            {
                option
            }
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let output = printed(&uncommented, &[], &[]);
    assert_eq!(output.status.code(), Some(0), "every option in it is one: {output:?}");
    let example: toml::Table = uncommented.parse().expect("TOML");
    for (section, options) in &defaults {
        match options.as_table() {
            Some(options) => {
                for (name, value) in options {
                    let shown = example.get(section).and_then(|section| section.get(name));
                    assert_eq!(shown, Some(value), "{section}.{name}");
                }
            }
            None => assert_eq!(example.get(section), Some(options), "{section}"),
        }
    }
}
