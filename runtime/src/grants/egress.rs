//! Egress: whom a guest may call beyond its own network, as `--allow-net` says it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A rule that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid network rule {given:?}: {reason}; wanted all, public, HOST, *.SUFFIX, ADDRESS or CIDR, each with [:PORT]"
)]
pub struct RuleError {
    /// What was given.
    pub given: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Whom one rule names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whom {
    /// Every name, and every address but those of this machine and of its link.
    All,
    /// The same without private addresses.
    Public,
    /// One name, in lower case.
    Host(String),
    /// Every name below this one, which begins with a dot.
    Below(String),
    /// Addresses: a network and the length of its prefix in bits.
    Net(IpAddr, u8),
}

/// One rule of egress: whom, and at which port (all when `None`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Rule {
    whom: Whom,
    pub(super) port: Option<u16>,
}

/// Whom a guest may call: what any of the rules says. Empty is nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Egress(Vec<Rule>);

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v6 = matches!(self.whom, Whom::Net(IpAddr::V6(_), _)) && self.port.is_some();
        f.write_str(if v6 { "[" } else { "" })?;
        match &self.whom {
            Whom::All => f.write_str("all")?,
            Whom::Public => f.write_str("public")?,
            Whom::Host(name) => f.write_str(name)?,
            Whom::Below(suffix) => write!(f, "*{suffix}")?,
            Whom::Net(ip, prefix) if *prefix == width(*ip) => write!(f, "{ip}")?,
            Whom::Net(ip, prefix) => write!(f, "{ip}/{prefix}")?,
        }
        f.write_str(if v6 { "]" } else { "" })?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;
    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl FromStr for Rule {
    type Err = RuleError;
    fn from_str(given: &str) -> Result<Self, RuleError> {
        let fail = |reason: &str| RuleError { given: given.to_owned(), reason: reason.to_owned() };
        if given.contains("://") {
            return Err(fail("a rule names a host and a port, and no protocol"));
        }
        // An IPv6 address is full of colons: it stands in brackets, or has no port.
        let (whom, port) = match given.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((whom, "")) => (whom, None),
                Some((whom, port)) => (whom, Some(port.strip_prefix(':').ok_or_else(|| fail("after ] comes :PORT"))?)),
                None => return Err(fail("the bracket is not closed")),
            },
            None if given.matches(':').count() > 1 => (given, None),
            None => given.split_once(':').map_or((given, None), |(whom, port)| (whom, Some(port))),
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(fail("a port is a number from 1 to 65535")),
        };
        Ok(Self { whom: parse_whom(whom).map_err(fail)?, port })
    }
}

fn parse_whom(text: &str) -> Result<Whom, &'static str> {
    if let Some((ip, prefix)) = text.split_once('/') {
        let ip: IpAddr = ip.parse().map_err(|_| "before the slash stands no address")?;
        let prefix: u8 = prefix.parse().map_err(|_| "after the slash stands no number")?;
        if prefix > width(ip) {
            return Err("the prefix is longer than the address");
        }
        if masked(ip, prefix) != ip {
            return Err("the address has bits beyond the prefix");
        }
        return Ok(Whom::Net(ip, prefix));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        let ip = ip.to_canonical();
        return Ok(Whom::Net(ip, width(ip)));
    }
    let (suffix, name) = match text.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, text),
    };
    let name = plain(name);
    let label = |label: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty() && label.len() <= 63 && label.chars().all(fits)
    };
    match name.as_str() {
        "all" if !suffix => Ok(Whom::All),
        "public" if !suffix => Ok(Whom::Public),
        _ if name.len() > 253 || !name.split('.').all(label) => Err("that is no host name"),
        _ if suffix => Ok(Whom::Below(format!(".{name}"))),
        _ => Ok(Whom::Host(name)),
    }
}

/// A host name as it is compared: in lower case, without the root's dot at its end.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

impl Rule {
    fn names(&self, name: &str) -> bool {
        match &self.whom {
            Whom::All | Whom::Public => true,
            Whom::Host(host) => host == name,
            Whom::Below(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
            Whom::Net(..) => false,
        }
    }

    /// Whether the rule names this address itself, without a name's help.
    fn covers(&self, ip: IpAddr) -> bool {
        match &self.whom {
            Whom::All => !is_own(ip),
            Whom::Public => !is_own(ip) && !is_private(ip),
            Whom::Host(_) | Whom::Below(_) => false,
            Whom::Net(net, prefix) => net.is_ipv4() == ip.is_ipv4() && masked(ip, *prefix) == *net,
        }
    }

    /// Whether an address that a name led to may be called: this machine and its link never, unless by address.
    fn takes(&self, ip: IpAddr) -> bool {
        match &self.whom {
            Whom::Public => !is_own(ip) && !is_private(ip),
            _ => !is_own(ip),
        }
    }

    /// Whether all that this rule grants is granted by another. Where that depends on what a name leads to, it is not.
    fn is_within(&self, outer: &Self) -> bool {
        let whom = match (&outer.whom, &self.whom) {
            (Whom::All, Whom::Net(net, prefix)) => *prefix == width(*net) && !is_own(*net),
            (Whom::All, _) | (Whom::Public, Whom::Public) => true,
            (Whom::Host(outer), Whom::Host(name)) => outer == name,
            (Whom::Below(suffix), Whom::Host(name) | Whom::Below(name)) => name.ends_with(suffix.as_str()),
            (Whom::Net(net, wide), Whom::Net(ip, prefix)) => {
                net.is_ipv4() == ip.is_ipv4() && wide <= prefix && masked(*ip, *wide) == *net
            }
            _ => false,
        };
        whom && (outer.port.is_none() || outer.port == self.port)
    }
}

impl Egress {
    /// The first of these rules that grants more than each of the others does.
    #[must_use]
    pub fn beyond(&self, outer: &Self) -> Option<&Rule> {
        self.0.iter().find(|rule| !outer.0.iter().any(|outer| rule.is_within(outer)))
    }

    /// Every name and address but this machine's own.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![Rule { whom: Whom::All, port: None }])
    }

    /// Every name and address that is no private one.
    #[must_use]
    pub fn public() -> Self {
        Self(vec![Rule { whom: Whom::Public, port: None }])
    }

    /// Reads rules that are separated by commas.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        text.split(',')
            .map(str::trim)
            .filter(|rule| !rule.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Adds other rules to these.
    pub fn extend(&mut self, others: Self) {
        others.0.into_iter().for_each(|rule| {
            if !self.0.contains(&rule) {
                self.0.push(rule);
            }
        });
    }

    /// The rules, in the order in which they were given.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// Whether nobody may be called.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a name may be looked up.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        let name = plain(name);
        self.0.iter().any(|rule| rule.names(&name))
    }

    /// The ports at which `ip` may be called, after `name` was looked up and led there.
    #[must_use]
    pub fn leads(&self, name: &str, ip: IpAddr) -> Option<Ports> {
        let (name, ip) = (plain(name), ip.to_canonical());
        let mut named = self.0.iter().filter(|rule| rule.names(&name) && rule.takes(ip)).peekable();
        named.peek()?;
        Some(named.map(|rule| rule.port).collect::<Option<Vec<u16>>>().map_or(Ports::All, Ports::These))
    }

    /// Whether an address may be called by itself, without a name that led there.
    #[must_use]
    pub fn covers(&self, ip: IpAddr, port: u16) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|rule| rule.port.is_none_or(|only| only == port) && rule.covers(ip))
    }

    /// The same for an address of which the port is not known yet.
    #[must_use]
    pub fn covers_any(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|rule| rule.covers(ip))
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(Rule::to_string).collect::<Vec<_>>().join(","))
    }
}

impl From<Vec<Rule>> for Egress {
    fn from(rules: Vec<Rule>) -> Self {
        Self(rules)
    }
}

/// Ports of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every one.
    All,
    /// These.
    These(Vec<u16>),
}

impl Ports {
    /// Whether this is one of them.
    #[must_use]
    pub fn has(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::These(ports) => ports.contains(&port),
        }
    }

    /// These and others.
    pub fn join(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::These(ports), Self::These(more)) => ports.extend(more),
            (ports, Self::All) => *ports = Self::All,
            (Self::All, _) => {}
        }
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn masked(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

/// This machine (loopback and the unspecified address, which Linux takes for it), its link (where clouds keep their
/// credentials), and whoever listens (multicast, broadcast): only a rule that names the address grants these.
fn is_own(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.octets()[0] == 0 || ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast()
        }
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast(),
    }
}

/// Private networks: RFC 1918, RFC 6598 (shared by providers) and RFC 4193.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn rules_are_read_and_written_as_they_were() {
        for rule in ["all", "public:443", "api.example.com", "*.example.com:443", "10.0.0.0/8:5432", "1.2.3.4:80"] {
            assert_eq!(rule.parse::<Rule>().unwrap().to_string(), rule);
        }
        for (rule, back) in
            [("[::1]:80", "[::1]:80"), ("::1", "::1"), ("fd00::/8", "fd00::/8"), ("[fd00::/8]:1", "[fd00::/8]:1")]
        {
            assert_eq!(rule.parse::<Rule>().unwrap().to_string(), back);
        }
        assert_eq!("API.Example.com.:1".parse::<Rule>().unwrap().to_string(), "api.example.com:1");
        for bad in [
            "",
            ":80",
            "a b",
            "https://a.com",
            "a.com:0",
            "a.com:x",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "[::1",
            "*.",
            "a..b",
            "*",
        ] {
            let error = bad.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains("wanted all"), "{error}");
        }
        assert_eq!(Egress::parse("a.com, b.com:1,").unwrap().to_string(), "a.com,b.com:1");
    }

    #[test]
    fn names_are_granted_as_they_are_written() {
        let egress = Egress::parse("api.example.com:443,*.svc.test").unwrap();
        assert!(egress.names("API.example.com") && egress.names("api.example.com.") && egress.names("a.b.svc.test"));
        assert!(!egress.names("example.com") && !egress.names("svc.test") && !egress.names("evilsvc.test"));
        assert_eq!(egress.leads("api.example.com", ip("1.2.3.4")), Some(Ports::These(vec![443])));
        assert_eq!(egress.leads("a.svc.test", ip("10.1.1.1")), Some(Ports::All));
        // An address that no name led to is not granted by a name's rule.
        assert!(!egress.covers(ip("1.2.3.4"), 443));
    }

    #[test]
    fn a_name_never_leads_to_this_machine_or_its_link() {
        for egress in ["all", "public", "rebind.test", "*.test"] {
            let egress = Egress::parse(egress).unwrap();
            for own in
                ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "::1", "::", "fe80::1", "::ffff:127.0.0.1"]
            {
                assert_eq!(egress.leads("rebind.test", ip(own)), None, "{egress} {own}");
                assert!(!egress.covers(ip(own), 80), "{egress} {own}");
            }
        }
        let by_address = Egress::parse("127.0.0.0/8:5432,::1").unwrap();
        assert!(by_address.covers(ip("127.0.0.1"), 5432) && !by_address.covers(ip("127.0.0.1"), 80));
        assert!(by_address.covers(ip("::1"), 1) && by_address.covers(ip("::ffff:127.0.0.1"), 5432));
    }

    #[test]
    fn public_is_all_without_private_networks() {
        let (all, public) = (Egress::all(), Egress::public());
        for private in ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1"] {
            assert!(all.covers(ip(private), 80) && !public.covers(ip(private), 80), "{private}");
            assert_eq!(public.leads("a.com", ip(private)), None);
        }
        assert!(public.covers(ip("8.8.8.8"), 53) && public.leads("a.com", ip("2606::1")).is_some());
        assert!(Egress::parse("all:443").unwrap().covers(ip("8.8.8.8"), 443));
        assert!(!Egress::parse("all:443").unwrap().covers(ip("8.8.8.8"), 80));
    }

    #[test]
    fn rules_can_be_narrowed_and_not_widened() {
        let beyond = |inner: &str, outer: &str| {
            let outer = Egress::parse(outer).unwrap();
            Egress::parse(inner).unwrap().beyond(&outer).map(ToString::to_string)
        };
        for (inner, outer) in [
            ("a.com:443,8.8.8.8,public", "all"),
            ("a.com:443", "a.com"),
            ("x.b.com:1,*.x.b.com", "*.b.com"),
            ("10.1.0.0/16:5432", "10.0.0.0/8"),
            ("all,10.0.0.0/8", "all,0.0.0.0/0,::/0"),
            ("", ""),
        ] {
            assert_eq!(beyond(inner, outer), None, "{inner} in {outer}");
        }
        for (inner, outer, first) in [
            ("a.com", "", "a.com"),
            ("a.com", "a.com:443", "a.com"),
            ("a.com", "public", "a.com"),
            ("all", "public", "all"),
            ("b.com", "*.b.com", "b.com"),
            ("10.0.0.0/7", "10.0.0.0/8", "10.0.0.0/7"),
            ("127.0.0.1", "all", "127.0.0.1"),
            ("10.0.0.0/8,::1", "0.0.0.0/0", "::1"),
        ] {
            assert_eq!(beyond(inner, outer).as_deref(), Some(first), "{inner} in {outer}");
        }
    }

    #[test]
    fn prefixes_of_every_length() {
        for (net, inside, outside) in [
            ("0.0.0.0/0", "9.9.9.9", "::2"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("1.2.3.4/32", "1.2.3.4", "1.2.3.5"),
            ("2001:db8::/32", "2001:db8::1", "2001:db9::1"),
            ("::/0", "2001::1", "1.1.1.1"),
        ] {
            let egress = Egress::parse(net).unwrap();
            assert!(egress.covers(ip(inside), 1) && !egress.covers(ip(outside), 1), "{net}");
        }
    }
}
