"""The groups of /etc/group; without that file there is root alone."""

import collections

struct_group = collections.namedtuple("struct_group", "gr_name gr_passwd gr_gid gr_mem")


def getgrall():
    try:
        with open("/etc/group", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":") for line in file]
    except OSError:
        lines = ["root:x:0:".split(":")]
    return [
        struct_group(n, p, int(g), [m for m in members.split(",") if m])
        for n, p, g, members in (x for x in lines if len(x) == 4)
    ]


def getgrnam(name):
    for group in getgrall():
        if group.gr_name == name:
            return group
    raise KeyError(f"getgrnam(): name not found: {name!r}")


def getgrgid(gid):
    for group in getgrall():
        if group.gr_gid == gid:
            return group
    raise KeyError(f"getgrgid(): gid not found: {gid}")
