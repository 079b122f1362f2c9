"""The standard library, held in memory.

The directory that it is imported from exists only while the component is built. So its modules are compiled then, and
kept, and found later as if they still lay there.
"""

import marshal
import os
import sys
import zlib
from importlib.machinery import ModuleSpec

HOME = "/python"

# Of no use without a screen, a terminal's own library or a second process.
LEFT_OUT = {"curses", "ensurepip", "idlelib", "site-packages", "tkinter", "turtle.py", "turtledemo", "venv"}

# From a file's path to its compiled code.
_code = {}
_directories = set()


class Directory:
    """Finds and loads the modules of one directory: what importlib asks of both."""

    def __init__(self, path):
        if path not in _directories:
            raise ImportError(path=path)
        self.path = path

    def find_spec(self, name, target=None):
        stem = f"{self.path}/{name.rpartition('.')[2]}"
        for file, is_package in (f"{stem}/__init__.py", True), (f"{stem}.py", False):
            if file in _code:
                spec = ModuleSpec(name, self, origin=file, is_package=is_package)
                spec.has_location = True
                if is_package:
                    spec.submodule_search_locations.append(stem)
                return spec
        return None

    def iter_modules(self, prefix=""):
        """For pkgutil, and so for `help("modules")` and unittest's discovery."""
        for file in _code:
            directory, _, name = file.rpartition("/")
            if directory == self.path and name != "__init__.py":
                yield prefix + name.removesuffix(".py"), False
            elif name == "__init__.py" and os.path.dirname(directory) == self.path:
                yield prefix + os.path.basename(directory), True

    def invalidate_caches(self):
        pass

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name):
        return marshal.loads(zlib.decompress(_code[self.get_filename(name)]))

    def get_filename(self, name):
        return self.find_spec(name).origin

    def get_source(self, name):
        return None

    def is_package(self, name):
        return self.get_filename(name).endswith("/__init__.py")


def keep():
    """Takes in all of the library; from here on, modules come out of memory."""
    for directory, below, files in os.walk(HOME):
        below[:] = [name for name in below if name not in LEFT_OUT]
        _directories.add(directory)
        for name in files:
            if name.endswith(".py") and name not in LEFT_OUT:
                path = f"{directory}/{name}"
                with open(path, "rb") as file:
                    code = compile(file.read(), path, "exec", dont_inherit=True)
                _code[path] = zlib.compress(marshal.dumps(code), 9)
    sys.path_hooks.insert(0, Directory)
    sys.path_importer_cache.clear()
