//! What the host process of a sandbox needs sockets for: the kernel denies it every other, whatever becomes of the guest.

use super::{Grants, Network};
use serde::{Deserialize, Serialize};

/// Which sockets a host process may open, once it has those for its granted ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sockets {
    /// None.
    None,
    /// Connections of TCP to these ports, and nothing else.
    Tcp(Vec<u16>),
    /// Any: the words say what for.
    Any(String),
}

impl Sockets {
    /// What a guest with these grants and imports can need. One that imports `wasi:sockets` can talk to itself, whatever it
    /// was granted, and at ports that nobody knows before; one that can only send HTTP requests needs the ports that it may
    /// send them to.
    #[must_use]
    pub fn needed(grants: &Grants, imports: &[String]) -> Self {
        let imports = |family: &str| imports.iter().any(|import| import.starts_with(family));
        if imports("wasi:sockets/") {
            return Self::Any("the program imports wasi:sockets".to_owned());
        }
        if grants.spawn {
            return Self::Any("it may start programs that import wasi:sockets".to_owned());
        }
        if !imports("wasi:http/") || grants.network == Network::None {
            return Self::None;
        }
        if grants.member.is_some() {
            return Self::Any("it may send requests to others on its network".to_owned());
        }
        let ports: Option<Vec<u16>> = grants.egress.rules().iter().map(|rule| rule.port).collect();
        match ports {
            Some(ports) if ports.is_empty() => Self::None,
            Some(ports) => Self::Tcp(ports),
            None => Self::Any("a rule of its egress has no port".to_owned()),
        }
    }

    /// Whether those that may open these sockets may open the others.
    #[must_use]
    pub fn include(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any(_), _) | (_, Self::None) => true,
            (Self::Tcp(ports), Self::Tcp(others)) => others.iter().all(|port| ports.contains(port)),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::Egress;

    fn needed(rules: &str, imports: &[&str]) -> Sockets {
        let grants = Grants { egress: Egress::parse(rules).unwrap(), ..super::super::tests::full() };
        let grants = Grants { spawn: false, member: None, network: Network::Default, ..grants };
        Sockets::needed(&grants, &imports.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn sockets_are_for_those_who_can_ask_for_them() {
        let http = "wasi:http/outgoing-handler@0.2.6";
        assert_eq!(needed("all", &["wasi_snapshot_preview1.fd_write"]), Sockets::None);
        assert_eq!(needed("", &[http]), Sockets::None);
        assert_eq!(needed("a.test:443,b.test:80", &[http]), Sockets::Tcp(vec![443, 80]));
        assert!(matches!(needed("a.test", &[http]), Sockets::Any(_)));
        assert!(matches!(needed("", &[http, "wasi:sockets/tcp@0.2.6"]), Sockets::Any(_)));
    }

    #[test]
    fn one_may_join_those_who_have_as_much() {
        let (none, some, any) = (Sockets::None, Sockets::Tcp(vec![80, 443]), Sockets::Any(String::new()));
        assert!(any.include(&some) && some.include(&none) && some.include(&Sockets::Tcp(vec![443])));
        assert!(!none.include(&some) && !some.include(&any) && !some.include(&Sockets::Tcp(vec![8080])));
    }
}
