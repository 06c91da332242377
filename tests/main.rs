//! Tests of the whole, driven from outside: the binary, its sockets, its files, and the shape of the repository.

mod audit;
mod backup;
mod bench;
mod clients;
mod cluster;
mod crash;
mod dev;
mod edges;
mod etcd;
mod etcdctl;
mod faults;
mod group;
mod input;
mod kubectl;
mod members;
mod network;
mod poll;
mod program;
mod rules;
mod scheduler;
mod server;
mod store;
