//! End-to-end tests: the real program, started as a user starts it, and other people's tools as judges. Every
//! test's name is a sentence that the program has promised. Nothing here looks inside the program.

#[cfg(test)]
mod access_log;
#[cfg(test)]
mod accounts;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod auth;
#[cfg(test)]
mod backpressure;
#[cfg(test)]
mod chains;
#[cfg(test)]
mod check;
#[cfg(test)]
mod collections;
#[cfg(test)]
mod configuration;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod control;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod determinism;
#[cfg(test)]
mod disks;
#[cfg(test)]
mod edge_limits;
#[cfg(test)]
mod events;
#[cfg(test)]
mod filter;
#[cfg(test)]
mod full_disks;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod idempotency;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod objects;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod origins;
#[cfg(test)]
mod preconditions;
#[cfg(test)]
mod ranges;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod replacing;
#[cfg(test)]
mod repositories;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod revoking;
#[cfg(test)]
mod rooms;
#[cfg(test)]
mod rpc;
#[cfg(test)]
mod serving;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod stopping;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tasks;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod uploads;
#[cfg(test)]
mod users;
#[cfg(test)]
mod vhd_legal;
#[cfg(test)]
mod vhd_refused;
#[cfg(test)]
mod vms;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod xva;
