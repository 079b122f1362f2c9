//! `network`: networks on which containers find each other.

use crate::Context;
use crate::commands::filter::{self, Filters, fits_name};
use crate::commands::prune::agreed;
use crate::commands::{for_each, inspect};
use crate::format::humanize::short_id;
use crate::format::{Column, Listing};
use crate::settings::parse_labels;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use sampan_runtime::container::networks::{self, BUILT_IN, NetworkError, NetworkRecord, Wish};
use sampan_runtime::container::{self, Status};
use sampan_runtime::grants::{Address, Egress};
use sampan_runtime::store::Store;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Manage networks
#[derive(Debug, Args)]
pub struct NetworkArgs {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    /// Make a network
    Create(CreateArgs),
    /// Show everything known of networks
    Inspect(InspectArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove networks that no container is on
    Prune(PruneArgs),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// bridge is the one that there is
    #[arg(short, long, default_value = "bridge", value_name = "DRIVER")]
    driver: String,
    /// Let its containers call nobody beyond it, whatever the configuration says
    #[arg(long)]
    internal: bool,
    /// A label, which `ls --filter label=...` finds
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// egress=none, or whom its containers may call beyond it, as --allow-net of `run` has it
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    option: Vec<String>,
    /// Its addresses, a part of 10.0.0.0/8; the next that are free without it
    #[arg(long, value_name = "CIDR")]
    subnet: Option<Address>,
    /// Its name
    #[arg(value_name = "NETWORK")]
    network: String,
}

#[derive(Debug, Args)]
struct InspectArgs {
    /// Print as "json", or through a template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

#[derive(Debug, Args)]
struct LsArgs {
    /// Show what fits: dangling, driver, id, label, name or type
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Print as a "table", as "json", or through a template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// Remove what fits: label
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
struct RmArgs {
    /// Be content if there is no such network
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

const NETWORKS: Listing = Listing::new(
    "ID",
    &[
        Column::shown("ID", "NETWORK ID"),
        Column::shown("Name", "NAME"),
        Column::shown("Driver", "DRIVER"),
        Column::shown("Scope", "SCOPE"),
        Column::hidden("CreatedAt", "CREATED AT"),
        Column::hidden("IPv4", "IPV4"),
        Column::hidden("IPv6", "IPV6"),
        Column::hidden("Internal", "INTERNAL"),
        Column::hidden("Labels", "LABELS"),
    ],
);

impl NetworkArgs {
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let store = context.store()?;
        match self.command {
            NetworkCommand::Create(args) => args.run(&store),
            NetworkCommand::Inspect(args) => {
                inspect::print(&args.networks, args.format.as_deref(), |name| look(&store, name))
            }
            NetworkCommand::Ls(args) => args.run(&store),
            NetworkCommand::Prune(args) => args.run(&store),
            NetworkCommand::Rm(args) => for_each(&args.networks, |name| match networks::remove(&store, name) {
                Err(NetworkError::NotFound(_)) if args.force => Ok(()),
                other => Ok(other.map(drop)?),
            }),
        }
    }
}

impl CreateArgs {
    fn run(self, store: &Store) -> Result<ExitCode> {
        if self.driver != "bridge" {
            bail!("there is no network driver {:?}: bridge is the one that there is", self.driver);
        }
        let (mut egress, mut internal) = (Egress::default(), self.internal);
        for option in &self.option {
            match option.split_once('=') {
                Some(("egress", "none")) => internal = true,
                Some(("egress", rules)) => egress.extend(Egress::parse(rules)?),
                _ => bail!(
                    "unknown option {option:?} of a network: egress=none and egress=RULE,… are those that there are"
                ),
            }
        }
        if internal && !egress.is_empty() {
            let none = if self.internal { "--internal" } else { "-o egress=none" };
            bail!("{none} and -o egress={egress} say different things: leave one of them out");
        }
        let labels = parse_labels(&self.label);
        let wish = Wish { name: self.network, labels, subnet: self.subnet, egress, internal };
        filter::print(&format!("{}\n", networks::create(store, wish)?.id))
    }
}

/// A network in Docker's shape.
fn look(store: &Store, name: &str) -> Result<Value> {
    if let Some(name) = built_in(name) {
        return Ok(describe_built_in(name));
    }
    let network = networks::inspect(store, name)?;
    let mut containers = Map::new();
    for (id, ip) in networks::holders(store, &network)? {
        // As with Docker, those that run.
        if let Ok(container) = container::find(store, &id)
            && matches!(container.status(store), Status::Running(_))
        {
            let place =
                json!({ "Name": container.record.name, "IPv4Address": format!("{ip}/{}", network.subnet.prefix) });
            containers.insert(id, place);
        }
    }
    Ok(json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created.to_string(),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Config": [{ "Subnet": network.subnet, "Gateway": network.subnet.gateway() }] },
        "Internal": network.internal,
        "Containers": containers,
        "Options": options(&network),
        "Labels": network.labels,
    }))
}

/// The options that would make it.
fn options(network: &NetworkRecord) -> Value {
    match (network.internal, network.egress.is_empty()) {
        (true, _) => json!({ "egress": "none" }),
        (false, true) => json!({}),
        (false, false) => json!({ "egress": network.egress.to_string() }),
    }
}

/// The same for `inspect`, where the name may be something else's.
pub fn look_if_there(store: &Store, name: &str) -> Result<Option<Value>> {
    match networks::inspect(store, name) {
        Err(NetworkError::NotFound(_)) if built_in(name).is_none() => Ok(None),
        _ => look(store, name).map(Some),
    }
}

/// The network that is always there under this name; `bridge` is Docker's word for `default`.
fn built_in(name: &str) -> Option<&'static str> {
    let name = if name == "bridge" { "default" } else { name };
    BUILT_IN.into_iter().find(|known| *known == name)
}

fn describe_built_in(name: &str) -> Value {
    let driver = driver_of(name);
    json!({
        "Name": name, "Id": name, "Created": "0001-01-01T00:00:00Z", "Scope": "local", "Driver": driver,
        "EnableIPv4": true, "EnableIPv6": false, "IPAM": { "Driver": "default", "Config": [] },
        "Internal": true, "Containers": {}, "Options": {}, "Labels": {},
    })
}

fn driver_of(built_in: &str) -> &'static str {
    match built_in {
        "host" => "host",
        "none" => "null",
        _ => "bridge",
    }
}

impl LsArgs {
    fn run(self, store: &Store) -> Result<ExitCode> {
        let filters = Filters::parse(&self.filter, &["dangling", "driver", "id", "label", "name", "type"])?;
        let dangling = filters.flag("dangling")?;
        let always: Vec<Value> = ["default", "host", "none"].map(row_built_in).into();
        let fits = |row: &Value, labels: &BTreeMap<String, String>, own: bool| {
            let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            filters.any("driver", |driver| driver == text("Driver"))
                && filters.any("id", |id| text("ID").starts_with(id))
                && filters.any("name", |pattern| fits_name(pattern, &text("Name")))
                && filters.any("type", |kind| kind == if own { "custom" } else { "builtin" })
                && filters.labels(labels)
        };
        let none = BTreeMap::new();
        let mut rows: Vec<Value> =
            always.into_iter().filter(|row| dangling != Some(true) && fits(row, &none, false)).collect();
        for network in networks::list(store)? {
            let row = row(&network, self.no_trunc);
            let used = dangling.is_some() && !networks::holders(store, &network)?.is_empty();
            if dangling.is_none_or(|dangling| dangling != used) && fits(&row, &network.labels, true) {
                rows.push(row);
            }
        }
        filter::print(&NETWORKS.render(&rows, self.format.as_deref(), self.quiet)?)
    }
}

fn row(network: &NetworkRecord, whole: bool) -> Value {
    json!({
        "ID": if whole { &network.id } else { short_id(&network.id) },
        "Name": network.name,
        "Driver": "bridge",
        "Scope": "local",
        "CreatedAt": network.created.to_string(),
        "IPv4": "true",
        "IPv6": "false",
        "Internal": network.internal.to_string(),
        "Labels": filter::label_text(&network.labels),
        "Label": network.labels,
    })
}

fn row_built_in(name: &str) -> Value {
    json!({
        "ID": name, "Name": name, "Driver": driver_of(name), "Scope": "local", "CreatedAt": "", "IPv4": "true",
        "IPv6": "false", "Internal": "true", "Labels": "", "Label": {},
    })
}

impl PruneArgs {
    fn run(self, store: &Store) -> Result<ExitCode> {
        let filters = Filters::parse(&self.filter, &["label"])?;
        if !self.force && !agreed("This will remove all custom networks not used by at least one container.")? {
            return Ok(ExitCode::SUCCESS);
        }
        let gone = prune(store, |network| filters.labels(&network.labels))?;
        filter::print(&match gone.as_slice() {
            [] => String::new(),
            gone => format!("Deleted Networks:\n{}\n\n", gone.join("\n")),
        })
    }
}

/// Removes networks that no container is on and that `goes` picks. Gives their names.
pub fn prune(store: &Store, goes: impl Fn(&NetworkRecord) -> bool) -> Result<Vec<String>> {
    let mut gone = Vec::new();
    for network in networks::list(store)?.into_iter().filter(goes) {
        match networks::remove(store, &network.name) {
            Ok(network) => gone.push(network.name),
            Err(NetworkError::InUse { .. } | NetworkError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_every_key_of_the_listing() {
        let dir = std::env::temp_dir().join(format!("sampan-network-{}", std::process::id()));
        let store = Store::open(&dir.join("root"), &dir.join("run")).unwrap();
        let wish = Wish { name: "app".into(), egress: Egress::parse("a.com").unwrap(), ..Wish::default() };
        let network = networks::create(&store, wish).unwrap();
        for row in [row(&network, false), row_built_in("host")] {
            for column in NETWORKS.columns {
                assert!(row.get(column.key).is_some_and(Value::is_string), "{}", column.key);
            }
        }
        let described = look(&store, "app").unwrap();
        assert_eq!(described["Options"]["egress"], json!("a.com"));
        assert_eq!(described["IPAM"]["Config"][0]["Subnet"], json!("10.89.0.0/24"));
        assert_eq!(look(&store, "bridge").unwrap()["Name"], json!("default"));
        assert_eq!(prune(&store, |_| true).unwrap(), ["app"]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
