//! A shell and the usual commands in one program, which is told by its name which of them it is: `/bin/sh`, `/bin/ls` and
//! the others are links to it, so the code of all of them is compiled once.

mod applets;
mod sh;
mod sys;

fn main() {
    let mut args: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    // WASI starts a program in `/`, and tells the directory that was meant as a variable.
    if let Some(directory) = std::env::var_os("PWD") {
        let _ = std::env::set_current_dir(directory);
    }
    let mut name = base(args.first());
    if matches!(name.as_str(), "toolbox" | "toolbox.wasm") {
        args.remove(0);
        name = base(args.first());
    }
    let code = match (name.as_str(), applets::find(&name)) {
        ("sh", _) => sh::main(&args),
        (_, Some(applet)) => applets::run(applet, &name, &args),
        ("", None) => {
            let names: Vec<&str> = ["sh"].into_iter().chain(applets::names()).collect();
            println!("usage: toolbox COMMAND [ARG...]\n\n{}", names.join(" "));
            0
        }
        _ => {
            eprintln!("{name}: applet not found");
            127
        }
    };
    sys::exit(code);
}

fn base(path: Option<&String>) -> String {
    path.and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned()
}
