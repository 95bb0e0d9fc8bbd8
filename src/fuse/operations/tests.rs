//! What is true of every answer.

use super::*;

#[tokio::test]
async fn a_panic_ends_one_answer_and_not_its_thread() {
    let serving = Serving::new(
        Shelf::default(),
        &Options { root: Root::All, allow_other: true, owner: None, restrictions: Default::default() },
        Handle::current(),
    );
    serving.answering(Operation::Lookup, || panic!("a bug, on purpose"));
    serving.answering(Operation::Lseek, || {});
    let counts = serving.counts();
    assert_eq!([Operation::Lookup, Operation::Lseek, Operation::Other].map(|of| counts.of(of)), [1, 1, 0]);
    assert_eq!(counts.all(), 2);
}
