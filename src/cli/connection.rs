//! Making a call: to the server that runs, to one that is started for it, or in this very process.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::Setting;
use super::progress::Shown;
use super::serve::keep_logins_from_view;
use crate::config::Flags;
use crate::control::{Answer, Call, ClientError, Event, Failure, FailureKind, Outcome, Wanted, one_name};
use crate::daemon::{self, Node, StartError};
use crate::errors::with_causes;

/// How often a call is made again whose server ended just when it came.
const CALLS_MAX: u32 = 20;

/// How long an ending server may take to leave its socket.
const CALL_AGAIN: Duration = Duration::from_millis(20);

/// How long a server that ends may have the store.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who is to do what a call says.
pub(super) enum Asked {
    /// The server has done it.
    Answered(Outcome),
    /// This process, with the store it has opened.
    Here(Node),
}

impl Setting {
    /// Makes the call to the server, which is started if there is none.
    pub(super) async fn call(&self, call: &Call, shown: &mut Shown) -> Result<Answer, Failure> {
        let answer = self.call_again_and_again(call, shown).await?;
        if answer.server_ends {
            daemon::wait_until_gone(&self.config.run).await;
        }
        Ok(answer)
    }

    /// Until a server answers that does not end just then.
    async fn call_again_and_again(&self, call: &Call, shown: &mut Shown) -> Result<Answer, Failure> {
        let mut interrupt = std::pin::pin!(interrupted());
        let mut last = None;
        for attempt in 0..CALLS_MAX {
            let connecting = async {
                if attempt > 0 {
                    // On a busy machine it may take a while until the one that ends has left: ten seconds in all.
                    tokio::time::sleep(CALL_AGAIN * (1 << (attempt - 1).min(5))).await;
                }
                daemon::connect_or_start(&self.config, &self.flags).await
            };
            let connected = tokio::select! {
                connected = connecting => connected,
                () = &mut interrupt => return Err(of_client(&ClientError::Interrupted)),
            };
            let mut client = match connected {
                Err(StartError::Client(error)) if !matches!(error, ClientError::Closed { .. }) => {
                    last = Some(of_client(&error));
                    continue;
                }
                connected => connected.map_err(|error| of_start(&error))?.wanting(self.wanted()),
            };
            match client.call(call, &mut |news| shown.show(&news), &mut interrupt).await {
                Err(error @ ClientError::Gone(_)) => last = Some(of_client(&error)),
                answered => return answered.map_err(|error| of_client(&error))?,
            }
        }
        Err(last.unwrap_or_else(|| Failure::new(FailureKind::Other, "no server answers")))
    }

    /// Makes the call to the server; where none runs, opens the store for this process to do the same itself.
    pub(super) async fn ask(&self, call: &Call, shown: &mut Shown) -> Result<Asked, Failure> {
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(answered) = self.call_running(call, shown).await {
                return answered.map(Asked::Answered);
            }
            match self.node().await {
                Ok(node) => return Ok(Asked::Here(node)),
                // A server has started meanwhile, or one ends and takes its time.
                Err(failure)
                    if failure.kind == FailureKind::Store
                        && daemon::is_held(&self.config.run)
                        && Instant::now() < patience =>
                {
                    tokio::time::sleep(CALL_AGAIN).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Makes the call to the server if one runs.
    pub(super) async fn call_running(&self, call: &Call, shown: &mut Shown) -> Option<Result<Outcome, Failure>> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let mut client = match daemon::running(&self.config.run).await {
                Ok(running) => running?.wanting(self.wanted()),
                Err(error) => return Some(Err(of_client(&error))),
            };
            match client.call(call, &mut |news| shown.show(&news), interrupted()).await {
                // One that ends takes its socket away. Where that stays, somebody keeps it for the next server, which needs the store:
                // it must not be opened here.
                Err(ClientError::Gone(_)) if Instant::now() < patience => tokio::time::sleep(CALL_AGAIN).await,
                Err(error) => return Some(Err(of_client(&error))),
                Ok(answered) => return Some(answered.map(|answer| answer.outcome)),
            }
        }
    }

    /// What of the flags a server that runs has, or has not.
    fn wanted(&self) -> Wanted {
        let Flags { root, config, log, .. } = &self.flags;
        let root = root.as_ref().map(|_| one_name(&self.config.root));
        Wanted { root, config: config.as_deref().map(one_name), log: log.clone() }
    }

    /// The store, opened by this process.
    pub(super) async fn node(&self) -> Result<Node, Failure> {
        keep_logins_from_view();
        Node::open(&self.config).await
    }
}

/// Does the work and shows its news meanwhile; Ctrl-C drops it.
pub(super) async fn with_news<T, F>(
    shown: &mut Shown,
    work: impl FnOnce(mpsc::UnboundedSender<Event>) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let (news, mut told) = mpsc::unbounded_channel();
    let working = work(news);
    let showing = async {
        while let Some(event) = told.recv().await {
            shown.show(&event);
        }
        std::future::pending::<()>().await;
    };
    unless_interrupted(async {
        tokio::select! {
            done = working => done,
            () = showing => unreachable!("bug: it shows for ever"),
        }
    })
    .await
}

/// What SIGINT and SIGTERM do to a call: it is given up, and with it its claim on the work.
pub(super) async fn unless_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        () = interrupted() => Err(of_client(&ClientError::Interrupted)),
    }
}

/// Resolves at the first SIGINT or SIGTERM.
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn of_start(error: &StartError) -> Failure {
    match error {
        StartError::Failed(failure) => failure.clone(),
        StartError::Client(error) => of_client(error),
        StartError::Run { .. } => Failure::new(FailureKind::Usage, with_causes(error)),
        _ => Failure::new(FailureKind::Other, with_causes(error)),
    }
}

pub(super) fn of_client(error: &ClientError) -> Failure {
    let kind = if matches!(error, ClientError::Closed { .. }) { FailureKind::Denied } else { FailureKind::Other };
    Failure::new(kind, with_causes(error))
}

/// An answer that fits another call.
pub(super) fn unexpected(outcome: &Outcome) -> Failure {
    Failure::new(FailureKind::Other, format!("the server answered something else than was asked: {outcome:?}"))
}
