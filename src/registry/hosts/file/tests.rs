//! What containerd's documentation says of `hosts.toml`, and what people's files look like.

use super::*;

fn parse(text: &str) -> HostFile {
    HostFile::parse(text, Path::new("/certs.d/registry.example")).unwrap()
}

fn urls(file: &HostFile) -> Vec<&str> {
    file.mirrors.iter().map(|mirror| mirror.url.as_str()).collect()
}

#[test]
fn mirrors_are_asked_in_the_order_of_the_file() {
    let file = parse(
        r#"
        server = "https://registry-1.docker.io"
        [host."https://z.example"]
        [host."http://10.0.0.5:30021"]
        capabilities = ["pull", "resolve"]
        [host."a.example:5000"]
        capabilities = ["push"]
        "#,
    );
    assert_eq!(urls(&file), ["https://z.example/v2/", "http://10.0.0.5:30021/v2/", "https://a.example:5000/v2/"]);
    assert_eq!(file.server.as_ref().unwrap().url.as_str(), "https://registry-1.docker.io/v2/");
    let may: Vec<_> = file.mirrors.iter().map(|mirror| mirror.manner.may.as_slice()).collect();
    let all: &[Need] = &[Need::Pull, Need::Resolve, Need::Push, Need::Referrers];
    assert_eq!(may, [all, &[Need::Pull, Need::Resolve], &[Need::Push]]);
}

#[test]
fn a_path_is_completed_unless_it_is_said_to_be_whole() {
    let file = parse(
        r#"
        [host."https://harbor.example/v2/proxy-cache"]
        override_path = true
        [host."https://harbor.example/proxy"]
        [host."https://other.example/v2/"]
        [host."https://last.example/"]
        override_path = true
        "#,
    );
    let want = [
        "https://harbor.example/v2/proxy-cache/",
        "https://harbor.example/proxy/v2/",
        "https://other.example/v2/",
        "https://last.example/",
    ];
    assert_eq!(urls(&file), want);
}

#[test]
fn certificates_come_in_all_forms_and_are_found_beside_the_file() {
    let at = |name: &str| Path::new("/certs.d/registry.example").join(name);
    let file = parse(
        r#"
        ca = "own.pem"
        [host."https://a"]
        ca = ["one.pem", "/etc/two.pem"]
        client = "both.pem"
        [host."https://b"]
        client = ["x.pem", "y.pem"]
        skip_verify = true
        [host."https://c"]
        client = [["c.crt", "c.key"], ["d.pem", ""]]
        dial_timeout = "1m1.5s"
        "#,
    );
    assert_eq!(file.of_server.tls.ca, [at("own.pem")]);
    let tls: Vec<&Tls> = file.mirrors.iter().map(|mirror| &*mirror.manner.tls).collect();
    assert_eq!(tls[0].ca, [at("one.pem"), "/etc/two.pem".into()]);
    assert_eq!(tls[0].client, [(at("both.pem"), None)]);
    assert_eq!((tls[1].client.len(), tls[1].skip_verify), (2, true));
    assert_eq!(tls[2].client, [(at("c.crt"), Some(at("c.key"))), (at("d.pem"), None)]);
    assert_eq!(tls[2].dial_timeout, Some(Duration::from_millis(61_500)));
}

#[test]
fn headers_are_sent_and_never_shown() {
    let file = parse("[host.\"https://a\".header]\nx-one = \"s3cret\"\nx-many = [\"a\", \"b\"]");
    let headers = &file.mirrors[0].manner.headers;
    assert_eq!(headers.get_all("x-many").iter().count(), 2);
    assert!(!format!("{file:?}").contains("s3cret"), "{file:?}");
    let wrong = HostFile::parse("[host.\"https://a\".header]\nx = \"s3cret\\n\"", Path::new("/")).unwrap_err();
    assert!(wrong.contains("header \"x\"") && !wrong.contains("s3cret"), "{wrong}");
}

#[test]
fn no_secret_of_a_file_is_in_what_is_said_against_it() {
    for text in [
        "[host.\"https://a\".header]\nauthorization = \"Basic s3cret\n",
        "[host.\"https://a\"]\nheader = \"Basic s3cret\"\n",
        "[host.\"https://user:s3cret@a\"]",
        "[host.\"user:s3cret@a:99999\"]",
        "[host.\"https://:s3cret@a\"]",
        "[host.\"https://a/?token=s3cret\"]",
        "server = \"https://user:s3cret@a\"",
        "server = [\"https://user:s3cret@a\"]",
    ] {
        let wrong = HostFile::parse(text, Path::new("/")).unwrap_err();
        assert!(!wrong.contains("s3cret"), "{text}: {wrong}");
    }
}

#[test]
fn what_is_not_known_is_passed_over_and_what_is_wrong_is_named() {
    assert_eq!(urls(&parse("new_key = 1\n[host.\"https://a\"]\nnewer = {x = 1}")), ["https://a/v2/"]);
    let cases = [
        ("[host.\"https://a\"]\ncapabilities = [\"pull\", \"resolv\"]", "unknown capability \"resolv\""),
        ("server = ", "line 1"),
        ("[host.\"https://\"]", "https://"),
        ("[host.\"https://user@a\"]", "HOST"),
        ("[host.\"https://a\"]\ndial_timeout = \"soon\"", "soon"),
        ("[host.\"https://a\"]\ndial_timeout = \"0s\"", "0s"),
        ("[host.\"https://a\"]\nclient = [[\"1\", \"2\", \"3\"]]", "pair"),
    ];
    for (text, want) in cases {
        let error = HostFile::parse(text, Path::new("/")).unwrap_err();
        assert!(error.contains(want), "{text:?}: {error}");
    }
}

#[test]
fn certificates_alone_say_how_the_upstream_is_spoken_to() {
    let file = HostFile::of_certificates(&["/d/ca.crt".into(), "/d/me.cert".into(), "/d/me.key".into()]);
    assert_eq!(file.of_server.tls.ca, [PathBuf::from("/d/ca.crt")]);
    assert_eq!(file.of_server.tls.client, [("/d/me.cert".into(), Some("/d/me.key".into()))]);
}
