//! What the short tests do a hundred times, a thousand times; and the power cut on another file system too.

use sampan_tests::crash::disk::Disk;
use sampan_tests::crash::{Rounds, rounds};
use sampan_tests::needs::{Need, lacks};

#[test]
#[ignore = "long: a thousand rounds of kill -9"]
fn what_was_acknowledged_outlives_a_thousand_kills() {
    if lacks(&[Need::Tool("docker-registry")]) {
        return;
    }
    Rounds::prepare(None).run(rounds(1000));
}

#[test]
#[ignore = "long: hundreds of power cuts"]
fn what_was_acknowledged_outlives_hundreds_of_power_cuts() {
    if lacks(&[Need::Root, Need::Tool("docker-registry"), Need::Tool("mkfs.ext4"), Need::LoopDevice]) {
        return;
    }
    Rounds::prepare(Some(Disk::new("ext4"))).run(rounds(500));
    if !lacks(&[Need::Tool("mkfs.xfs")]) {
        Rounds::prepare(Some(Disk::new("xfs"))).run(rounds(200));
    }
}
