//! Where each value comes from, and what is said of wrong ones.

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

fn file(text: &str) -> (tempfile::TempDir, Flags) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    (folder, Flags { config: Some(path), ..Flags::default() })
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let (_folder, mut flags) = file("root = '/of/file'\nrun = '/of/file'\nlog = 'warn'\n");
    let environment = environment(&[("ONCEFS_RUN", "/of/environment"), ("ONCEFS_LOG", "debug")]);
    flags.log = Some("trace".into());
    let config = Config::load(&flags, &environment, 0).unwrap();
    assert_eq!((config.root, config.run), ("/of/file".into(), "/of/environment".into()));
    assert_eq!(config.log, "trace");
    assert_eq!(config.scan, image::Config::default());
}

#[test]
fn a_variable_reaches_into_sections_and_keeps_its_type() {
    let environment = environment(&[("ONCEFS_SCAN__CONCURRENT_LAYERS", "7"), ("ONCEFS_FUSE__THREADS", "3")]);
    let config = Config::load(&Flags::default(), &environment, 0).unwrap();
    assert_eq!((config.scan.concurrent_layers, config.fuse.threads), (7, 3));
}

#[test]
fn an_ordinary_user_has_places_of_their_own() {
    let environment = environment(&[("HOME", "/home/ann"), ("XDG_RUNTIME_DIR", "/run/user/7")]);
    let config = Config::load(&Flags::default(), &environment, 7).unwrap();
    assert_eq!(config.root, Path::new("/home/ann/.local/share/oncefs"));
    assert_eq!(config.run, Path::new("/run/user/7/oncefs"));
    assert_eq!(config.registry.docker_config, [Path::new("/home/ann/.docker/config.json")]);
}

#[test]
fn credential_helpers_are_found_where_programs_are() {
    let environment = environment(&[("PATH", "/opt/bin:bin::/usr/bin")]);
    let config = Config::load(&Flags::default(), &environment, 0).unwrap();
    assert_eq!(config.registry.helper_path, [Path::new("/opt/bin"), Path::new("/usr/bin")]);
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_nearest_one() {
    let (_folder, flags) = file("[scan]\nconcurent_layers = 2\n");
    let error = Config::load(&flags, &Environment::default(), 0).unwrap_err().to_string();
    assert!(error.contains("config.toml") && error.contains("did you mean `concurrent_layers`?"), "{error}");
    let wrong = environment(&[("ONCEFS_ROOOT", "/x")]);
    let error = Config::load(&Flags::default(), &wrong, 0).unwrap_err().to_string();
    assert!(error.contains("ONCEFS_ROOOT") && error.contains("did you mean `root`?"), "{error}");
}

#[test]
fn a_wrong_type_and_a_missing_file_are_told_with_their_place() {
    let (_folder, flags) = file("[fuse]\nthreads = 'many'\n");
    let error = Config::load(&flags, &Environment::default(), 0).unwrap_err().to_string();
    assert!(error.contains("config.toml") && error.contains("threads"), "{error}");
    let flags = Flags { config: Some("/nowhere/config.toml".into()), ..Flags::default() };
    let error = Config::load(&flags, &Environment::default(), 0).unwrap_err().to_string();
    assert!(error.contains("/nowhere/config.toml"), "{error}");
}

#[test]
fn a_value_that_nothing_could_work_with_is_told_with_its_key() {
    let long = format!("[server]\naddress = '/{}'\n", "a".repeat(107));
    for (text, key) in [
        ("root = 'relative'\n", "root = relative"),
        ("run = 'unix:///run/x'\n", "run = unix:///run/x"),
        ("[server]\naddress = 'unix:///run/x.sock'\n", "server.address = unix:///run/x.sock: write the path alone"),
        ("[server]\naddress = 'x.sock'\n", "server.address = x.sock"),
        (&long, "107 bytes at most, and 108 here"),
        ("[cache]\nhigh = 20\nlow = 50\n", "cache.low = 50"),
        ("[cache]\nhigh = 200\n", "cache.high = 200"),
        ("[cache]\nhigh = 0\nlow = 0\n", "cache.high = 0"),
        ("[registry]\nconnections_per_host = 0\n", "registry.connections_per_host = 0"),
        ("[scan.limits]\nratio_max = 0\n", "scan.limits.ratio_max = 0"),
    ] {
        let (_folder, flags) = file(text);
        let error = Config::load(&flags, &Environment::default(), 0).unwrap_err().to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
    // Flags are said by somebody who knows where they stand.
    let flags = Flags { root: Some("here".into()), run: Some("there".into()), ..Flags::default() };
    assert!(Config::load(&flags, &Environment::default(), 0).is_ok());
    let flags = Flags { address: Some("unix:///run/x.sock".into()), ..Flags::default() };
    assert!(Config::load(&flags, &Environment::default(), 0).is_err());
}

#[test]
fn an_ordinary_user_without_a_home_says_where_the_store_is() {
    let nowhere = Environment::default();
    let homeless = Config::load(&Flags::default(), &nowhere, 7).unwrap().with_absolute_places();
    assert!(matches!(homeless.check_root(), Err(ConfigError::NoHome)));
    for (flags, environment) in [
        (Flags { root: Some("/x".into()), ..Flags::default() }, nowhere),
        (Flags::default(), environment(&[("ONCEFS_ROOT", "/x")])),
    ] {
        let config = Config::load(&flags, &environment, 7).unwrap();
        assert!(config.check_root().is_ok());
        assert_eq!((config.root, config.run), ("/x".into(), "/tmp/oncefs-7".into()));
    }
}

#[test]
fn what_is_shown_can_be_read_again() {
    let config = Config::load(&Flags::default(), &environment(&[("HOME", "/home/ann")]), 7).unwrap();
    assert_eq!(toml::from_str::<Config>(&config.to_toml()).unwrap(), config);
}

#[test]
fn edits_count_what_must_change() {
    assert_eq!(edits("root", "root"), 0);
    assert_eq!(edits("rooot", "root"), 1);
    assert_eq!(edits("", "root"), 4);
    assert_eq!(edits("kitten", "sitting"), 3);
}

#[test]
fn what_differs_is_named_by_its_key() {
    let old = Config::default();
    let mut new = old.clone();
    assert_eq!(old.differences(&new), [""; 0]);
    new.scan.concurrent_layers += 1;
    new.log = "debug".to_owned();
    new.metrics.listen = Some(([127, 0, 0, 1], 9099).into());
    assert_eq!(old.differences(&new), ["log", "metrics.listen", "scan.concurrent_layers"]);
}

// === the commented configuration ===

const COMMENTED: &str = include_str!("../../docs/config.toml");

/// Keys that have no default, and so an example.
const WITHOUT_DEFAULT: [&str; 4] = [
    "index.signing_key",
    "metrics.listen",
    "registry.kubelet_credential_provider_bin_dir",
    "registry.kubelet_credential_providers",
];

/// Every key below a table as `section.key = value`.
fn keys(table: &toml::Table, below: &str, into: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => keys(inner, &format!("{below}{key}."), into),
            value => drop(into.insert(format!("{below}{key}"), value.to_string())),
        }
    }
}

fn keys_of(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    keys(&text.parse().unwrap(), "", &mut found);
    found
}

/// A key stands directly behind its `#`, what is said of it behind a space.
fn uncommented() -> String {
    let is_key = |line: &&str| line.starts_with(|c: char| c.is_ascii_lowercase());
    COMMENTED.lines().map(|line| line.strip_prefix('#').filter(is_key).unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_commented_configuration_changes_nothing() {
    assert_eq!(toml::from_str::<Config>(COMMENTED).unwrap(), Config::default());
    assert_eq!(keys_of(COMMENTED), BTreeMap::new());
}

#[test]
fn the_commented_configuration_has_every_key_with_its_default() {
    let (mut said, so) = (keys_of(&uncommented()), keys_of(&Config::default().to_toml()));
    let mut complaints = Vec::new();
    for key in WITHOUT_DEFAULT {
        complaints.extend(said.remove(key).is_none().then(|| format!("is missing: {key}")));
    }
    for (key, value) in &so {
        match said.get(key) {
            None => complaints.push(format!("is missing: {key} = {value}")),
            Some(other) if other != value => complaints.push(format!("says {key} = {other}, it is {value}")),
            Some(_) => {}
        }
    }
    complaints.extend(said.keys().filter(|key| !so.contains_key(*key)).map(|key| format!("there is no key {key}")));
    assert!(complaints.is_empty(), "docs/config.toml:\n{}", complaints.join("\n"));
    assert!(toml::from_str::<Config>(&uncommented()).is_ok());
}

#[test]
fn the_commented_configuration_says_something_of_every_key() {
    let lines: Vec<&str> = COMMENTED.lines().collect();
    let is_key =
        |line: &str| line.strip_prefix('#').is_some_and(|key| key.starts_with(|c: char| c.is_ascii_lowercase()));
    for pair in lines.windows(2).filter(|pair| is_key(pair[1])) {
        assert!(pair[0].starts_with("# "), "docs/config.toml says nothing of {}", pair[1]);
    }
}
