//! Runtime handlers: what a pod's programs are granted that its spec does not say.

use sampan_runtime::config::{HandlerConfig, KubernetesConfig};
use sampan_runtime::grants::Egress;
use std::collections::{BTreeMap, HashMap};
use tonic::Status;

/// Every name, and every address: what the pod's namespace reaches is for the cluster's network to say.
const EVERYBODY: &str = "all,0.0.0.0/0,::/0";
/// A pod's own containers, over its loopback.
const ITSELF: &str = "127.0.0.0/8,::1/128";

/// Annotations of a pod that are ours begin so.
const OURS: &str = "dev.sampan.";
const ALLOW_NET: &str = "dev.sampan.allow-net";
const SPAWN: &str = "dev.sampan.spawn";

/// What the programs of a pod are granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handler {
    /// Whom they may call.
    pub egress: Egress,
    /// Whether they may start other programs of their image.
    pub spawn: bool,
}

/// The handlers of a node by their names. Pods that ask for none have the one without a name.
#[derive(Debug)]
pub(super) struct Handlers(BTreeMap<String, Handler>);

impl Handlers {
    /// Ours, and those of the configuration, which stand in the place of ours.
    pub fn new(config: &KubernetesConfig) -> Self {
        let rules = |text| Egress::parse(text).unwrap_or_default();
        let handler = |text| Handler { egress: rules(text), spawn: true };
        let ours = [("", EVERYBODY), ("sampan", EVERYBODY), ("sampan-strict", ITSELF)];
        let ours = ours.into_iter().map(|(name, text)| (name.to_owned(), handler(text)));
        let others = config.handlers.iter().map(|(name, HandlerConfig { allow_net, spawn })| {
            let mut egress = rules(ITSELF);
            egress.extend(allow_net.clone());
            (name.clone(), Handler { egress, spawn: *spawn })
        });
        Self(ours.chain(others).collect())
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// What the pods of a handler are granted, narrowed as their annotations say.
    ///
    /// # Errors
    /// When there is no such handler, or an annotation cannot be read, or would grant more than the handler does.
    pub fn of(&self, name: &str, annotations: &HashMap<String, String>) -> Result<Handler, Status> {
        let found = self.0.get(name).cloned();
        let mut handler = found.ok_or_else(|| {
            let known: Vec<String> = self.names().map(|name| format!("{name:?}")).collect();
            Status::not_found(format!("there is no runtime handler {name:?}: there are {}", known.join(", ")))
        })?;
        for (key, value) in annotations.iter().filter(|(key, _)| key.starts_with(OURS)) {
            let bad = |problem: String| Status::invalid_argument(format!("the pod's annotation {key}: {problem}"));
            match key.as_str() {
                ALLOW_NET => {
                    let wanted = Egress::parse(value).map_err(|e| bad(e.to_string()))?;
                    if let Some(rule) = wanted.beyond(&handler.egress) {
                        let granted = &handler.egress;
                        return Err(bad(format!(
                            "{rule} is more than the runtime handler {name:?} grants ({granted}); an annotation can \
                             only take away"
                        )));
                    }
                    handler.egress = Egress::parse(ITSELF).unwrap_or_default();
                    handler.egress.extend(wanted);
                }
                SPAWN => match value.as_str() {
                    "false" => handler.spawn = false,
                    "true" if handler.spawn => {}
                    "true" => return Err(bad(format!("the runtime handler {name:?} grants none"))),
                    other => return Err(bad(format!("true or false is wanted, and {other:?} was found"))),
                },
                _ => return Err(bad(format!("it means nothing; there are {ALLOW_NET} and {SPAWN}"))),
            }
        }
        Ok(handler)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handlers() -> Handlers {
        let databases = HandlerConfig { allow_net: Egress::parse("10.2.0.0/16:5432").unwrap(), spawn: false };
        let handlers = [("databases".to_owned(), databases)].into();
        Handlers::new(&KubernetesConfig { handlers, ..KubernetesConfig::default() })
    }

    fn of(name: &str, annotations: &[(&str, &str)]) -> Result<Handler, Status> {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        handlers().of(name, &annotations)
    }

    #[test]
    fn a_handler_of_the_configuration_grants_what_it_says_and_the_pod_itself() {
        let handler = of("databases", &[("example.com/other", "x")]).unwrap();
        assert_eq!(handler.egress.to_string(), "127.0.0.0/8,::1,10.2.0.0/16:5432");
        assert!(!handler.spawn && of("", &[]).unwrap().spawn);
        let refused = of("gvisor", &[]).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::NotFound);
        for name in ["gvisor", "\"\"", "databases", "sampan-strict"] {
            assert!(refused.message().contains(name), "{refused}");
        }
    }

    #[test]
    fn annotations_narrow_and_never_widen() {
        let narrowed = of("sampan", &[(ALLOW_NET, "db.example.com:5432,10.0.0.0/8"), (SPAWN, "false")]).unwrap();
        assert_eq!(narrowed.egress.to_string(), "127.0.0.0/8,::1,db.example.com:5432,10.0.0.0/8");
        assert!(!narrowed.spawn);
        assert_eq!(of("sampan", &[(ALLOW_NET, "")]).unwrap().egress, of("sampan-strict", &[]).unwrap().egress);
        for (name, key, value, words) in [
            ("sampan-strict", ALLOW_NET, "a.com", "a.com is more than the runtime handler \"sampan-strict\" grants"),
            ("databases", ALLOW_NET, "10.2.0.0/16", "only take away"),
            ("databases", SPAWN, "true", "grants none"),
            ("sampan", SPAWN, "yes", "true or false"),
            ("sampan", ALLOW_NET, "https://a.com", "no protocol"),
            ("sampan", "dev.sampan.allow_net", "a.com", "it means nothing"),
        ] {
            let refused = of(name, &[(key, value)]).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(words) && refused.message().contains(key), "{refused}");
        }
    }
}
