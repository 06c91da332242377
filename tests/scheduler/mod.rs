//! The scheduler as a process of its own: killed at random, and in the service of an API server that is not ours.

mod commands;
mod devices;
mod kills;
mod upstream;
mod volumes;
mod world;
