"""The users of /etc/passwd; without that file there is root alone."""

import collections

struct_passwd = collections.namedtuple("struct_passwd", "pw_name pw_passwd pw_uid pw_gid pw_gecos pw_dir pw_shell")


def getpwall():
    try:
        with open("/etc/passwd", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":") for line in file]
    except OSError:
        lines = ["root:x:0:0:root:/root:/bin/sh".split(":")]
    return [struct_passwd(n, p, int(u), int(g), *rest) for n, p, u, g, *rest in (x for x in lines if len(x) == 7)]


def getpwnam(name):
    for user in getpwall():
        if user.pw_name == name:
            return user
    raise KeyError(f"getpwnam(): name not found: {name!r}")


def getpwuid(uid):
    for user in getpwall():
        if user.pw_uid == uid:
            return user
    raise KeyError(f"getpwuid(): uid not found: {uid}")
