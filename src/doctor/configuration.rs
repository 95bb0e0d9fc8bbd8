//! oncefs's own configuration.

use futures::future::{BoxFuture, FutureExt as _};

use super::{Machine, Report};
use crate::daemon;

pub(super) fn look<'a>(machine: &'a Machine, report: &'a mut Report) -> BoxFuture<'a, ()> {
    async move {
        let change =
            "mend it; `oncefs config check` looks at it again, and docs/config.toml (man oncefs.toml) has every key";
        if let Some(wrong) = &machine.config_error {
            return report.problem(format!("the configuration cannot be used: {wrong}"), change);
        }
        match daemon::check_config(&machine.config) {
            Ok(()) => report.ok("the configuration can be used"),
            Err(failure) => report.problem(format!("the configuration cannot be used: {}", failure.message), change),
        }
    }
    .boxed()
}
