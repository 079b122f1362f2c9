//! The Python image: its command line, its packages and pip, its child programs, its servers, its way out.

use sampan_tests::net;
use sampan_tests::{Dir, Store, eventually};
use std::io::{Read, Write};

/// A package with a module, a console script and all that a wheel of it has, as files.
fn demo() -> Dir {
    let info = "demo-1.0.dist-info";
    let metadata = "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n";
    let wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let record = format!("demo.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/entry_points.txt,,\n{info}/RECORD,,\n");
    Dir::new()
        .file("demo.py", "import sys\n\n\ndef main():\n    print('demo', sys.argv[1:])\n")
        .file(&format!("{info}/METADATA"), metadata)
        .file(&format!("{info}/WHEEL"), wheel)
        .file(&format!("{info}/RECORD"), record)
        .file(&format!("{info}/entry_points.txt"), "[console_scripts]\ndemo = demo:main\n")
}

#[test]
fn the_command_line_is_pythons() {
    let store = Store::shared(&["python"]);
    let python = |line: &str| store.sampan(format!("run --rm python {line}"));
    for name in ["python", "python3", "/usr/local/bin/python3.14"] {
        python(&format!("{name} -V")).ok().stdout_has("Python 3.14.");
    }
    python("python -Ic 'import sys; print(sys.argv, sys.executable)' -x")
        .ok()
        .stdout_is("['-c', '-x'] /usr/local/bin/python\n");
    python("python -W error -c 'import warnings; warnings.warn(\"as asked\")'")
        .fails(1)
        .stderr_has("UserWarning: as asked");
    python("python -c").fails(2).stderr_has("-c needs an argument");
    python("python --nonsense").fails(2).stderr_has("unknown option --nonsense");
    python("python /none.py").fails(2).stderr_has("can't open file '/none.py'");
}

#[test]
fn modules_are_found_in_the_script_s_directory_in_pythonpath_and_in_site_packages() {
    let store = Store::shared(&["python"]);
    let script = "import beside, elsewhere, installed, by_pth\n\
        print(beside.NAME, elsewhere.NAME, installed.NAME, by_pth.NAME)\n";
    let data = Dir::new()
        .file("app/main.py", script)
        .file("app/beside.py", "NAME = 1\n")
        .file("path/elsewhere.py", "NAME = 2\n")
        .file("packages/installed.py", "NAME = 3\n")
        .file("packages/more.pth", "/data/more\n")
        .file("more/by_pth.py", "NAME = 4\n");
    let packages = "/usr/local/lib/python3.14/site-packages";
    let run = format!(
        "run --rm -v '{data}:/data:ro' -v '{data}/packages:{packages}:ro' -e PYTHONPATH=/data/path python python /data/app/main.py"
    );
    store.sampan(run).ok().stdout_is("1 2 3 4\n");
}

#[test]
fn pip_installs_a_wheel_with_its_console_script_and_removes_it() {
    let store = Store::shared(&["python"]);
    let data = demo();
    let wheel = "demo-1.0-py3-none-any.whl";
    let zip = format!("python -m zipfile -c {wheel} demo.py demo-1.0.dist-info");
    store.sampan(format!("run --rm -v '{data}:/data' -w /data python {zip}")).ok();
    let script = r"
import subprocess, sys
def call(*words):
    return subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
pip = sys.executable, '-m', 'pip'
print(call(*pip, 'install', '--no-index', '/data/demo-1.0-py3-none-any.whl').splitlines()[-1])
print(open('/usr/local/bin/demo').readline(), end='')
print(call('demo', 'a b'), end='')
print(call('pip', 'freeze'), end='')
print(call(*pip, 'uninstall', '-y', 'demo').splitlines()[-1])
";
    let data = data.file("script.py", script);
    let run = store.sampan(format!("run --rm -v '{data}:/data:ro' python python /data/script.py")).ok();
    let wanted = [
        "Successfully installed demo-1.0",
        "#!/usr/local/bin/python",
        "demo ['a b']",
        "demo @ file:///data/demo-1.0-py3-none-any.whl",
    ];
    assert_eq!(
        run.lines()[..4].iter().map(|line| line.split("#sha256").next().unwrap_or(line)).collect::<Vec<_>>(),
        wanted
    );
    run.stdout_has("Successfully uninstalled demo-1.0");
}

#[test]
fn pip_builds_a_source_distribution_in_child_programs() {
    let store = Store::shared(&["python"]);
    let project = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n";
    let backend = r"
import os, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = 'demo-1.0-py3-none-any.whl'
    with zipfile.ZipFile(f'{directory}/{name}', 'w') as wheel:
        for path in ['demo.py', *('demo-1.0.dist-info/' + file for file in os.listdir('demo-1.0.dist-info'))]:
            wheel.write(path)
    return name
";
    let data = demo().file("pyproject.toml", project).file("backend.py", backend);
    let run = store.sampan(format!("run --rm -v '{data}:/data' python python -m pip install --no-index /data")).ok();
    run.stdout_has("Successfully built demo").stdout_has("Successfully installed demo-1.0");
}

#[test]
fn a_child_is_a_program_of_its_own_and_only_python() {
    let store = Store::shared(&["python"]);
    let script = r#"
import os, subprocess, sys
python = sys.executable
def child(code, **more):
    return subprocess.run([python, '-c', code], capture_output=True, text=True, **more)
run = child('import sys; print(sys.stdin.read().upper()); print(1, file=sys.stderr); sys.exit(3)', input='abc')
print(run.returncode, repr(run.stdout), repr(run.stderr))
child('import json, os, sys; json.dumps = None; os.environ["A"] = "1"; os.chdir("/tmp"); sys.path.append("/x")')
import json
print(json.dumps([os.environ.get('A'), os.getcwd(), '/x' in sys.path]))
print(child('import os; print(os.environ, os.getcwd())', env={'B': '2'}, cwd='/tmp').stdout, end='')
print(child('raise ValueError(6)').stderr.splitlines()[-1])
for command in 'no-such-program', '/data/text':
    try:
        subprocess.run([command])
    except OSError as error:
        print(type(error).__name__, error)
"#;
    let data = Dir::new().file("script.py", script).file("text", "no program");
    let run = store.sampan(format!("run --rm -v '{data}:/data:ro' python python /data/script.py")).ok();
    let lines = run.lines();
    assert_eq!(
        lines[..5],
        [
            "3 'ABC\\n' '1\\n'",
            "[null, \"/\", false]",
            "environ({'B': '2'}) /tmp",
            "ValueError: 6",
            "FileNotFoundError [Errno 44] No such file or directory: 'no-such-program'",
        ]
    );
    run.stdout_has("WASI has no processes");
}

#[test]
fn there_are_no_threads_but_a_pool_does_its_work() {
    let store = Store::shared(&["python"]);
    let code = "from concurrent.futures import ThreadPoolExecutor as Pool; print(list(Pool().map(abs, [-1, 2])))";
    store.sampan("run --rm python python -c").arg(code).ok().stdout_is("[1, 2]\n");
    let code = "import threading; threading.Thread(target=print).start()";
    store.sampan("run --rm python python -c").arg(code).fails(1).stderr_has("can't start new thread: WASI has none");
    let code = "from multiprocessing.pool import ThreadPool; ThreadPool(2)";
    store.sampan("run --rm python python -c").arg(code).fails(1).stderr_has("a pool needs processes or threads");
}

#[test]
fn a_server_is_held_up_by_no_idle_connection_and_ends_when_it_is_stopped() {
    let store = Store::shared(&["python"]);
    let code = "import wsgiref.simple_server as wsgi\n\
        def app(environ, start):\n    start('200 OK', [('Content-Type', 'text/plain')])\n    return [b'hello']\n\
        wsgi.make_server('0.0.0.0', 8000, app).serve_forever()\n\
        print('the loop has ended')\n";
    let data = Dir::new().file("app.py", code);
    let server = store.detached(format!("-p 8000 -v '{data}:/app:ro' python python /app/app.py"));
    let port = server.port("8000");
    eventually("it listens", || net::is_open(port));
    let mut idle = [net::connect(port), net::connect(port)];
    assert_eq!(net::get(port, "/").expect(200).text(), "hello");
    let mut text = String::new();
    idle[0].write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    idle[0].read_to_string(&mut text).unwrap();
    assert!(text.ends_with("hello"), "{text}");
    store.sampan(format!("stop {server}")).ok();
    assert_eq!(server.wait(), 0);
    server.says("the loop has ended");
}

#[test]
fn asyncio_serves_a_published_port_and_calls_a_peer_that_was_granted() {
    let store = Store::shared(&["python"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let (mut stream, mut text) = (stream.unwrap(), String::new());
                stream.read_to_string(&mut text).unwrap();
                stream.write_all(text.to_uppercase().as_bytes()).unwrap();
            });
        }
    });
    let script = "import asyncio, sys\n\
        async def ask(line):\n    \
            reader, writer = await asyncio.open_connection(\"127.0.0.1\", int(sys.argv[1]))\n    \
            writer.write(line)\n    \
            writer.write_eof()\n    \
            answer = await asyncio.wait_for(reader.read(), 30)\n    \
            writer.close()\n    \
            return answer\n\
        async def handle(reader, writer):\n    \
            line = await reader.readline()\n    \
            both = await asyncio.gather(ask(b\"one \" + line), ask(b\"two \" + line))\n    \
            writer.writelines(both)\n    \
            await writer.drain()\n    \
            writer.close()\n\
        async def main():\n    \
            server = await asyncio.start_server(handle, \"0.0.0.0\", 8000)\n    \
            print(\"serving\", flush=True)\n    \
            async with server:\n        \
                await server.serve_forever()\n\
        asyncio.run(main())\n";
    let files = Dir::new().file("app.py", script);
    let flags = format!("-p 8000 -v '{files}:/srv:ro'");
    let run = |grant: &str| store.detached(format!("{flags} {grant} python python /srv/app.py {}", peer.port()));
    let app = run(&format!("--allow-net {peer}"));
    app.says("serving");
    let port = app.port("8000");
    // Twenty at once, the first of which says nothing before the others have their answers.
    let mut first = net::connect(port);
    let others: Vec<_> =
        (0..20).map(|n| std::thread::spawn(move || net::exchange(port, format!("hello {n}\n").as_bytes()))).collect();
    for (n, other) in others.into_iter().enumerate() {
        let answer = String::from_utf8(other.join().unwrap()).unwrap();
        assert_eq!(answer, format!("ONE HELLO {n}\nTWO HELLO {n}\n"));
    }
    first.write_all(b"at last\n").unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "ONE AT LAST\nTWO AT LAST\n");
    let denied = run("");
    denied.says("serving");
    assert!(net::exchange(denied.port("8000"), b"hello\n").is_empty());
    eventually("it says why", || denied.diagnostics().contains(&format!("connection to {peer} denied")));
}

#[test]
fn a_request_that_was_not_granted_is_refused_by_an_error_that_names_the_flag() {
    let store = Store::shared(&["python"]);
    let code = "import urllib.request, urllib.error\n\
        try:\n    urllib.request.urlopen('https://example.org/')\n\
        except urllib.error.URLError as error:\n    print(type(error.reason).__name__, error.reason)\n";
    let run = store.sampan("run --rm python python -c").arg(code).ok();
    run.stdout_has("PermissionError").stdout_has("--allow-net example.org:443");
}

#[test]
fn tls_on_a_socket_is_refused_and_says_who_does_it() {
    let store = Store::shared(&["python"]);
    let code = "import socket, ssl; ssl.create_default_context().wrap_socket(socket.socket())";
    store
        .sampan("run --rm python python -c")
        .arg(code)
        .fails(1)
        .stderr_has("ssl.SSLError: TLS on a socket cannot be done");
}

#[test]
fn what_asks_for_a_user_or_a_mapped_file_gets_an_answer() {
    let store = Store::shared(&["python"]);
    let code = "import grp, mmap, os, pwd\n\
        print(os.getuid(), pwd.getpwuid(0).pw_name, grp.getgrgid(0).gr_name, os.path.expanduser('~'))\n\
        open('/tmp/f', 'w').write('one two')\n\
        os.chmod('/tmp/f', 0o600)\n\
        with open('/tmp/f') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:\n    \
        print(len(mapped), mapped.find(b'two'), mapped[:3])\n";
    store.sampan("run --rm python python -c").arg(code).ok().stdout_is("0 root root /root\n7 4 b'one'\n");
}

#[test]
fn the_shell_of_the_image_runs_python_programs() {
    let store = Store::shared(&["python"]);
    let shell = |script: &str| store.sampan("run --rm -e NAME=you python python /bin/sh -c").arg(script);
    let script = "set -e; cd /tmp && echo \"hello $NAME\" 'and $NAME' > f; python -c 'print(open(\"f\").read(), end=\"\")'\n\
        A=1 python -c 'import os; print(os.environ[\"A\"])' # a comment\n\
        pip --version > /dev/null || exit 4; exit 3";
    shell(script).fails(3).stdout_is("hello you and $NAME\n1\n");
    shell("false && echo no; echo $?; set -e; false; echo never").fails(1).stdout_is("1\n");
    shell("no-such-program").fails(127).stderr_has("sh: no-such-program: not found");
    shell("python -V | cat").fails(2).stderr_has("`|` is not known here");
}

#[test]
fn the_dockerfile_that_docker_s_users_know_builds_and_answers() {
    let store = Store::shared(&["python"]);
    store.sampan("tag python python:3.14").ok();
    let app = "import demo\nfrom wsgiref.simple_server import make_server\n\n\
        def app(environ, start):\n    start('200 OK', [('Content-Type', 'text/plain')])\n    return [demo.__name__.encode()]\n\n\
        make_server('0.0.0.0', 8000, app).serve_forever()\n";
    let context = demo().file("requirements.txt", "demo\n").file("app.py", app).file(
        "Dockerfile",
        "FROM python:3.7\nWORKDIR /app\nCOPY requirements.txt .\nCOPY *.whl /wheels/\n\
         RUN pip install --no-index --find-links /wheels -r requirements.txt\nCOPY . .\nEXPOSE 8000\n\
         CMD [\"python\", \"app.py\"]\n",
    );
    let zip = "python -m zipfile -c demo-1.0-py3-none-any.whl demo.py demo-1.0.dist-info";
    store.sampan(format!("run --rm -v '{context}:/data' -w /data python {zip}")).ok();
    std::fs::remove_file(context.join("demo.py")).unwrap();
    let built = store.sampan(format!("build -t seed '{context}'")).ok();
    built.stderr_has("python:3.7 is python:3.14 here").stderr_has("Successfully installed demo-1.0");
    let container = store.detached("-p 127.0.0.1:0:8000 seed");
    let port = container.port("8000");
    eventually("it listens", || net::is_open(port));
    assert_eq!(net::get(port, "/").expect(200).text(), "demo");
    store.sampan("run --rm seed demo a").ok().stdout_is("demo ['a']\n");
    let again = store.sampan(format!("build -t seed '{context}'")).ok();
    assert_eq!(again.stdout.matches(" => CACHED").count(), 5, "{again}");
}
