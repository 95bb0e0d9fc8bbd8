//! A real registry behind a proxy that spoils what it passes on: what mounted images' readers see of it, and what it costs.

mod ending;
mod lasting;
mod logins;
mod names;
mod places;
mod proxy;
mod scanning;
mod stage;
mod trust;
