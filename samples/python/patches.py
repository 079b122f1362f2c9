"""Changes to modules that are not loaded yet, such as those that a program brings along, made when it imports them."""

import copy
import importlib.machinery
import sys

# From a module, or the end of its name for copies within other packages, to what changes it once it is loaded.
_changes = {}


def on_import(name, change):
    _changes[name] = change


def find_spec(name, path=None, target=None):
    change = next((change for end, change in _changes.items() if f".{name}".endswith(f".{end}")), None)
    spec = change and importlib.machinery.PathFinder.find_spec(name, path, target)
    if not spec or not spec.loader:
        return None
    load = spec.loader.exec_module

    def exec_module(module):
        load(module)
        change(module)

    # A loader may be that of other modules too.
    spec.loader = copy.copy(spec.loader)
    spec.loader.exec_module = exec_module
    return spec


sys.meta_path.insert(0, sys.modules[__name__])
