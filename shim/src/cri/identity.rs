//! Who a container's programs are. WASI has no users: what a pod's security context says of them is shown to its programs where
//! they look, in `/proc` ([`Proc`]), and keeps them from nothing: that is the sandbox's to do.

use super::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use sampan_runtime::grants::{Proc, Sees};
use sampan_runtime::image::Image;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use tonic::Status;

/// As much is read of a file of accounts.
const MOST: u64 = 1 << 20;

/// A file of the image, in its topmost layer that has one; no link leads out of that. Empty if there is none.
fn read(layers: &[PathBuf], path: &str) -> String {
    let open = |layer: &PathBuf| -> std::io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let root = rustix::fs::open(layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let file = File::from(rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?);
        let mut text = String::new();
        if file.metadata()?.is_file() {
            file.take(MOST).read_to_string(&mut text)?;
        }
        Ok(text)
    };
    layers.iter().find_map(|layer| open(layer).ok()).unwrap_or_default()
}

/// An account's name, its number and, of a user, its group's (passwd(5), group(5)).
fn accounts(text: &str) -> impl Iterator<Item = (&str, u32, Option<u32>, &str)> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let number = fields.get(2)?.parse().ok()?;
        let more = fields.get(3).copied().unwrap_or_default();
        Some((*fields.first()?, number, more.parse().ok(), more))
    })
}

/// Who a container's programs are, by its security context or else by the image's `USER`.
pub(super) fn of(security: &LinuxContainerSecurityContext, image: &Image, layers: &[PathBuf]) -> Result<Proc, Status> {
    let user = image.config.config().as_ref().and_then(|config| config.user().clone()).unwrap_or_default();
    let (passwd, group) = (read(layers, "etc/passwd"), read(layers, "etc/group"));
    settle(security, &user, &passwd, &group)
}

fn settle(security: &LinuxContainerSecurityContext, image: &str, passwd: &str, group: &str) -> Result<Proc, Status> {
    let number = |what: &str, value: i64| {
        u32::try_from(value).map_err(|_| Status::invalid_argument(format!("{what} {value} is no number of an account")))
    };
    let missing = |what: &str, name: &str, file: &str| {
        Status::invalid_argument(format!("there is no {what} {name:?} in the image's {file}: give its number"))
    };
    let (of_image, group_of_image) = image.split_once(':').unwrap_or((image, ""));
    let (wanted, by_image) = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => (number("runAsUser", uid.value)?.to_string(), false),
        (None, "") => (if of_image.is_empty() { "0" } else { of_image }.to_owned(), true),
        (None, name) => (name.to_owned(), false),
    };
    let known = match wanted.parse::<u32>() {
        Ok(uid) => accounts(passwd).find(|(_, known, ..)| *known == uid).or(Some(("", uid, None, ""))),
        Err(_) => accounts(passwd).find(|(name, ..)| *name == wanted),
    };
    let (name, uid, own, _) = known.ok_or_else(|| missing("user", &wanted, "/etc/passwd"))?;
    let gid = match &security.run_as_group {
        Some(gid) => number("runAsGroup", gid.value)?,
        None if by_image && !group_of_image.is_empty() => match group_of_image.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let found = accounts(group).find(|(name, ..)| *name == group_of_image);
                found.ok_or_else(|| missing("group", group_of_image, "/etc/group"))?.1
            }
        },
        None => own.unwrap_or_default(),
    };
    let mut groups = vec![gid];
    if security.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge {
        let member = |members: &str| !name.is_empty() && members.split(',').any(|member| member.trim() == name);
        groups.extend(accounts(group).filter(|(.., members)| member(members)).map(|(_, gid, ..)| gid));
    }
    for gid in &security.supplemental_groups {
        groups.push(number("the supplemental group", *gid)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(Proc { uid, gid, groups, sees: Sees::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::v1::Int64Value;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:50:other,web\n";

    fn identity(security: LinuxContainerSecurityContext, image: &str) -> Result<(u32, u32, Vec<u32>), Status> {
        settle(&security, image, PASSWD, GROUP).map(|found| (found.uid, found.gid, found.groups))
    }

    #[test]
    fn the_context_goes_before_the_image_and_names_are_the_images() {
        let none = LinuxContainerSecurityContext::default;
        assert_eq!(identity(none(), "").unwrap(), (0, 0, vec![0]));
        assert_eq!(identity(none(), "web").unwrap(), (33, 34, vec![34, 50]));
        assert_eq!(identity(none(), "7:logs").unwrap(), (7, 50, vec![50]));
        let some = |value| Some(Int64Value { value });
        let by_number = LinuxContainerSecurityContext { run_as_user: some(1001), run_as_group: some(1002), ..none() };
        assert_eq!(identity(by_number, "web").unwrap(), (1001, 1002, vec![1002]));
        let by_name =
            LinuxContainerSecurityContext { run_as_username: "web".into(), supplemental_groups: vec![9, 50], ..none() };
        assert_eq!(identity(by_name, "").unwrap(), (33, 34, vec![34, 50, 9]));
        let unknown = LinuxContainerSecurityContext { run_as_username: "nobody".into(), ..none() };
        assert!(identity(unknown, "").unwrap_err().message().contains("no user \"nobody\""));
        assert!(identity(LinuxContainerSecurityContext { run_as_user: some(-1), ..none() }, "").is_err());
    }
}
