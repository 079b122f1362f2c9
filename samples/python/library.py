"""The standard library, held in memory.

The directory that it is imported from exists only while the component is built. So its modules are compiled then, and
kept, and found later as if they still lay there. Ours in `lib` stand among them, in the place of one of the same name.
"""

import compileall
import marshal
import os
import py_compile
import sys
import zlib
from importlib.machinery import ModuleSpec

HOME = "/python"
HERE = os.path.dirname(__file__)
PREFIX = "/usr/local"
PACKAGES = f"{PREFIX}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

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
                keep_module(f"{directory}/{name}", f"{directory}/{name}")
    for name in os.listdir(f"{HERE}/lib"):
        keep_module(f"{HERE}/lib/{name}", f"{HOME}/{name}")
    sys.path_hooks.insert(0, Directory)
    sys.path_importer_cache.clear()


def keep_module(file, path):
    with open(file, "rb") as source:
        code = compile(source.read(), path, "exec", dont_inherit=True)
    _code[path] = zlib.compress(marshal.dumps(code), 9)


def compile_packages():
    """Compiles the packages that come with the image, whose sources lie beside this file while the component is built.

    No times get in, so that the same sources give the same files. This comes first, so that what follows takes the
    memory that it leaves, and the component carries less of it.
    """
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for name in os.listdir(f"{HERE}/site-packages"):
        place = f"{PACKAGES}/{name}"
        compileall.compile_dir(f"{HERE}/site-packages/{name}", ddir=place, quiet=2, invalidation_mode=mode)
