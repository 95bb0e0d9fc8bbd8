//! What names mean, and what is said of those that mean nothing.

use super::*;
use proptest::prelude::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(text: &str) -> Result<Reference, ReferenceError> {
    text.parse()
}

#[test]
fn short_names_mean_what_they_mean_to_docker() {
    let cases = [
        ("redis", "docker.io/library/redis:latest"),
        ("redis:7", "docker.io/library/redis:7"),
        ("org/app", "docker.io/org/app:latest"),
        ("docker.io/redis", "docker.io/library/redis:latest"),
        ("index.docker.io/library/redis:7", "docker.io/library/redis:7"),
        ("docker://quay.io/org/app:v1", "quay.io/org/app:v1"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("127.0.0.1:5000/images/tiny", "127.0.0.1:5000/images/tiny:latest"),
        ("[::1]:5000/tiny:x", "[::1]:5000/tiny:x"),
        ("Registry.Example.COM/a/b-c__d.e/f", "registry.example.com/a/b-c__d.e/f:latest"),
        ("host:443/app--x:V1.0_a-b", "host:443/app--x:V1.0_a-b"),
        ("oci:/tmp/layout", "oci:/tmp/layout"),
        ("oci:dir:docker.io/library/redis:7", "oci:dir:docker.io/library/redis:7"),
        ("oci-archive:a.tar:latest", "oci-archive:a.tar:latest"),
    ];
    for (text, full) in cases {
        assert_eq!(parse(text).map(|reference| reference.to_string()), Ok(full.to_owned()), "{text}");
    }
}

#[test]
fn a_digest_needs_no_tag_and_goes_with_one() {
    let by_digest = parse(&format!("redis@sha256:{HEX}")).unwrap();
    assert_eq!(by_digest.to_string(), format!("docker.io/library/redis@sha256:{HEX}"));
    let both = parse(&format!("h:1/r:7@sha256:{HEX}")).unwrap();
    let Reference::Remote(both) = both else { panic!("{both} is remote") };
    assert_eq!((both.tag.unwrap().as_str(), both.digest.unwrap()), ("7", Digest::of(b"")));
}

#[test]
fn each_mistake_has_its_own_reason() {
    use ReferenceError::*;
    let digest = |text: &str, source| Digest { text: text.to_owned(), source };
    let part = |part: &str| Part { part: part.to_owned() };
    let long = format!("h.example/{}", "a".repeat(246));
    let cases = [
        ("", Empty),
        (":7", Empty),
        ("-h.example/app", Host("-h.example".into())),
        ("h..example/app", Host("h..example".into())),
        ("[::1/app", Host("[::1".into())),
        ("[::1]5000/app", Host("[::1]5000".into())),
        ("host:/app", Port("".into())),
        ("host:0/app", Port("0".into())),
        ("host:65536/app", Port("65536".into())),
        ("host:+1/app", Port("+1".into())),
        ("quay.io/", NoRepository("quay.io".into())),
        ("quay.io/Org/app", Capitals("Org/app".into())),
        ("REDIS", Capitals("library/REDIS".into())),
        ("quay.io/a//b", part("")),
        ("quay.io/a/", part("")),
        ("quay.io/../etc", part("..")),
        ("a___b", part("a___b")),
        ("a..b", part("a..b")),
        ("_a", part("_a")),
        ("a b", part("a b")),
        ("a\u{e9}", part("a\u{e9}")),
        (&long, Long(256)),
        ("redis:", Tag("".into())),
        ("redis:.x", Tag(".x".into())),
        ("redis:a:b", Tag("a:b".into())),
        ("me:s3cret@h.example/app", Login),
        ("me:s3@cr/et@h.example/app", Login),
        ("redis@", digest("", ParseDigestError::NoAlgorithm)),
        ("redis@md5:00", digest("md5:00", ParseDigestError::Algorithm("md5".into()))),
        ("redis@sha256:00", digest("sha256:00", ParseDigestError::Hex)),
        (HEX, Id(HEX.into())),
        ("/srv/layout", Path("/srv/layout".into())),
        ("./layout:1", Path("./layout:1".into())),
        ("http://h.example/app", Scheme("http://".into())),
        ("docker-archive:/srv/app.tar", Scheme("docker-archive:".into())),
        ("docker-archive:app.tar", Scheme("docker-archive:".into())),
        ("oci:", NoPath("oci:")),
        ("oci-archive::tag", NoPath("oci-archive:")),
        ("oci:dir:", Tag("".into())),
    ];
    for (text, reason) in cases {
        assert_eq!(parse(text), Err(reason), "{text}");
    }
}

#[test]
fn a_relative_path_starts_where_the_user_stood() {
    let absolute = |text: &str, base: &str| parse(text).unwrap().absolute(Path::new(base)).map(|r| r.to_string());
    assert_eq!(absolute("oci:./a/./b:t", "/home/u"), Ok("oci:/home/u/a/b:t".into()));
    assert_eq!(absolute("oci-archive:/x.tar", "/home/u"), Ok("oci-archive:/x.tar".into()));
    assert_eq!(absolute("redis:7", "/home/u"), Ok("docker.io/library/redis:7".into()));
    assert_eq!(absolute("oci:b", "/a:1"), Err(ReferenceError::ColonInPath("/a:1/b".into())));
}

fn name() -> impl Strategy<Value = String> {
    let part = "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}";
    // Without a host the first part has no dot, or it would be taken for one.
    let first = "[a-z0-9]{1,8}\\.[a-z]{2,5}(:[1-9][0-9]{0,3})?/|([a-z0-9]{1,8}/)?";
    (first, proptest::collection::vec(part, 1..4), any::<bool>()).prop_map(|(first, parts, alone)| match &*first {
        "" if alone => "redis".to_owned(),
        "" => format!("org/{}", parts.join("/")),
        _ => first + &parts.join("/"),
    })
}

proptest! {
    #[test]
    fn the_full_form_is_read_as_it_is_written(name in name(), tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?", with: bool) {
        let text = format!("{name}{tag}{}", if with { format!("@sha256:{HEX}") } else { String::new() });
        let once = parse(&text).unwrap();
        prop_assert_eq!(parse(&once.to_string()).unwrap(), once);
    }

    #[test]
    fn no_text_makes_it_panic_and_whatever_is_taken_round_trips(text in "\\PC{0,40}|[a-z:/@.\\[\\]A-Z0-9_-]{0,40}") {
        if let Ok(reference) = parse(&text) {
            prop_assert_eq!(parse(&reference.to_string()).unwrap(), reference);
        }
    }
}
