//! A check of all that is here: the store's files, and whether containerd knows the same snapshots.

use super::Server;
use crate::control::{CheckCall, CheckSummary, ContainerdCall, Failure, FailureKind, SnapshotsSummary};
use crate::daemon::failure;
use crate::daemon::node::News;
use crate::snapshotter::Compared;

impl Server {
    pub(super) async fn check(&self, call: &CheckCall, news: &News) -> Result<CheckSummary, Failure> {
        // Soon done, and so first: who asks for what cannot be compared need not wait.
        let snapshots = match &call.containerd {
            None => None,
            Some(containerd) => Some(self.compare(containerd).await?),
        };
        Ok(CheckSummary { snapshots, ..self.node.check(call.repair, news).await? })
    }

    async fn compare(&self, with: &ContainerdCall) -> Result<SnapshotsSummary, Failure> {
        let Some(snapshots) = &self.snapshots else { return Err(nothing_to_compare()) };
        let compared = snapshots.compare(&with.socket, &with.snapshotter).await;
        let compared = compared.map_err(|error| failure::of_compare(&error))?;
        Ok(summary(&compared, with))
    }
}

/// containerd asks nobody here.
pub fn nothing_to_compare() -> Failure {
    let message =
        "there are no snapshots to compare with containerd's: oncefs serve does not run here; systemctl start oncefs";
    Failure::new(FailureKind::Usage, message)
}

/// One sentence for each snapshot that only one of both knows, with what to do.
fn summary(compared: &Compared, ContainerdCall { socket, snapshotter }: &ContainerdCall) -> SnapshotsSummary {
    // To be pasted into a shell, with names that anybody may have made.
    let (ctr, snapshotter) =
        (format!("ctr --address {} --namespace", word(&socket.to_string_lossy())), word(snapshotter));
    let lost = compared.lost.iter().map(|name| {
        let Named { namespace, key } = Named::of(name);
        format!(
            "snapshot {key:?} of the namespace {namespace:?} is lost: containerd has it, oncefs does not; remove the container or \
             image it belongs to and make or pull it again, or take it away alone: {ctr} {} snapshots --snapshotter \
             {snapshotter} rm {}",
            word(namespace),
            word(key)
        )
    });
    let left_over = compared.left_over.iter().enumerate().map(|(at, name)| {
        let told = format!(
            "snapshot {name:?} is left over: oncefs has it, containerd does not, and removes it when it next collects garbage of {snapshotter}"
        );
        if at + 1 < compared.left_over.len() {
            return told;
        }
        // It looks only at snapshotters of which something was removed since the last time, and a lease's end has it look.
        let of = format!("{ctr} {}", word(Named::of(name).namespace));
        let snapshots = format!("{of} snapshots --snapshotter {snapshotter}");
        format!(
            "{told}; to have it do that now: {snapshots} prepare oncefs-check && {snapshots} rm oncefs-check && {of} leases create \
             --id oncefs-check && {of} leases rm --sync oncefs-check"
        )
    });
    SnapshotsSummary { common: compared.common as u64, lost: lost.collect(), left_over: left_over.collect() }
}

/// As a shell takes it for one word, whatever is in it (POSIX, Shell Command Language, 2.2.2).
fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What containerd calls a snapshot here: the namespace, a number, and the key that its clients know.
struct Named<'a> {
    namespace: &'a str,
    key: &'a str,
}

impl<'a> Named<'a> {
    /// A name that containerd did not make is its own key.
    fn of(name: &'a str) -> Self {
        let mut parts = name.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some(_number), Some(key)) => Self { namespace, key },
            _ => Self { namespace: "default", key: name },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_snapshot_that_one_of_both_does_not_know_is_a_sentence_with_what_to_do() {
        let call = ContainerdCall { socket: "/c.sock".into(), snapshotter: "once".to_owned() };
        let compared = Compared {
            common: 1,
            lost: vec!["k8s.io/7/extract-1 sha256:ab/c's $(reboot)".to_owned()],
            left_over: vec!["default/9/one".to_owned(), "strange".to_owned()],
        };
        let SnapshotsSummary { common: 1, lost, left_over } = summary(&compared, &call) else {
            panic!("another count")
        };
        let rm = r"ctr --address '/c.sock' --namespace 'k8s.io' snapshots --snapshotter 'once' rm 'extract-1 sha256:ab/c'\''s $(reboot)'";
        assert!(lost.len() == 1 && lost[0].contains("is lost") && lost[0].ends_with(rm), "{lost:?}");
        assert!(left_over.len() == 2 && left_over[0].contains(r#""default/9/one" is left over"#), "{left_over:?}");
        let collect = "ctr --address '/c.sock' --namespace 'default' leases rm --sync oncefs-check";
        assert!(!left_over[0].contains("ctr") && left_over[1].ends_with(collect), "{left_over:?}");
        let none = summary(&Compared { common: 3, ..Compared::default() }, &call);
        assert!(none.lost.is_empty() && none.left_over.is_empty());
    }
}
