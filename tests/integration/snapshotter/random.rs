//! Random calls and restarts, each compared with the reference: the codes, and all that can be seen afterwards.

use proptest::prelude::*;
use tonic::{Code, Status};

use super::known::chain;
use super::reference::{CHAIN, Labels, Prepared, Reference};
use super::served::Served;

/// A snapshot, by what it may be called.
#[derive(Debug, Clone, Copy)]
enum Name {
    None,
    Nobody,
    Key(u8),
    Committed(u8),
    /// The first remote one of this chain.
    Remote(u8),
}

#[derive(Debug, Clone)]
enum Step {
    Prepare(Name, Name, Option<u8>, Option<u8>),
    View(Name, Name),
    Mounts(Name),
    Commit(Name, Name, Name, Option<u8>),
    Remove(Name),
    Update(Name, Option<u8>, Option<u8>, bool),
    Know(u8),
    Forget(u8),
    Restart,
}

struct World {
    served: Served,
    model: Reference,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (few, some) = (0..3u8, proptest::option::of(0..3u8));
    let key = prop_oneof![10 => (0..4u8).prop_map(Name::Key), 1 => few.clone().prop_map(Name::Committed)];
    let committed = prop_oneof![10 => (0..4u8).prop_map(Name::Committed), 1 => few.clone().prop_map(Name::Key)];
    let parent = prop_oneof![
        4 => Just(Name::None),
        6 => (0..4u8).prop_map(Name::Committed),
        6 => few.clone().prop_map(Name::Remote),
        1 => few.clone().prop_map(Name::Key),
        1 => Just(Name::Nobody),
    ];
    let step = prop_oneof![
        8 => (key.clone(), parent.clone(), some.clone(), some.clone())
            .prop_map(|(key, parent, chain, label)| Step::Prepare(key, parent, chain, label)),
        2 => (key.clone(), parent.clone()).prop_map(|(key, parent)| Step::View(key, parent)),
        2 => key.clone().prop_map(Step::Mounts),
        6 => (committed.clone(), key.clone(), parent.clone(), some.clone())
            .prop_map(|(name, key, parent, chain)| Step::Commit(name, key, parent, chain)),
        5 => prop_oneof![key.clone(), committed.clone(), parent].prop_map(Step::Remove),
        2 => (prop_oneof![key, committed], some.clone(), some, any::<bool>())
            .prop_map(|(name, chain, label, all)| Step::Update(name, chain, label, all)),
        3 => few.clone().prop_map(Step::Know),
        1 => few.prop_map(Step::Forget),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..50)
}

fn named(number: u8) -> String {
    format!("chain {number}")
}

fn labels(of: Option<u8>, label: Option<u8>) -> Labels {
    let of = of.map(|number| (CHAIN.to_owned(), chain(&named(number)).to_string()));
    of.into_iter().chain(label.map(|number| ("label".to_owned(), format!("value {number}")))).collect()
}

fn borrowed(labels: &Labels) -> Vec<(&str, &str)> {
    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn code<T>(answer: Result<T, Status>) -> Result<(), Code> {
    answer.map(drop).map_err(|status| status.code())
}

impl World {
    async fn new() -> Self {
        Self { served: Served::start().await, model: Reference::default() }
    }

    fn name(&self, name: Name) -> String {
        match name {
            Name::None => String::new(),
            Name::Nobody => "nobody".into(),
            Name::Key(number) => format!("key {number}"),
            Name::Committed(number) => format!("name/{number}"),
            Name::Remote(number) => {
                let is = |remote: Option<(_, bool)>| remote.is_some_and(|(of, _)| of == chain(&named(number)));
                let found = self.model.all.iter().find(|(_, entry)| is(entry.remote));
                found.map_or_else(|| "no such remote".into(), |(name, _)| name.clone())
            }
        }
    }

    async fn take(mut self, step: &Step) -> Self {
        let client = self.served.client.clone();
        match *step {
            Step::Prepare(key, parent, of, label) => self.prepare(key, parent, labels(of, label)).await,
            Step::View(key, parent) => {
                let (key, parent) = (self.name(key), self.name(parent));
                assert_eq!(code(client.view(&key, &parent).await), self.model.view(&key, &parent));
            }
            Step::Mounts(key) => {
                let key = self.name(key);
                assert_eq!(code(client.mounts(&key).await), self.model.mounts(&key));
            }
            Step::Commit(name, key, parent, of) => {
                let (name, key, parent) = (self.name(name), self.name(key), self.name(parent));
                let labels = labels(of, None);
                let answer = client.commit(&name, &key, &parent, &borrowed(&labels)).await;
                assert_eq!(code(answer), self.model.commit(&name, &key, &parent, labels));
            }
            Step::Remove(name) => {
                let name = self.name(name);
                assert_eq!(code(client.remove(&name).await), self.model.remove(&name));
            }
            Step::Update(name, of, label, all) => {
                let (name, labels) = (self.name(name), labels(of, label));
                let path = if all { "labels" } else { "labels.label" };
                let answer = client.update(&name, &borrowed(&labels), &[path]).await;
                let only = (!all).then_some("label");
                assert_eq!(code(answer), self.model.update(&name, &labels, only));
            }
            Step::Know(number) => {
                self.model.known.insert(self.served.known.know(&named(number)));
            }
            Step::Forget(number) => {
                self.served.known.forget(&named(number));
                self.model.known.remove(&chain(&named(number)));
            }
            Step::Restart => {
                drop(client);
                self.served = self.served.restart().await;
                self.model.restart();
            }
        }
        self
    }

    async fn prepare(&mut self, key: Name, parent: Name, labels: Labels) {
        let (key, parent) = (self.name(key), self.name(parent));
        let answer = code(self.served.client.prepare(&key, &parent, &borrowed(&labels)).await);
        match self.model.prepare(&key, &parent, labels.clone()) {
            Ok(Prepared::Mounts) => assert_eq!(answer, Ok(())),
            Ok(Prepared::Found) => assert_eq!(answer, Err(Code::AlreadyExists)),
            Err(code) => assert_eq!(answer, Err(code)),
            Ok(Prepared::Served(chain)) => {
                assert_eq!(answer, Err(Code::AlreadyExists));
                let filter = format!(r#"labels."{CHAIN}"=={chain},parent=="{parent}",kind==committed"#);
                let found = self.served.client.names(&[&filter]).await;
                let [name] = found.as_slice() else { panic!("{filter} finds {found:?}") };
                self.model.served(name, chain, &parent, labels);
            }
        }
    }

    /// Whether all that can be seen is what the reference has.
    async fn agrees(&self) {
        let infos = self.served.client.list(&[]).await.unwrap();
        for info in &infos {
            assert!(self.model.is(info), "{info:?} is not {:?}", self.model.all.get(&info.name));
        }
        assert_eq!(infos.len(), self.model.all.len());
        assert_eq!(self.served.known.claims(), self.model.claims());
        for number in 0..3 {
            let of = chain(&named(number)).to_string();
            let found = self.served.client.names(&[&format!(r#"labels."{CHAIN}"=={of}"#)]).await;
            let has = self.model.all.iter().filter(|(_, entry)| entry.labels.get(CHAIN) == Some(&of));
            assert_eq!(found, has.map(|(name, _)| name.clone()).collect::<Vec<_>>());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn snapshots_behave_like_a_map(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in &steps {
                world = world.take(step).await;
                world.agrees().await;
            }
            world = world.take(&Step::Restart).await;
            world.agrees().await;
            world.served.has_directories(world.model.local()).await;
        });
    }
}
