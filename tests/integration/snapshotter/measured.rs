//! What of the calls can be measured.

use oncefs::metrics::{Registry, encode};

use super::served::Served;

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_by_method_and_code_and_timed_by_method() {
    let served = Served::start().await;
    let mut registry = Registry::default();
    served.snapshots.metrics().register(&mut registry);
    let one = served.known.know("one").to_string();
    served.client.committed("base", "").await;
    for _ in 0..2 {
        let _is_served = served.client.prepare("key", "", &[("containerd.io/snapshot.ref", &one)]).await;
        let _is_not_there = served.client.stat("nobody").await;
    }
    let text = encode(&registry);
    for line in [
        r#"snapshotter_calls_total{method="Prepare",code="Ok"} 1"#,
        r#"snapshotter_calls_total{method="Prepare",code="AlreadyExists"} 2"#,
        r#"snapshotter_calls_total{method="Commit",code="Ok"} 1"#,
        r#"snapshotter_calls_total{method="Stat",code="NotFound"} 2"#,
        r#"snapshotter_call_seconds_count{method="Stat"} 2"#,
    ] {
        assert!(text.lines().any(|has| has == line), "{line} is not in\n{text}");
    }
}
