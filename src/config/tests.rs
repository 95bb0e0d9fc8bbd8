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
