//! Errors as people read them.

use std::error::Error;

/// The error and its causes on one line. A cause that the text before it repeats already is left out.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| (*cause).source()) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the {0}")]
    struct Outer(&'static str, #[source] std::io::Error);

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let error = Outer("lid", std::io::Error::other("stuck"));
        assert_eq!(with_causes(&error), "cannot open the lid: stuck");
        let error = Outer("lid: stuck", std::io::Error::other("stuck"));
        assert_eq!(with_causes(&error), "cannot open the lid: stuck");
    }
}
