//! Commands killed, and the power cut, at random moments: a hundred rounds; `make test-long` has more.

use sampan_tests::crash::disk::Disk;
use sampan_tests::crash::{Rounds, rounds};
use sampan_tests::needs::{Need, lacks};

#[test]
fn what_was_acknowledged_outlives_kills_at_random_moments() {
    if lacks(&[Need::Tool("docker-registry")]) {
        return;
    }
    Rounds::prepare(None).run(rounds(100));
}

#[test]
fn what_was_acknowledged_outlives_power_cuts() {
    if lacks(&[Need::Root, Need::Tool("docker-registry"), Need::Tool("mkfs.ext4"), Need::LoopDevice]) {
        return;
    }
    Rounds::prepare(Some(Disk::new("ext4"))).run(rounds(25));
}
