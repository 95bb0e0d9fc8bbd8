//! `oncefs trace`: what the page of a start shows, as a browser sees it.

use std::path::Path;
use std::process::Command;

use super::image::{Image, Layer, Tar};
use super::node::{Node, Ran, cat, run, sha256sum};
use super::registry::Registry;
use crate::index::made;
use crate::sources::made::{SMALL, converted};

/// What stands in the document when a browser has loaded the page and run its script.
fn seen_by_a_browser(node: &Node, page: &Path) -> String {
    let mut browser = Command::new("chromium");
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    browser.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    browser.arg(format!("--user-data-dir={}", node.path("browser").display()));
    browser.env("HOME", node.path("")).arg("--dump-dom").arg(format!("file://{}", page.display()));
    run(&mut browser).well().out
}

/// The rows of a table's body.
fn rows<'a>(document: &'a str, table: &str) -> Vec<&'a str> {
    let start = document.find(&format!("id=\"{table}\"")).unwrap_or_else(|| panic!("no table {table}: {document}"));
    let body = document[start..].split("</tbody>").next().unwrap();
    body.split("<tbody>").nth(1).unwrap().split("<tr").skip(1).collect()
}

fn trace(node: &Node, image: &str) -> Ran {
    node.oncefs(&["trace", "--output", node.path("start.html").to_str().unwrap(), image])
}

#[test]
fn the_page_has_a_row_for_each_first_read_and_each_request() {
    let (node, image) = (Node::new(), converted(&["--estargz"]));
    let registry = image.registry();
    trace(&node, &registry.image()).fails(4, &["not known here"]);
    let at = node.mount(&registry.image(), "mnt");
    trace(&node, &registry.image()).fails(4, &["no start of", "record_secs"]);
    cat(&at.join(SMALL.0));
    sha256sum(&at.join("usr/bin/program-3"));
    // While it is watched still, from the server; and when it was kept, from the disk.
    let said = trace(&node, &registry.image()).well().out;
    let live = seen_by_a_browser(&node, &node.path("start.html"));
    node.umount(&at).well();
    node.assert_at_rest();
    trace(&node, &registry.image()).well();
    let kept = seen_by_a_browser(&node, &node.path("start.html"));

    let json = node.oncefs(&["trace", "--json", &registry.image()]).well().out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let (touches, requests) = (json["touches"].as_array().unwrap(), json["requests"].as_array().unwrap());
    assert!(said.contains(&format!("{} first reads, {} requests", touches.len(), requests.len())), "{said}");
    assert!(
        !touches.is_empty() && touches.iter().all(|touch| touch["was_here"] == false && touch["request"].is_u64()),
        "{json}"
    );
    for document in [&live, &kept] {
        let read = rows(document, "rows");
        assert_eq!(read.len(), touches.len() + 1, "one for the layers, one for each first read");
        assert!(
            read[1].contains("/srv/</span><span class=\"base\">small</span>")
                && read[1].contains("waited")
                && read[1].contains("request 1"),
            "{}",
            read[1]
        );
        assert!(read[2..].iter().all(|row| row.contains(">program-3<")), "{read:?}");
        assert_eq!(rows(document, "asked").len(), requests.len());
        // Its own script has run.
        assert!(document.contains(&format!("{} shown", touches.len())), "{document}");
    }
    let bytes: u64 = requests.iter().map(|one| one["end"].as_u64().unwrap() - one["start"].as_u64().unwrap()).sum();
    let layers = (0..3).map(|layer| registry.count(image.layer_digest(layer)).bytes as u64).sum::<u64>();
    assert!(bytes > 0 && bytes < layers, "{bytes} of {layers}: the registry has also sent the indexes");
}

#[test]
fn a_name_that_is_html_is_shown_as_text() {
    let names = [
        "srv/<script>document.documentElement.dataset.owned=1</script>",
        "srv/\"><img src=x onerror=document.documentElement.dataset.owned=1>",
        "srv/' onmouseover=alert(1) x='&lt;b&gt;",
        "srv/\u{202e}lmth.exe",
    ];
    // A layer each, for a frame each.
    let layers = names.map(|name| Layer::gzip(&Tar::new().file(name, &made::program(9, 3000)).done()));
    let (node, image) = (Node::new(), Image::of(&layers));
    let registry = Registry::with(&image);
    let at = node.mount(&registry.image(), "mnt");
    names.iter().for_each(|name| drop(sha256sum(&at.join(name))));
    trace(&node, &registry.image()).well();
    let document = seen_by_a_browser(&node, &node.path("start.html"));
    assert!(document.contains("4 shown") && !document.contains("data-owned"), "{document}");
    assert!(document.contains("\\u{202e}lmth.exe") && !document.contains('\u{202e}'), "{document}");
    assert!(
        document.contains(
            "/srv/&lt;script&gt;document.documentElement.dataset.owned=1&lt;/</span><span class=\"base\">script&gt;"
        ),
        "{document}"
    );
    assert!(!document.contains("<img") && document.matches("<script").count() == 1, "{document}");
}
