//! Many callers at once.

use tonic::Code;

use super::served::{Served, code};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_want_the_same_key_one_has_it() {
    let served = Served::start().await;
    let asking: Vec<_> = (0..32)
        .map(|_| {
            let client = served.client.clone();
            tokio::spawn(async move { client.prepare("key", "", &[]).await.map_err(|status| status.code()) })
        })
        .collect();
    let mut answers = Vec::new();
    for asked in asking {
        answers.push(asked.await.unwrap());
    }
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let others = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(others.into_iter().all(|code| *code == Code::AlreadyExists));
    served.has_directories(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_parent_is_never_removed_under_a_child() {
    let served = Served::start().await;
    for round in 0..20 {
        let base = format!("base {round}");
        served.client.committed(&base, "").await;
        let (removing, preparing) = (served.client.clone(), served.client.clone());
        let (parent, key) = (base.clone(), format!("key {round}"));
        let removing = tokio::spawn(async move { removing.remove(&parent).await });
        let (parent, child) = (base.clone(), key.clone());
        let preparing = tokio::spawn(async move { preparing.prepare(&child, &parent, &[]).await });
        match (removing.await.unwrap(), preparing.await.unwrap()) {
            (Ok(()), Err(refused)) => assert_eq!(refused.code(), Code::NotFound),
            (Err(refused), Ok(_)) => {
                assert_eq!(refused.code(), Code::FailedPrecondition);
                assert_eq!(served.client.stat(&key).await.unwrap().parent, base);
            }
            both => panic!("{both:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whole_lives_side_by_side_leave_nothing() {
    let served = Served::start().await;
    let living: Vec<_> = (0..8)
        .map(|number| {
            let client = served.client.clone();
            tokio::spawn(async move {
                for round in 0..10 {
                    let name = format!("{number}.{round}");
                    client.committed(&name, "").await;
                    let key = format!("over {name}");
                    client.prepare(&key, &name, &[]).await.unwrap();
                    assert_eq!(code(client.remove(&name).await), Code::FailedPrecondition);
                    client.update(&key, &[("round", "1")], &["labels.round"]).await.unwrap();
                    assert_eq!(client.names(&[&format!("parent==\"{name}\"")]).await, std::slice::from_ref(&key));
                    client.usage(&key).await.unwrap();
                    client.remove(&key).await.unwrap();
                    client.remove(&name).await.unwrap();
                }
            })
        })
        .collect();
    for lived in living {
        lived.await.unwrap();
    }
    assert_eq!(served.snapshots.count(), 0);
    served.has_directories(0).await;
    let served = served.restart().await;
    assert_eq!(served.snapshots.count(), 0);
}
