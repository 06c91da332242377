//! Tests of the whole, driven from outside: the binary, its sockets, its files, and the shape of the repository.

mod cluster;
mod edges;
mod kubectl;
mod poll;
mod program;
mod rules;
