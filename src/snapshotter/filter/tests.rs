//! The filter language against what containerd says it means.

use std::time::SystemTime;

use super::*;
use crate::snapshotter::book::{Content, Labels};

fn snapshot() -> Snapshot {
    let labels = [("foo", "bar"), ("a/b.c", "one, two"), ("empty", ""), (CHAIN, "sha256:aa")];
    Snapshot {
        id: 1,
        name: "default/3/sha256:ab".into(),
        parent: Some("default/2/p q".into()),
        kind: Kind::Committed,
        content: Content::Directory,
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Labels>(),
        usage: None,
    }
}

fn matches(filters: &[&str]) -> bool {
    Filters::parse(filters).unwrap().matches(&snapshot())
}

#[test]
fn nothing_asked_is_everything() {
    assert!(matches(&[]) && matches(&[""]));
}

#[test]
fn one_selector_looks_at_one_field() {
    for yes in [
        "name==default/3/sha256:ab",
        "kind==committed",
        "parent==\"default/2/p q\"",
        "labels.foo==bar",
        "labels.foo",
        "labels.empty",
        "labels.none!=x",
        "labels.foo!=x",
        r#"labels."a/b.c"=="one, two""#,
        r#"labels."a/b.c"~="^one""#,
        "labels.foo~=/^b.r$/",
        "labels.foo~=|^ba|",
        r"name~=/default\/3/",
        r"name~=/default.\\d.sha/",
        "labels.none~=^$",
        "labels.none!=bar",
        "kind.of.it==committed",
        "name.x",
        "unknown!=x",
        " kind == committed",
    ] {
        assert!(matches(&[yes]), "{yes}");
    }
    for no in [
        "kind==active",
        "labels.none",
        "labels.foo==ba",
        "unknown",
        "unknown==x",
        "labels.foo~=^ar",
        "labels.none~=x",
        "labels.none!=\"\"",
        "labels.none==\"\"",
        "labels",
    ] {
        assert!(!matches(&[no]), "{no}");
    }
}

#[test]
fn commas_are_and_and_filters_are_or() {
    assert!(matches(&["kind==committed,labels.foo==bar"]));
    assert!(!matches(&["kind==committed,labels.foo==baz"]));
    assert!(matches(&["kind==active", "labels.foo==bar"]));
}

#[test]
fn escapes_are_those_of_go() {
    assert!(matches(&[r#"labels."\x66oo"=="\142\u0061r""#]));
    assert!(matches(&[r"labels.foo~=/\x62\141r/"]) && matches(&[r"labels.foo~=|ba\||"]));
    for wrong in [
        r#"name=="\/""#,
        r"name~=/\d/",
        r#"name~=/\"/"#,
        r#"name~="\|""#,
        r#"name=="\q""#,
        r#"name=="\xZZ""#,
        r#"name=="\777""#,
        r#"name=="\uD800""#,
    ] {
        assert!(Filters::parse(&[wrong]).is_err(), "{wrong}");
    }
}

#[test]
fn nonsense_is_refused_with_its_place() {
    let long = "a".repeat(FILTER_BYTES_MAX + 1);
    for wrong in [
        "==x",
        "name=",
        "name===x",
        "name==",
        "name==x,",
        ",",
        "name x",
        "name==\"x",
        "name~=(",
        "na\0me",
        "name==\"\0\"",
        "name==\u{fffd}",
        "labels.a-b==x",
        "labels.",
        "labels.|foo|==bar",
        "labels.ns/key==value",
        "labels.key==/value",
        "name~=,kind==active",
        "name==/x/",
        &long,
    ] {
        assert!(matches!(Filters::parse(&[wrong]), Err(SnapshotError::Invalid(_))), "{wrong}");
    }
    let text = Filters::parse(&["kind==active,?"]).unwrap_err().to_string();
    assert!(text.contains("kind==active, >|< ?"), "{text}");
}

#[test]
fn an_expression_that_would_grow_without_end_is_refused() {
    assert!(Filters::parse(&[r"name~=(\w{1000}){1000}"]).is_err());
}

#[test]
fn a_chain_that_is_asked_for_is_told() {
    let asked = |filters: &[&str]| Filters::parse(filters).unwrap().chains().map(|chains| chains.join(" "));
    let containerd = r#"labels."containerd.io/snapshot.ref"==sha256:aa,parent=="default/2/p q""#;
    assert_eq!(asked(&[containerd]).as_deref(), Some("sha256:aa"));
    assert!(matches(&[containerd]));
    assert_eq!(asked(&[containerd, "kind==active"]), None);
    assert_eq!(asked(&[]), None);
    assert_eq!(asked(&[""]), None);
}

/// As containerd's own tests have it, with `parent` for a field of theirs.
#[test]
fn a_shelf_of_snapshots_is_searched_as_containerd_does() {
    let complex = r#"more complex label with \ and ""#;
    type Labelled<'a> = &'a [(&'a str, &'a str)];
    let shelf: [(&str, &str, Labelled<'_>); 9] = [
        ("foo", "", &[("foo", "true")]),
        ("bar", "", &[]),
        ("foo", "", &[("foo", "present"), ("more complex label", "present")]),
        ("bar", "", &[("bar", "true")]),
        ("fooer", "", &[(complex, "present")]),
        ("fooer", "", &[(r#"more complex label with \ and ".post"#, "present")]),
        ("baz", "too complex, yo", &[]),
        ("bazo", "abc", &[]),
        ("compound", "", &[("foo", "omg_asdf.asdf-qwer")]),
    ];
    let shelf = shelf.map(|(name, parent, labels)| Snapshot {
        name: name.into(),
        parent: (!parent.is_empty()).then(|| parent.into()),
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..snapshot()
    });
    let table: &[(&str, &[usize])] = &[
        ("", &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("name", &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("labels.foo", &[0, 2, 8]),
        ("labels.foo,name", &[0, 2, 8]),
        ("labels.foo==true", &[0]),
        ("labels.foo==omg_asdf.asdf-qwer", &[8]),
        ("name==bar", &[1, 3]),
        ("name!=bar", &[0, 2, 4, 5, 6, 7, 8]),
        ("name==bar,labels.bar", &[3]),
        ("parent==\"too complex, yo\"", &[6]),
        ("parent~=[abc]+,name!=foo", &[6, 7]),
        ("parent~=/[abc]+/,name!=foo", &[6, 7]),
        ("parent~=/[abc]{1,2}/,name!=foo", &[6, 7]),
        (r#"parent~=/[abc]{0,1}"\//,name!=foo"#, &[]),
        ("name==bar,labels.bar==true", &[3]),
        ("name==bar,labels.bar==wrong", &[]),
        (r#"name==foo,labels."more complex label""#, &[2]),
        (r#"labels."more complex label with \\ and \""==present"#, &[4]),
        (r#"labels."more complex label with \\ and \"".post==present"#, &[5]),
    ];
    for (filter, want) in table {
        let filters = Filters::parse(&[filter]).unwrap_or_else(|error| panic!("{filter}: {error}"));
        let found: Vec<usize> = (0..shelf.len()).filter(|&at| filters.matches(&shelf[at])).collect();
        assert_eq!(found, *want, "{filter}");
    }
}
