//! Volumes and networks: each was made apart and moved to its place whole, so whatever is missing in one was lost.

use crate::check::{Finding, Report, names_in};
use crate::container::networks::{self, NetworkRecord};
use crate::container::volumes::Volume;
use crate::store::{Lock, Store, files};
use std::path::Path;

pub(super) fn check(store: &Store, report: &mut Report) {
    for name in names_in(&store.volumes()) {
        let dir = store.volumes().join(&name);
        report.counts.volumes += 1;
        let advice = format!("bring it back from a copy, or save what is in _data and remove {}", dir.display());
        let problem = match files::read_json::<Volume>(&dir.join("volume.json")) {
            Err(error) => error.to_string(),
            Ok(volume) if volume.name != name => format!("its record is that of the volume {}", volume.name),
            Ok(_) if !dir.join("_data").is_dir() => "its content is lost".to_owned(),
            Ok(_) => continue,
        };
        if dir.exists() {
            report.note(Finding::wrong(format!("volume {name}"), problem, &dir, advice));
        }
    }
    for name in names_in(&store.networks()) {
        check_network(store, &name, report);
    }
    overlaps(store, report);
}

fn check_network(store: &Store, name: &str, report: &mut Report) {
    let dir = store.networks().join(name);
    report.counts.networks += 1;
    let problem = match files::read_json::<NetworkRecord>(&dir.join("network.json")) {
        Err(error) => Some(error.to_string()),
        Ok(network) if network.name != name => Some(format!("its record is that of the network {}", network.name)),
        Ok(_) if !dir.join("addresses").is_dir() => Some("its addresses are lost".to_owned()),
        Ok(_) => None,
    };
    if let Some(problem) = problem.filter(|_| dir.exists()) {
        let advice = format!("bring it back from a copy, or remove {} and create it again", dir.display());
        return report.note(Finding::wrong(format!("network {name}"), problem, &dir, advice));
    }
    for address in names_in(&dir.join("addresses")) {
        let link = dir.join("addresses").join(&address);
        let gone = || std::fs::read_link(&link).is_ok_and(|id| !networks::is_there(store, &id.to_string_lossy()));
        if gone() {
            let finding = Finding::left(format!("the address {address}"), "its container is gone", &link);
            report.mend(finding, || -> Result<bool, crate::store::StoreError> {
                let _lock = Lock::wait(&dir.join("lock"))?;
                Ok(gone() && remove(&link))
            });
        }
    }
}

fn remove(link: &Path) -> bool {
    std::fs::remove_file(link).is_ok()
}

/// Two networks with the same addresses: nobody could tell whose container is meant.
fn overlaps(store: &Store, report: &mut Report) {
    let all = networks::list(store).unwrap_or_default();
    for (i, network) in all.iter().enumerate() {
        if let Some(other) = all.iter().skip(i + 1).find(|other| other.subnet.overlaps(network.subnet)) {
            let problem = format!("it has addresses of the network {}", other.name);
            let advice = "remove one of the two and create it again with another --subnet";
            let place = store.networks().join(&network.name);
            report.note(Finding::wrong(format!("network {}", network.name), problem, &place, advice));
        }
    }
}
