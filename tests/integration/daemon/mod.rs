//! The server as a service: how it starts and ends, what it tells the service manager, what it does when it is asked to read its
//! configuration again, and what it shows to those who watch.

mod access;
mod activation;
pub(crate) mod ailing;
mod ending;
mod hostile;
mod reloading;
pub(crate) mod stage;
mod starting;
mod units;
mod watching;
