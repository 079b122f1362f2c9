//! Whom a container may call, and who says so: whoever makes it, its network, and the configuration.

use super::networks::NetworkRecord;
use super::record::{Given, Giver, Record};
use crate::config::Config;

/// Adds to a container's own rules those of the network that it joins and of the configuration, which an internal
/// network keeps away, and writes down where each comes from.
pub(super) fn gather(record: &mut Record, network: Option<&NetworkRecord>, config: &Config) {
    let own = std::mem::take(&mut record.egress);
    let mut all = vec![Given { by: Giver::Settings, rules: own }];
    if let Some(network) = network {
        all.push(Given { by: Giver::Network(network.name.clone()), rules: network.egress.clone() });
    }
    if let Some(file) = &config.file
        && !network.is_some_and(|network| network.internal)
    {
        all.push(Given { by: Giver::File(file.clone()), rules: config.egress(record.network) });
    }
    all.retain(|given| !given.rules.is_empty());
    for given in &all {
        record.egress.extend(given.rules.clone());
    }
    record.egress_from = all;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetworkConfig;
    use crate::container::{Settings, create, networks};
    use crate::grants::{Egress, Network};
    use crate::store::Store;
    use crate::store::files::tests::temp_dir;

    fn rules(text: &str) -> Egress {
        Egress::parse(text).unwrap()
    }

    #[test]
    fn rules_add_up_and_an_internal_network_keeps_the_configuration_away() {
        let dir = temp_dir();
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        let wish = |name: &str, egress: &str, internal| {
            let wish = networks::Wish { name: name.into(), egress: rules(egress), internal, ..Default::default() };
            networks::create(&store, wish).unwrap()
        };
        let (open, closed) = (wish("open", "net.test", false), wish("closed", "", true));
        let made = create(&store, Settings { command: vec!["/a.wasm".into()], ..Settings::default() }, None).unwrap();
        let config = Config {
            file: Some("/c.toml".into()),
            network: NetworkConfig { allow_net: rules("own.test,file.test") },
            ..Config::default()
        };
        let gathered = |network, kind, config: &Config| {
            let mut record = made.record.clone();
            (record.egress, record.network) = (rules("own.test"), kind);
            gather(&mut record, network, config);
            let from: Vec<Giver> = record.egress_from.into_iter().map(|given| given.by).collect();
            (record.egress.to_string(), from)
        };
        let file = || Giver::File("/c.toml".into());
        let (all, from) = gathered(Some(&open), Network::Default, &config);
        assert_eq!(all, "own.test,net.test,file.test");
        assert_eq!(from, [Giver::Settings, Giver::Network("open".into()), file()]);
        let own = ("own.test".to_owned(), vec![Giver::Settings]);
        assert_eq!(gathered(Some(&closed), Network::Default, &config), own);
        assert_eq!(gathered(None, Network::None, &config), own);
        assert_eq!(gathered(None, Network::Host, &Config::default()), own);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
