use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use super::*;

fn with_env(env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load(&Overrides::default(), env)
}

fn load(overrides: &Overrides, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load_from(
        overrides,
        env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))),
    )
}

fn with_file(text: &str) -> Result<Config, ConfigError> {
    with_file_and(text, Overrides::default(), &[])
}

fn with_file_and(text: &str, overrides: Overrides, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    load(&Overrides { config: Some(file.path().to_owned()), ..overrides }, env)
}

fn refusal(outcome: Result<Config, ConfigError>) -> String {
    outcome.unwrap_err().to_string()
}

#[test]
fn the_defaults_are_those_that_are_promised() {
    let config = with_env(&[]).unwrap();
    assert_eq!(config.data, PathBuf::from("./gantry-data"));
    assert_eq!(config.listen, ["127.0.0.1:8080".parse().unwrap()]);
    let printed = config.print().unwrap();
    for line in [
        "data = \"./gantry-data\"",
        "listen = [\"127.0.0.1:8080\"]",
        "# public_url is not set",
        "trusted_proxies = []",
        "cors_origins = []",
        "head_timeout = \"10s\"",
        "max_json = \"1MiB\"",
        "# cert is not set",
        "# key is not set",
        "self_signed = false",
        "failure_delay = \"2s\"",
        "failures_per_address = 20",
        "sr_roots = []",
        "content_format = \"raw\"",
        "reserve = \"64MiB\"",
        "stuck_after = \"60s\"",
        "memory_budget = \"512MiB\"",
        "window = \"32MiB\"",
        "detach = \"24h\"",
        "drain = \"30s\"",
        "queue_wait = \"30s\"",
        "upload_idle = \"300s\"",
        "download_idle = \"300s\"",
        "concurrent = 0",
        "per_sr = 0",
        "per_user = 0",
        "per_backend = 0",
        "bandwidth = 0",
        "bandwidth_per_sr = 0",
        "keep = 1000",
        "max_age = \"30d\"",
        "# listen is not set",
        "# token is not set",
        "format = \"auto\"",
        "level = \"info\"",
    ] {
        assert!(printed.lines().any(|found| found == line), "{line} is missing in\n{printed}");
    }
}

#[test]
fn what_is_printed_loads_again_as_the_same() {
    let config = with_file(
        r#"
        data = "/var/lib/gantry"
        listen = ["[::1]:0", "0.0.0.0:80"]
        [http]
        public_url = "https://gantry.example.org"
        trusted_proxies = ["10.0.0.0/8", "::1"]
        cors_origins = ["https://ui.example.org", "*"]
        max_json = 1000001
        [tls]
        cert = "c.pem"
        key = "k.pem"
        [storage]
        sr_roots = ["/srv/a b", "/srv/\"q\""]
        content_format = "vhd"
        [transfers]
        download_idle = "1.5h"
        [limits]
        bandwidth = "10MB"
        [metrics]
        listen = "127.0.0.1:9100"
        token = "geheim"
        "#,
    )
    .unwrap();
    let printed = config.print().unwrap();
    assert!(!printed.contains("geheim"), "{printed}");
    assert!(printed.contains("token = \"********\""), "{printed}");
    let again = with_file(&printed).unwrap();
    assert_eq!(again.print().unwrap(), printed);
    assert_eq!(again.limits.bandwidth, Size(10_000_000));
    assert_eq!(again.storage.sr_roots, config.storage.sr_roots);
    // what the token guarded stays shut, and its owner is told
    assert_ne!(again.metrics.token.as_ref().unwrap().reveal(), "********");
    assert!(again.warnings().contains(&ConfigWarning::MaskedToken));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "data = \"/file\"\nlisten = [\"127.0.0.1:1\"]\n[tasks]\nkeep = 1\nmax_age = \"1d\"\n";
    let env =
        [("GANTRY_DATA", "/env"), ("GANTRY_LISTEN", "127.0.0.1:2,[::1]:3"), ("GANTRY_TASKS__KEEP", "2")];
    let config = with_file_and(file, Overrides::default(), &env).unwrap();
    assert_eq!(config.data, PathBuf::from("/env"));
    assert_eq!(config.listen, ["127.0.0.1:2".parse().unwrap(), "[::1]:3".parse().unwrap()]);
    assert_eq!(config.tasks.keep, 2);
    assert_eq!(config.tasks.max_age.get(), Duration::from_secs(86_400));
    let flags = Overrides {
        data: Some(PathBuf::from("/flag")),
        listen: vec!["127.0.0.1:4".parse().unwrap()],
        ..Overrides::default()
    };
    let config = with_file_and(file, flags, &env).unwrap();
    assert_eq!(config.data, PathBuf::from("/flag"));
    assert_eq!(config.listen, ["127.0.0.1:4".parse().unwrap()]);
}

#[test]
fn every_key_can_be_set_by_its_variable() {
    let config = with_env(&[
        ("GANTRY_STORAGE__SR_ROOTS", "/srv/a, /srv/b"),
        ("GANTRY_HTTP__CORS_ORIGINS", ""),
        ("GANTRY_HTTP__TRUSTED_PROXIES", "10.0.0.0/8"),
        ("GANTRY_HTTP__MAX_JSON", "4096"),
        ("GANTRY_TLS__SELF_SIGNED", "true"),
        ("GANTRY_TRANSFERS__UPLOAD_IDLE", "500ms"),
        ("GANTRY_LIMITS__BANDWIDTH", "1MiB"),
        ("GANTRY_METRICS__TOKEN", "geheim"),
        ("GANTRY_LOG__FORMAT", "json"),
    ])
    .unwrap();
    assert_eq!(config.storage.sr_roots, [PathBuf::from("/srv/a"), PathBuf::from("/srv/b")]);
    assert!(config.http.cors_origins.is_empty() && config.tls.self_signed);
    assert_eq!(config.http.max_json, Size(4096));
    assert_eq!(config.transfers.download_idle().get(), Duration::from_millis(500));
    assert_eq!(config.limits.bandwidth, Size::mib(1));
    assert_eq!(config.metrics.token.unwrap().reveal(), "geheim");
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let message = refusal(with_file("data = \"x\"\n\n[tasks]\nkeep = 1\nkeeep = 2\n"));
    assert!(message.contains("line 5") && message.contains("keeep"), "{message}");
    let message = refusal(with_file("dato = \"x\"\n"));
    assert!(message.contains("line 1") && message.contains("dato"), "{message}");
    let message = refusal(with_file("\n[taskz]\nkeep = 1\n"));
    assert!(message.contains("line 2") && message.contains("taskz"), "{message}");
}

#[test]
fn a_value_that_does_not_fit_is_refused_with_its_line() {
    for (text, line, word) in [
        ("[transfers]\n\nwindow = \"many\"\n", "line 3", "many"),
        ("[transfers]\ndrain = 30\n", "line 2", "30"),
        ("[limits]\nconcurrent = -1\n", "line 2", "-1"),
        ("listen = [\"localhost\"]\n", "line 1", "socket address"),
        ("listen = \n", "line 1", ""),
        ("[log]\nformat = \"xml\"\n", "line 2", "xml"),
        ("[storage]\ncontent_format = \"qcow2\"\n", "line 2", "qcow2"),
        ("[storage]\nreserve = -5\n", "line 2", "-5"),
    ] {
        let message = refusal(with_file(text));
        assert!(message.contains(line) && message.contains(word), "{text}: {message}");
    }
}

#[test]
fn an_unknown_variable_is_refused_by_name_and_those_of_others_are_left_alone() {
    let message = refusal(with_env(&[("GANTRY_TASKS__KEEEP", "1")]));
    assert!(message.contains("GANTRY_TASKS__KEEEP"), "{message}");
    with_env(&[
        ("GANTRY_SERVER", "x"),
        ("GANTRY_TOKEN", "x"),
        ("GANTRY_ADMIN_PASSWORD", "x"),
        ("GANTRY_ADMIN_PASSWORD_FILE", "x"),
        ("GANTRY_PORT", "tcp://10.0.0.1:80"),
        ("GANTRY_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
        ("GANTRY_DATA", ""),
        ("GANTRY_LISTEN", ""),
        ("GANTRY_METRICS__LISTEN", ""),
    ])
    .unwrap();
}

#[test]
fn a_variable_that_does_not_fit_is_refused_by_name() {
    for (name, value) in [
        ("GANTRY_TASKS__KEEP", "many"),
        ("GANTRY_LIMITS__PER_SR", "-1"),
        ("GANTRY_TLS__SELF_SIGNED", "yes"),
        ("GANTRY_TRANSFERS__WINDOW", "many"),
        ("GANTRY_TRANSFERS__DRAIN", "30"),
        ("GANTRY_LISTEN", "8080"),
        ("GANTRY_STORAGE__CONTENT_FORMAT", "qcow2"),
    ] {
        let message = refusal(with_env(&[(name, value)]));
        assert!(message.contains(name), "{name}: {message}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStringExt;
        let env = [(OsString::from("GANTRY_DATA"), OsString::from_vec(vec![0xff]))];
        let message = refusal(Config::load_from(&Overrides::default(), env));
        assert!(message.contains("GANTRY_DATA"), "{message}");
    }
}

#[test]
fn values_that_cannot_work_are_refused_by_their_key() {
    for (text, key) in [
        ("data = \"\"", "data"),
        ("listen = []", "listen"),
        ("[http]\npublic_url = \"gantry.example.org\"", "http.public_url"),
        ("[http]\npublic_url = \"https://gantry.example.org/\"", "http.public_url"),
        ("[http]\ncors_origins = [\"https://a/b\"]", "http.cors_origins"),
        ("[http]\nmax_json = 10", "http.max_json"),
        ("[http]\nmax_json = \"1GiB\"", "http.max_json"),
        ("[http]\nhead_timeout = \"0s\"", "http.head_timeout"),
        ("[tls]\ncert = \"c\"", "tls.cert"),
        ("[tls]\nkey = \"k\"", "tls.key"),
        ("[tls]\nkey = \"k\"\ncert = \"c\"\nself_signed = true", "tls.self_signed"),
        ("[auth]\nfailures_per_address = 1001", "auth.failures_per_address"),
        ("[storage]\nsr_roots = [\"srv\"]", "storage.sr_roots"),
        ("[transfers]\nwindow = \"127KiB\"", "transfers.window"),
        ("[transfers]\nmemory_budget = \"1023KiB\"", "transfers.memory_budget"),
        ("[transfers]\nupload_idle = \"0\"", "transfers.upload_idle"),
        ("[transfers]\ndownload_idle = \"0s\"", "transfers.download_idle"),
        ("[storage]\nstuck_after = \"900ms\"", "storage.stuck_after"),
        ("[log]\nlevel = \"loud\"", "log.level"),
        ("[log]\nlevel = \"info,gantry=very\"", "log.level"),
    ] {
        let message = refusal(with_file(text));
        assert!(message.starts_with(&format!("{key}: ")), "{text}: {message}");
    }
}

#[test]
fn a_file_that_is_missing_or_no_text_is_refused_by_name() {
    let missing = Overrides { config: Some(PathBuf::from("/nowhere/gantry.toml")), ..Overrides::default() };
    assert!(refusal(load(&missing, &[])).contains("/nowhere/gantry.toml"));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[0xff, 0xfe]).unwrap();
    let binary = Overrides { config: Some(file.path().to_owned()), ..Overrides::default() };
    assert!(matches!(load(&binary, &[]), Err(ConfigError::Read { .. })));
}

#[test]
fn the_default_reserve_is_two_per_cent_of_a_small_file_system_and_another_one_is_what_it_says() {
    let storage = Storage::default();
    assert_eq!(storage.reserve_on(1 << 40), 64 << 20);
    assert_eq!(storage.reserve_on(100 << 20), 2 << 20);
    let storage = Storage { reserve: Size::mib(32), ..Storage::default() };
    assert_eq!(storage.reserve_on(100 << 20), 32 << 20);
}

#[test]
fn listening_beyond_loopback_without_tls_is_warned_of() {
    let plain = with_env(&[("GANTRY_LISTEN", "127.0.0.1:0,0.0.0.0:80,[::1]:0")]).unwrap();
    let address = "0.0.0.0:80".parse().unwrap();
    assert_eq!(plain.warnings(), [ConfigWarning::PlainBeyondLoopback { address }]);
    let tls = with_env(&[("GANTRY_LISTEN", "0.0.0.0:80"), ("GANTRY_TLS__SELF_SIGNED", "true")]).unwrap();
    assert_eq!(tls.warnings(), []);
}

#[test]
fn an_sr_lies_under_a_root_and_not_beside_it() {
    let config = with_env(&[("GANTRY_STORAGE__SR_ROOTS", "/srv/a,/srv/b")]).unwrap();
    assert_eq!(config.sr_root_of(Path::new("/srv/b/one")), Some(Path::new("/srv/b")));
    assert_eq!(config.sr_root_of(Path::new("/srv/bb/one")), None);
    assert_eq!(config.sr_root_of(Path::new("/srv/b")), None);
}
