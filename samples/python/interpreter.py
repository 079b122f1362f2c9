"""CPython as a command: `python FILE | -c CODE | -m MODULE | -`, then arguments.

componentize-py runs the top level of this file when it builds the component and keeps the state of the interpreter at
its end; a container starts there. What belongs to one run only is therefore set in `prepare`.
"""

import library

library.keep()

import atexit
import builtins
import code
import gc
import importlib
import io
import os
import random
import runpy
import site
import sys
import types

import wasi
from wit_world.imports import environment

PREFIX = "/usr"
USAGE = "usage: python [-u] [-V] [-c CODE | -m MODULE | FILE | -] [ARGUMENT…]"

# What programs commonly import is in the component already loaded.
for name in """
    argparse asyncio base64 bisect calendar collections configparser contextlib copy csv dataclasses datetime decimal
    difflib email.message enum fnmatch fractions functools glob gzip hashlib heapq hmac html http.client http.server
    importlib.metadata importlib.resources importlib.util inspect ipaddress itertools json linecache logging math
    mimetypes operator pathlib pickle platform pprint queue re secrets select shutil signal socket sqlite3 statistics
    string struct subprocess sysconfig tempfile textwrap threading tokenize tomllib traceback typing unittest
    urllib.request uuid warnings xml.etree.ElementTree zipfile zlib zoneinfo
""".split():
    importlib.import_module(name)

# Nothing made so far is ever garbage: the collector need not look at it, nor touch its pages.
gc.collect()
gc.freeze()


class Run:
    """The export `wasi:cli/run`."""

    def run(self):
        try:
            execute(prepare())
            status = 0
        except SystemExit as exit:
            status = exit_status(exit.code)
        except BaseException as error:
            status = 1
            report(error)
        atexit._run_exitfuncs()
        for out in sys.stdout, sys.stderr:
            try:
                out.flush()
            except OSError:
                status = status or 120
            except ValueError:
                pass  # The program closed it, as `-m json.tool` does.
        if status:
            wasi._exit(status)


def prepare():
    """Makes the interpreter that was kept into one of this container. Returns the arguments."""
    # These names are the program's to use.
    for name in "interpreter", "library", "wasi":
        sys.modules.pop(name, None)
    os.environ.clear()
    os.environ.update(environment.get_environment())
    # Else each container would draw the same numbers.
    random.seed()
    # A container can be stopped between two lines, so each is written when it ends.
    sys.stdin = stream(0, "r")
    sys.stdout = stream(1, "w", line_buffering=True)
    sys.stderr = stream(2, "w", line_buffering=True, errors="backslashreplace")

    cwd = environment.initial_cwd() or os.environ.get("PWD")
    if cwd:
        os.chdir(cwd)
    program, *args = environment.get_arguments() or ["python"]
    sys.executable = program if program.startswith("/") else f"{PREFIX}/bin/python"
    sys.prefix = sys.exec_prefix = sys.base_prefix = sys.base_exec_prefix = PREFIX
    sys.path[:] = [*filter(None, os.environ.get("PYTHONPATH", "").split(":")), library.HOME]
    site.addsitedir(f"{PREFIX}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages")
    return args


def stream(descriptor, mode, line_buffering=False, errors="strict"):
    raw = open(descriptor, mode + "b", closefd=False)
    text = io.TextIOWrapper(raw, "utf-8", errors, line_buffering=line_buffering)
    text.mode = mode
    return text


def execute(args):
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__builtins__ = builtins
    while args and args[0].startswith("-") and args[0] not in ("-", "-c", "-m"):
        match args.pop(0):
            case "-u":
                sys.stdout.reconfigure(write_through=True)
            case "-B":
                sys.dont_write_bytecode = True
            case "-V" | "--version":
                print("Python", sys.version.split()[0])
                return
            case "-h" | "--help":
                print(USAGE)
                return
            case option:
                print(f"python: unknown option {option}\n{USAGE}", file=sys.stderr)
                sys.exit(2)
    match args:
        case ["-c", source, *_]:
            start(args[:1] + args[2:], "")
            run(main, source, "<string>")
        case ["-m", module, *_]:
            start(args[:1] + args[2:], os.getcwd())
            # One that is loaded already would be taken for a mistake of the program's.
            if not hasattr(sys.modules.get(module), "__path__"):
                sys.modules.pop(module, None)
            runpy._run_module_as_main(module)
        case [] if sys.stdin.isatty():
            start([""], "")
            code.interact(local=main.__dict__, exitmsg="")
        case [] | ["-", *_]:
            start(args or [""], "")
            run(main, sys.stdin.read(), "<stdin>")
        case ["-c" | "-m"]:
            print(f"python: {args[0]} needs an argument\n{USAGE}", file=sys.stderr)
            sys.exit(2)
        case [path, *_] if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
            start(args, path)
            runpy._run_module_as_main("__main__", alter_argv=False)
        case [path, *_]:
            start(args, os.path.dirname(os.path.realpath(path)))
            try:
                with open(path, "rb") as file:
                    source = file.read()
            except OSError as error:
                print(f"python: can't open file {path!r}: {error}", file=sys.stderr)
                sys.exit(2)
            main.__file__ = os.path.abspath(path)
            run(main, source, main.__file__)


def start(argv, path):
    sys.argv = argv
    sys.path.insert(0, path)


def run(main, source, name):
    exec(compile(source, name, "exec", dont_inherit=True), main.__dict__)


def report(error):
    trace = error.__traceback__
    # The frames of this file tell the program's author nothing.
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def exit_status(code):
    match code:
        case None:
            return 0
        case int():
            return code & 0xFF
    print(code, file=sys.stderr)
    return 1
