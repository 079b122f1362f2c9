//! The built binary, driven from outside. Each module is a topic, each test's name says what holds.
//!
//! The tests run side by side. A container's name comes from the harness, so that no two have the same; who looks at
//! the store as a whole has a fresh one.

#[cfg(test)]
mod attach;
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod build;
#[cfg(test)]
mod build_cache;
#[cfg(test)]
mod build_run;
#[cfg(test)]
mod check;
#[cfg(test)]
mod config;
#[cfg(test)]
mod containerd;
#[cfg(test)]
mod copy;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod cri;
#[cfg(test)]
mod cri_inside;
#[cfg(test)]
mod critest;
#[cfg(test)]
mod dense;
#[cfg(test)]
mod dockerfile;
#[cfg(test)]
mod egress;
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod escaped;
#[cfg(test)]
mod events;
#[cfg(test)]
mod exchange;
#[cfg(test)]
mod exec;
#[cfg(test)]
mod fences;
#[cfg(test)]
mod files;
#[cfg(test)]
mod health;
#[cfg(test)]
mod http_faults;
#[cfg(test)]
mod http_instances;
#[cfg(test)]
mod http_limits;
#[cfg(test)]
mod killed;
#[cfg(test)]
mod kubelet;
#[cfg(test)]
mod languages;
#[cfg(test)]
mod life;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod listeners;
#[cfg(test)]
mod listing;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod network;
#[cfg(test)]
mod nginx;
#[cfg(test)]
mod node;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod prune;
#[cfg(test)]
mod python;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod restart;
#[cfg(test)]
mod rootless;
#[cfg(test)]
mod run;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod services;
#[cfg(test)]
mod spawn;
#[cfg(test)]
mod stats;
#[cfg(test)]
mod store;
