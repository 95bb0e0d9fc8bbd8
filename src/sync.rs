//! The primitives that concurrent code is built from: the real ones, or those of the model checker.
//!
//! Everything that shares state takes its `Mutex` and `spawn` from here (clippy.toml says so), so that
//! the feature `shuttle` can explore the interleavings of the very code that ships.

#[cfg(not(feature = "shuttle"))]
#[allow(clippy::disallowed_types, clippy::disallowed_methods)] // the one place where the real ones are named
mod chosen {
    use std::future::Future;

    pub use std::sync::atomic;
    pub use std::sync::{Arc, Condvar, Weak};

    /// A mutex whose poison is ignored: what it guards is kept valid at every step, so a panic elsewhere
    /// while it was held says nothing about the value, and one failed request must not fail all later ones.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(std::sync::Mutex<T>);

    pub type MutexGuard<'a, T> = std::sync::MutexGuard<'a, T>;

    impl<T> Mutex<T> {
        pub const fn new(value: T) -> Self {
            Self(std::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }

    /// Starts a task on the runtime of the caller.
    pub fn spawn<F>(work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(tokio::spawn(work));
    }
}

#[cfg(feature = "shuttle")]
mod chosen {
    use std::future::Future;

    pub use shuttle::sync::atomic;
    pub use shuttle::sync::{Arc, Condvar, Weak};

    #[derive(Debug, Default)]
    pub struct Mutex<T>(shuttle::sync::Mutex<T>);

    pub type MutexGuard<'a, T> = shuttle::sync::MutexGuard<'a, T>;

    impl<T> Mutex<T> {
        pub const fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }

    pub fn spawn<F>(work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(shuttle::future::spawn(work));
    }
}

pub use chosen::*;
