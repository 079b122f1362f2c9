"""`subprocess`, for Python programs alone.

WASI has no processes, so no program can be started beside this one. But much that Python programs start is Python: pip
builds a source distribution so, and so does a program that runs `sys.executable`. Such a child runs here, in this
interpreter, from its start to its end before the parent goes on: with modules, arguments, variables, streams and a
working directory of its own, which the parent does not see. What a child does to an object of the standard library is
seen; and a timeout is noticed only when the child has ended.
"""

import asyncio
import atexit
import contextlib
import errno
import importlib
import io
import logging
import os
import shutil
import subprocess
import sys
import time
import traceback
import warnings
import weakref
from subprocess import DEVNULL, PIPE, STDOUT, TimeoutExpired

import patches
import wasi

# The modules that a program starts with.
_modules = {}
# How many programs run within each other, beyond the first.
_depth = 0
_next_pid = 2


class Exit(BaseException):
    """`os._exit` of a child."""


def outcome(program):
    """Runs a program to its end, tells what went wrong with it, and returns its exit code."""
    try:
        program()
        return 0
    except SystemExit as exit:
        return exit_status(exit.code)
    except Exit as exit:
        return exit.args[0]
    except BaseException as error:
        report(error)
        return 1


def exit_status(code):
    match code:
        case None:
            return 0
        case int():
            return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def report(error):
    # The frames of these files tell the program's author nothing.
    trace, here = error.__traceback__, os.path.dirname(__file__)
    while trace and os.path.dirname(trace.tb_frame.f_code.co_filename) == here:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


class Popen:
    """As `subprocess.Popen`, as far as a child can be had."""

    def __init__(
        self,
        args,
        bufsize=-1,
        executable=None,
        stdin=None,
        stdout=None,
        stderr=None,
        preexec_fn=None,
        close_fds=True,
        shell=False,
        cwd=None,
        env=None,
        universal_newlines=None,
        startupinfo=None,
        creationflags=0,
        restore_signals=True,
        start_new_session=False,
        pass_fds=(),
        *,
        text=None,
        encoding=None,
        errors=None,
        **_,
    ):
        global _next_pid
        self.args, self.returncode = args, None
        self.text_mode = bool(universal_newlines or text or encoding or errors)
        self.encoding, self.errors = encoding or "utf-8", errors or "strict"
        self._env = dict(os.environ if env is None else env)
        self._cwd = os.path.abspath(os.fspath(cwd)) if cwd is not None else os.getcwd()
        if shell:
            raise OSError(
                errno.ENOTSUP, f"no shell to run {args!r}: Python starts Python alone, as WASI has no processes"
            )
        words = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
        self._argv = python(executable, [os.fsdecode(word) for word in words], self._cwd, self._env)
        if not os.path.isdir(self._cwd):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._cwd)
        self.pid, _next_pid = _next_pid, _next_pid + 1

        self._to = {"stdout": stdout, "stderr": stderr}
        self._in = io.BytesIO() if stdin in (PIPE, DEVNULL) else stdin
        self.stdin = self._wrap(Input(self)) if stdin == PIPE else None
        self._out = self._sink(stdout, sys.stdout)
        self._err = self._out if stderr == STDOUT else self._sink(stderr, sys.stderr)
        self.stdout = self._wrap(self._out) if stdout == PIPE else None
        self.stderr = self._wrap(self._err) if stderr == PIPE else None
        if stdin != PIPE:
            self._run()

    def _wrap(self, stream):
        if not self.text_mode:
            return stream
        return io.TextIOWrapper(stream, self.encoding, self.errors, write_through=True)

    def _sink(self, to, usual):
        """Where the bytes of a stream go."""
        if to in (PIPE, DEVNULL):
            return io.BytesIO()
        if to is None:
            usual.flush()
            return getattr(usual, "buffer", None) or io.BytesIO()
        return open(to if isinstance(to, int) else to.fileno(), "ab", closefd=False)

    def _run(self):
        if self.returncode is not None:
            return
        # It cannot be waited for twice, whatever happens.
        self.returncode = 1
        source = self._in
        if source is None:
            source = getattr(sys.stdin, "buffer", io.BytesIO())
        elif isinstance(source, int) or not isinstance(source, io.BytesIO):
            source = open(source if isinstance(source, int) else source.fileno(), "rb", closefd=False)
        elif source.seekable():
            source.seek(0)
        started = time.monotonic()
        self.returncode = run(self._argv, self._env, self._cwd, source, self._out, self._err)
        self._took = time.monotonic() - started
        for name, to in self._to.items():
            if to == PIPE:
                (self._out if name == "stdout" else self._err).seek(0)

    def poll(self):
        self._run()
        return self.returncode

    def wait(self, timeout=None):
        self._run()
        self._in_time(timeout, None, None)
        return self.returncode

    def communicate(self, input=None, timeout=None):
        if self.stdin and not self.stdin.closed:
            if input:
                self.stdin.write(input)
            self.stdin.close()
        self._run()
        out = self.stdout.read() if self.stdout else None
        err = self.stderr.read() if self.stderr else None
        self._in_time(timeout, out, err)
        return out, err

    def _in_time(self, timeout, out, err):
        if timeout is not None and self._took > timeout:
            raise TimeoutExpired(self.args, timeout, output=out, stderr=err)

    def send_signal(self, signal):
        """It has ended before anybody can send it one; or it has not begun."""

    terminate = kill = lambda self: None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stream in self.stdin, self.stdout, self.stderr:
            if stream:
                stream.close()
        self._run()

    def __class_getitem__(cls, item):
        return cls

    def __repr__(self):
        return f"<Popen: returncode: {self.returncode} args: {self.args!r}>"


class Input(io.RawIOBase):
    """What the parent writes; the child runs when that is all there."""

    def __init__(self, child):
        self.child = child

    def writable(self):
        return True

    def write(self, data):
        return self.child._in.write(data)

    def close(self):
        if not self.closed:
            super().close()
            self.child._run()


def python(executable, words, cwd, env):
    """The arguments of the interpreter that this command line means, with its name before them."""
    program = os.fsdecode(executable) if executable else words[0]
    if "/" in program:
        path = os.path.join(cwd, program)
    else:
        path = shutil.which(program, os.F_OK, env.get("PATH", os.defpath)) or program
    if is_python(path):
        return [path, *words[1:]]
    try:
        with open(path, "rb") as file:
            line = file.readline(256)
    except OSError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program) from None
    if line.startswith(b"#!"):
        interpreter, *options = os.fsdecode(line[2:]).split()
        if interpreter.endswith("/env") and options:
            interpreter, *options = options
        if is_python(interpreter):
            return [interpreter, *options, path, *words[1:]]
    raise OSError(errno.ENOTSUP, "cannot be started: WASI has no processes, and Python starts Python alone", program)


def is_python(path):
    name = os.path.basename(path)
    return path == sys.executable or name in ("python", "python3", f"python3.{sys.version_info.minor}")


def run(argv, env, cwd, stdin, stdout, stderr):
    """Runs a child and returns its exit code; after it all is as it was before."""
    global _depth
    with contextlib.ExitStack() as after:
        keep_state(after)
        sys.modules.clear()
        sys.modules.update(_modules)
        sys.orig_argv, sys.executable = argv, argv[0] if argv[0].startswith("/") else sys.executable
        sys.stdin = io.TextIOWrapper(stdin, "utf-8")
        sys.stdout = io.TextIOWrapper(stdout, "utf-8", line_buffering=True)
        sys.stderr = io.TextIOWrapper(stderr, "utf-8", "backslashreplace", line_buffering=True)
        # Closing one closes what is beneath, which is the parent's.
        for stream in sys.stdin, sys.stdout, sys.stderr:
            after.callback(detach, stream)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        callbacks = []
        atexit.register = lambda function, /, *args, **kwargs: callbacks.append((function, args, kwargs)) or function
        atexit.unregister = lambda function: callbacks.__setitem__(
            slice(None), [entry for entry in callbacks if entry[0] != function]
        )
        _depth += 1
        after.callback(ended)
        status = outcome(lambda: execute(argv[1:]))
        while callbacks:
            function, args, kwargs = callbacks.pop()
            try:
                function(*args, **kwargs)
            except Exception:
                traceback.print_exc()
        return status


def keep_state(after):
    """What a program can change of the interpreter, for it to be put back."""
    # Else the first finalizer of a child would claim the end of the program for it.
    weakref.finalize(Exit, int).detach()
    for module in list(_modules.values()):
        after.callback(put_back, vars(module), dict(vars(module)))
    for thing in sys.modules, logging.root.manager.loggerDict:
        after.callback(put_back, thing, dict(thing))
    for thing in sys.path, sys.path_hooks, sys.meta_path, sys.warnoptions, warnings.filters, logging.root.handlers:
        after.callback(thing.__setitem__, slice(None), list(thing))
    after.callback(put_back_variables, dict(os.environ))
    after.callback(os.chdir, os.getcwd())
    after.callback(logging.root.setLevel, logging.root.level)
    after.callback(asyncio._set_running_loop, asyncio._get_running_loop())
    after.callback(importlib.invalidate_caches)
    # A hook can never be removed, so those of a child fall silent at its end.
    living, add = [True], sys.addaudithook
    after.callback(living.clear)
    sys.addaudithook = lambda hook: add(lambda event, args: living and hook(event, args))
    asyncio._set_running_loop(None)
    logging.root.handlers[:] = []
    logging.root.setLevel(logging.WARNING)
    logging.root.manager.loggerDict.clear()


def put_back(thing, before):
    # In place, and not cleared first: this code stands on some of it.
    for name in [name for name in thing if name not in before]:
        del thing[name]
    thing.update(before)


def put_back_variables(before):
    os.environ.clear()
    os.environ.update(before)


def detach(stream):
    with contextlib.suppress(Exception):
        stream.detach()


def ended():
    global _depth
    _depth -= 1


def _exit(status):
    if _depth:
        raise Exit(status & 0xFF)
    wasi._exit(status)


async def no_subprocess(self, protocol_factory, *args, **kwargs):
    raise OSError(errno.ENOTSUP, "asyncio cannot start programs: WASI has no processes; `subprocess` runs Python ones")


def patch_multiprocessing(module):
    def start(self):
        raise OSError(errno.ENOTSUP, "no process can be started: WASI has none; `subprocess` runs Python programs")

    module.BaseProcess.start = start


def patch_pool(module):
    def no_pool(self, *args, **kwargs):
        raise OSError(errno.ENOTSUP, "a pool needs processes or threads, and WASI has none; use ThreadPoolExecutor")

    module.Pool.__init__ = no_pool
    # It looks at what is never made.
    del module.Pool.__del__


def begin():
    """A container starts: what is loaded now is what each program finds loaded."""
    _modules.update(sys.modules)


def install(executor):
    global execute
    execute = executor
    subprocess.Popen = Popen
    patches.on_import("multiprocessing.process", patch_multiprocessing)
    patches.on_import("multiprocessing.pool", patch_pool)
    os._exit = _exit
    asyncio.BaseEventLoop.subprocess_exec = asyncio.BaseEventLoop.subprocess_shell = no_subprocess
