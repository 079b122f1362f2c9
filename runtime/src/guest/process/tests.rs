//! The interface as a module sees it: programs in the text form that start one another.

use super::*;
use crate::grants::{Egress, Grants, Network, RootGrant};
use crate::guest::engine::{Purpose, Target, engine};
use crate::guest::stdio::Pipe;
use crate::guest::{Ending, command, kind};
use crate::network::View;
use crate::network::outside::Nobody;
use crate::rootfs::Preopen;
use std::io::Read;
use std::path::PathBuf;
use wasmtime::Module;

/// A root directory with programs in it.
struct Place {
    dir: PathBuf,
}

/// Compiles in this very process, as only a test may.
#[derive(Debug)]
struct Compiler(PathBuf);

fn code_of(dir: &Path, wasm: &[u8]) -> Result<(File, Description), LoadError> {
    let refused = |e: String| LoadError::Refused(e);
    let compiler = engine(Purpose::Compile(Target::General)).unwrap();
    let module = Module::new(&compiler, wasm).map_err(|e| refused(e.to_string()))?;
    let description = kind::of_module(&module).map_err(|e| refused(e.to_string()))?;
    // What is mapped must not be written again.
    let path = dir.join(crate::container::id::new_id().unwrap());
    std::fs::write(&path, module.serialize().unwrap()).unwrap();
    Ok((File::open(path).unwrap(), description))
}

impl Loader for Compiler {
    fn load(&self, mut wasm: File) -> Loading {
        let mut bytes = Vec::new();
        wasm.read_to_end(&mut bytes).unwrap();
        Box::pin(std::future::ready(code_of(&self.0, &bytes)))
    }
}

impl Place {
    fn new() -> Self {
        let dir = crate::store::files::tests::temp_dir();
        std::fs::create_dir(dir.join("root")).unwrap();
        Self { dir }
    }

    fn program(self, name: &str, body: &str) -> Self {
        std::fs::write(self.dir.join("root").join(name), wat::parse_str(module(body)).unwrap()).unwrap();
        self
    }

    /// Runs a program as the first guest: how it ended, and what was said.
    fn run(&self, body: &str) -> (Ending, String) {
        self.run_with(body, true)
    }

    fn run_with(&self, body: &str, spawn: bool) -> (Ending, String) {
        let (code, description) = code_of(&self.dir, &wat::parse_str(module(body)).unwrap()).unwrap();
        let program = Program::open(&engine(Purpose::Command).unwrap(), code, description).unwrap();
        let grants = Grants {
            args: vec!["/main".into()],
            env: vec![],
            cwd: "/".into(),
            root: RootGrant::Layers(vec![]),
            root_writable: true,
            binds: vec![],
            secrets: vec![],
            paths: crate::grants::Paths::default(),
            proc: None,
            network: Network::None,
            address: None,
            member: None,
            published: vec![],
            exposed: vec![],
            egress: Egress::default(),
            stdin: false,
            terminal: false,
            spawn,
            http: crate::grants::Http::default(),
            limits: crate::grants::Limits::default(),
        };
        let (mut reader, writer) = {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            (File::from(reader), Pipe::new(writer))
        };
        let surroundings = Arc::new(Surroundings {
            network: View::new(&grants, vec![], Arc::new(Nobody), Box::new(|_| {})),
            grants,
            preopens: vec![Preopen { host: self.dir.join("root"), guest: "/".into(), writable: true }],
            output: writer,
            input: None,
            stdio: None,
            loader: Some(Arc::new(Compiler(self.dir.clone()))),
            account: Arc::default(),
            lent: None,
            seat: Roster::hidden().seat(),
        });
        let ending = command::run(&program, &surroundings, &Control::default(), vec![], || {});
        drop(surroundings);
        let mut said = Vec::new();
        reader.read_to_end(&mut said).unwrap();
        let text = said.iter().filter(|b| b.is_ascii_graphic() || **b == b' ' || **b == b'\n').map(|b| *b as char);
        (ending, text.collect())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A module with the interface, and `$start PATH IN OUT` over it: starts the program at a path of six letters.
fn module(body: &str) -> String {
    format!(
        r#"(module
        (import "sampan:process/spawn@0.1.0" "spawn"
            (func $spawn (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "sampan:process/spawn@0.1.0" "pipe" (func $pipe (param i32 i32) (result i32)))
        (import "sampan:process/spawn@0.1.0" "wait" (func $wait (param i32 i32 i32 i32) (result i32)))
        (import "sampan:process/spawn@0.1.0" "kill" (func $kill (param i32 i32) (result i32)))
        (import "sampan:process/spawn@0.1.0" "id" (func $id (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
            (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "/child/other/file.txt")
        (data (i32.const 100) "text\n")
        (global $pid (mut i32) (i32.const 0))
        ;; Ends the program with the number of an error, if there is one.
        (func $check (param i32) (if (local.get 0) (then (call $exit (local.get 0)))))
        (func $write (param $fd i32) (param $at i32) (param $length i32) (result i32)
            (i32.store (i32.const 200) (local.get $at))
            (i32.store (i32.const 204) (local.get $length))
            (call $fd_write (local.get $fd) (i32.const 200) (i32.const 1) (i32.const 208)))
        (func $read (param $fd i32) (param $at i32) (param $length i32) (result i32)
            (i32.store (i32.const 200) (local.get $at))
            (i32.store (i32.const 204) (local.get $length))
            (call $check (call $fd_read (local.get $fd) (i32.const 200) (i32.const 1) (i32.const 208)))
            (i32.load (i32.const 208)))
        (func $start (param $path i32) (param $in i32) (param $out i32) (result i32)
            (local $errno i32)
            (i32.store (i32.const 300) (i32.const 0)) (i32.store (i32.const 304) (local.get $in))
            (i32.store (i32.const 308) (i32.const 1)) (i32.store (i32.const 312) (local.get $out))
            (i32.store (i32.const 316) (i32.const 2)) (i32.store (i32.const 320) (i32.const 2))
            ;; One argument, the path itself.
            (i32.store (i32.const 330) (local.get $path)) (i32.store (i32.const 334) (i32.const 6))
            (local.set $errno (call $spawn (local.get $path) (i32.const 6) (i32.const 330) (i32.const 1)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 300) (i32.const 3) (i32.const 340)))
            (global.set $pid (i32.load (i32.const 340)))
            (local.get $errno))
        (func $code (result i32)
            (call $check (call $wait (global.get $pid) (i32.const 0) (i32.const 344) (i32.const 348)))
            (i32.load (i32.const 348)))
        {body})"#
    )
}

const SAYS: &str = r#"(func (export "_start")
    (call $check (call $write (i32.const 1) (i32.const 100) (i32.const 5))) (call $exit (i32.const 7)))"#;
const ENDLESS: &str = r#"(func (export "_start") (loop $l (br $l)))"#;
/// Copies what it reads, to the end.
const CAT: &str = r#"(func (export "_start") (local $n i32)
    (loop $l
        (local.set $n (call $read (i32.const 0) (i32.const 1000) (i32.const 4000)))
        (if (local.get $n) (then
            (call $check (call $write (i32.const 1) (i32.const 1000) (local.get $n))) (br $l)))))"#;

#[test]
fn a_child_has_its_parents_streams_and_says_its_code() {
    let place = Place::new().program("child", SAYS);
    let (ending, said) = place.run(
        r#"(func (export "_start")
            (call $check (call $start (i32.const 0) (i32.const 0) (i32.const 1))) (call $exit (call $code)))"#,
    );
    assert_eq!((ending.code, said.as_str()), (7, "text\n"));
}

#[test]
fn what_a_child_writes_to_a_pipe_its_parent_reads_to_the_end() {
    let place = Place::new().program("child", SAYS).program("other", CAT);
    let (ending, said) = place.run(
        r#"(func (export "_start") (local $r i32) (local $w i32) (local $n i32)
            (call $check (call $pipe (i32.const 400) (i32.const 404)))
            (local.set $r (i32.load (i32.const 400))) (local.set $w (i32.load (i32.const 404)))
            (call $check (call $start (i32.const 0) (i32.const -1) (local.get $w)))
            (call $check (call $fd_close (local.get $w)))
            (call $check (call $start (i32.const 6) (local.get $r) (i32.const 1)))
            (call $exit (call $code)))"#,
    );
    assert_eq!((ending.code, said.as_str()), (0, "text\n"));
}

#[test]
fn a_write_without_a_reader_is_a_broken_pipe() {
    let place = Place::new();
    let (ending, _) = place.run(
        r#"(func (export "_start")
            (call $check (call $pipe (i32.const 400) (i32.const 404)))
            (call $check (call $fd_close (i32.load (i32.const 400))))
            (call $check (call $write (i32.load (i32.const 404)) (i32.const 100) (i32.const 5))))"#,
    );
    assert_eq!(ending.code, 64);
}

#[test]
fn a_file_that_is_handed_over_keeps_one_position() {
    let place = Place::new().program("child", SAYS);
    let open = r#"(call $check (call $path_open (i32.const 3) (i32.const 0) (i32.const 13) (i32.const 8)
        (i32.const 1) (i64.const 0x46) (i64.const 0) (i32.const 0) (i32.const 400)))"#;
    let (ending, said) = place.run(&format!(
        r#"(func (export "_start") (local $f i32)
            {open} (local.set $f (i32.load (i32.const 400)))
            (call $check (call $write (local.get $f) (i32.const 100) (i32.const 4)))
            (call $check (call $start (i32.const 0) (i32.const -1) (local.get $f)))
            (drop (call $code))
            (call $check (call $write (local.get $f) (i32.const 101) (i32.const 4))))"#
    ));
    assert_eq!((ending.code, said.as_str()), (0, ""));
    assert_eq!(std::fs::read_to_string(place.dir.join("root/file.txt")).unwrap(), "texttext\next\n");
}

#[test]
fn an_endless_child_can_be_killed_and_is_not_the_first() {
    let place = Place::new().program("child", ENDLESS);
    let (ending, _) = place.run(
        r#"(func (export "_start")
            (call $check (call $start (i32.const 0) (i32.const -1) (i32.const -1)))
            (if (i32.ne (call $kill (i32.const 1) (i32.const 9)) (i32.const 63)) (then unreachable))
            (if (i32.ne (call $kill (i32.const 99) (i32.const 9)) (i32.const 71)) (then unreachable))
            (call $check (call $kill (global.get $pid) (i32.const 15)))
            (call $exit (call $code)))"#,
    );
    assert_eq!((ending.code, ending.message), (143, None));
}

#[test]
fn the_end_of_the_first_is_the_end_of_all() {
    let place = Place::new().program("child", ENDLESS).program("other", CAT);
    let (ending, _) = place.run(
        r#"(func (export "_start")
            (call $check (call $pipe (i32.const 400) (i32.const 404)))
            (call $check (call $start (i32.const 0) (i32.const -1) (i32.const -1)))
            (call $check (call $start (i32.const 6) (i32.load (i32.const 400)) (i32.const 1))))"#,
    );
    assert_eq!(ending.code, 0);
}

#[test]
fn there_are_so_many_processes_and_no_more() {
    let place = Place::new().program("child", ENDLESS);
    let (ending, _) = place.run(
        r#"(func (export "_start") (local $n i32) (local $errno i32)
            (loop $l
                (local.set $errno (call $start (i32.const 0) (i32.const -1) (i32.const -1)))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $l (i32.eqz (local.get $errno))))
            (if (i32.ne (local.get $errno) (i32.const 6)) (then (call $exit (local.get $errno))))
            (call $exit (local.get $n)))"#,
    );
    assert_eq!(usize::from(ending.code), MOST);
}

#[test]
fn without_the_grant_nothing_is_started() {
    let place = Place::new().program("child", SAYS);
    let body = r#"(func (export "_start") (call $exit (call $start (i32.const 0) (i32.const 0) (i32.const 1))))"#;
    let (ending, said) = place.run_with(body, false);
    assert_eq!(ending.code, 63);
    assert!(said.contains("start of \"/child\" denied") && said.contains("--allow-spawn"), "{said}");
}

#[test]
fn a_trap_is_told_at_the_childs_standard_error() {
    let place = Place::new().program("child", r#"(func (export "_start") unreachable)"#);
    let (ending, said) = place.run(
        r#"(func (export "_start")
            (call $check (call $start (i32.const 0) (i32.const -1) (i32.const -1))) (call $exit (call $code)))"#,
    );
    assert_eq!(ending.code, 134);
    assert!(said.contains("the program trapped"), "{said}");
}

#[test]
fn what_is_no_program_has_its_number() {
    let place = Place::new();
    std::fs::write(place.dir.join("root/child"), "no wasm").unwrap();
    std::fs::write(place.dir.join("root/other"), b"\0asm\x01\0\0\0\x05").unwrap();
    let start = |at: i32| {
        let body = format!(
            r#"(func (export "_start") (call $exit (call $start (i32.const {at}) (i32.const 0) (i32.const 1))))"#
        );
        place.run(&body).0.code
    };
    assert_eq!(start(0), 45);
    assert_eq!(start(6), 45);
    std::fs::remove_file(place.dir.join("root/child")).unwrap();
    assert_eq!(start(0), 44);
}
