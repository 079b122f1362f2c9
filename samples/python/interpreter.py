"""CPython as a command: `python FILE | -c CODE | -m MODULE | -`, then arguments.

componentize-py runs the top level of this file when it builds the component and keeps the state of the interpreter at
its end; a container starts there. What belongs to one run only is therefore set in `prepare`.
"""

import library

library.compile_packages()
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
import warnings

import patches
import processes
import serving
import wasi
import wasi_http
from library import PACKAGES, PREFIX
from wit_world.imports import environment

USAGE = """\
usage: python [OPTION…] [-c CODE | -m MODULE | FILE | -] [ARGUMENT…]
  -B         write no .pyc files (also PYTHONDONTWRITEBYTECODE)
  -E         heed no variable whose name begins with PYTHON
  -I         both of -E and -P
  -P         do not put the script's directory before the others (also PYTHONSAFEPATH)
  -S         without site-packages
  -u         write every character at once (also PYTHONUNBUFFERED)
  -V, -VV    the version
  -W FILTER  which warnings to show (also PYTHONWARNINGS)
  -X OPTION  into sys._xoptions
  -q, -s     nothing: there is no banner and no user's own site-packages"""

wasi_http.install(patches.on_import)
processes.install(lambda args: execute(args))

# What programs commonly import is in the component already loaded.
for name in """
    argparse asyncio base64 bisect calendar collections configparser contextlib copy csv dataclasses datetime decimal
    difflib email.message enum fnmatch fractions functools glob gzip hashlib heapq hmac html http.client http.cookiejar
    http.server importlib.metadata importlib.resources importlib.util inspect ipaddress itertools json linecache logging
    logging.config math mimetypes operator optparse pathlib pickle platform pprint queue re secrets select shutil signal
    socket sqlite3 statistics string struct subprocess sysconfig tempfile textwrap threading tokenize tomllib traceback
    typing unittest urllib.request uuid warnings wsgiref.simple_server xml.etree.ElementTree zipfile zlib zoneinfo
""".split():
    importlib.import_module(name)

# Nothing made so far is ever garbage: the collector need not look at it, nor touch its pages.
gc.collect()
gc.freeze()


class Run:
    """The export `wasi:cli/run`."""

    def run(self):
        status = processes.outcome(lambda: execute(prepare()))
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


class Options:
    """What the command line says before the program."""

    unbuffered = safe_path = no_site = ignore_environment = False
    version = 0
    # `c`, `m`, or nothing for a file; and its operand.
    kind = operand = None

    def __init__(self, args):
        self.warnings = []
        while args and args[0].startswith("-") and args[0] != "-" and not self.kind:
            word = args.pop(0)
            if word == "--":
                break
            letters = {"--version": "V", "--help": "h"}.get(word, word[1:])
            while letters:
                letter, letters = letters[0], letters[1:]
                if letter in "cmWX":
                    if not (letters or args):
                        fail(f"python: -{letter} needs an argument\n{USAGE}")
                    self.take(letter, letters or args.pop(0))
                    break
                self.set(letter, word)

    def take(self, letter, operand):
        match letter:
            case "W":
                self.warnings.append(operand)
            case "X":
                name, _, value = operand.partition("=")
                sys._xoptions[name] = value or True
            case _:
                self.kind, self.operand = letter, operand

    def set(self, letter, word):
        match letter:
            case "u":
                self.unbuffered = True
            case "B":
                sys.dont_write_bytecode = True
            case "E":
                self.ignore_environment = True
            case "I":
                self.ignore_environment = self.safe_path = True
            case "P":
                self.safe_path = True
            case "S":
                self.no_site = True
            case "V":
                self.version += 1
            case "q" | "s":
                pass
            case "h":
                print(USAGE)
                sys.exit()
            case _:
                fail(f"python: unknown option {word}\n{USAGE}")

    def variable(self, name):
        return "" if self.ignore_environment else os.environ.get(name, "")


def prepare():
    """Makes the interpreter that was kept into one of this container. Returns the arguments."""
    # These names are the program's to use.
    for name in "interpreter", "library", "patches", "processes", "serving", "wasi":
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
    wasi_http.forget_bundles()
    program, *args = environment.get_arguments() or ["python"]
    sys.orig_argv = [program, *args]
    sys.executable = sys._base_executable = program if program.startswith("/") else f"{PREFIX}/bin/python"
    sys.prefix = sys.exec_prefix = sys.base_prefix = sys.base_exec_prefix = PREFIX
    site.PREFIXES[:] = [PREFIX]
    site.ENABLE_USER_SITE = False
    processes.begin()
    return args


def stream(descriptor, mode, line_buffering=False, errors="strict"):
    raw = open(descriptor, mode + "b", closefd=False)
    text = io.TextIOWrapper(raw, "utf-8", errors, line_buffering=line_buffering)
    text.mode = mode
    return text


def execute(args):
    options = Options(args)
    if options.version:
        print("Python", sys.version if options.version > 1 else sys.version.split()[0])
        return
    apply(options)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__builtins__ = builtins
    if options.kind == "c":
        start(options, ["-c", *args], "")
        run(main, options.operand, "<string>")
    elif options.kind == "m":
        start(options, ["-m", *args], os.getcwd())
        # One that is loaded already would be taken for a mistake of the program's.
        if not hasattr(sys.modules.get(options.operand), "__path__"):
            sys.modules.pop(options.operand, None)
        runpy._run_module_as_main(options.operand)
    elif not args and sys.stdin.isatty():
        start(options, [""], "")
        code.interact(local=main.__dict__, exitmsg="")
    elif not args or args[0] == "-":
        start(options, args or [""], "")
        run(main, sys.stdin.read(), "<stdin>")
    else:
        run_file(options, main, args)


def run_file(options, main, args):
    path = args[0]
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        start(options, args, None)
        # As in CPython, -P does not take away the place of the program itself.
        sys.path.insert(0, path)
        runpy._run_module_as_main("__main__", alter_argv=False)
        return
    start(options, args, os.path.dirname(os.path.realpath(path)))
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        fail(f"python: can't open file {os.path.abspath(path)!r}: {error}")
    main.__file__ = os.path.abspath(path)
    run(main, source, main.__file__)


def apply(options):
    """What the options and the variables say of the interpreter as a whole."""
    if options.unbuffered or options.variable("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    if options.variable("PYTHONDONTWRITEBYTECODE"):
        sys.dont_write_bytecode = True
    if options.variable("PYTHONSAFEPATH"):
        options.safe_path = True
    sys.warnoptions[:] = [*filter(None, options.variable("PYTHONWARNINGS").split(",")), *options.warnings]
    warnings._processoptions(sys.warnoptions)
    sys.path[:] = [*filter(None, options.variable("PYTHONPATH").split(":")), library.HOME]
    if not options.no_site:
        site.addsitedir(PACKAGES)
        site.execsitecustomize()


def start(options, argv, path):
    sys.argv = argv
    if path is not None and not options.safe_path:
        sys.path.insert(0, path)


def run(main, source, name):
    exec(compile(source, name, "exec", dont_inherit=True), main.__dict__)


def fail(message):
    print(message, file=sys.stderr)
    sys.exit(2)
