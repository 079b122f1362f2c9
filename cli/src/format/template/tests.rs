//! Templates as people type them, with what Go and Docker print for them.

use super::Template;
use serde_json::{Value, json};

fn container() -> Value {
    json!({
        "ID": "abc", "Pid": 12, "Zero": 0, "Ratio": 1.5, "Nil": null, "Empty": [],
        "State": {"ExitCode": 0, "Running": true, "Health": null},
        "Mounts": [{"Source": "/a", "RW": true}, {"Source": "/b", "RW": false}],
        "Env": ["A=1", "B=two words"],
        "Ports": {"80/tcp": [{"HostPort": "8080"}], "9/udp": null},
        "Config": {"Labels": {"foo": "bar", "com.b": "c"}},
    })
}

fn render(template: &str) -> Result<String, String> {
    let rendered = Template::parse(template).and_then(|template| template.render(&container()));
    rendered.map_err(|error| error.to_string())
}

/// All that stands here was compared with Go 1.26's `text/template` and Docker's functions.
#[test]
fn prints_what_go_prints() {
    for (template, expected) in [
        // Fields
        ("{{.ID}} {{.State.ExitCode}} {{.Config.Labels.foo}} {{.Ratio}}", "abc 0 bar 1.5"),
        ("{{.Config.Labels.nope}} {{.Config.Labels.nope.deep}} {{.Nil}}", "<no value> <no value> <no value>"),
        ("{{.State}} {{.Env}}", "map[ExitCode:0 Health:<nil> Running:true] [A=1 B=two words]"),
        ("{{$.ID}} {{(.State).Running}}", "abc true"),
        ("{{index .Config.Labels \"com.b\"}} {{index .Env 1}}", "c B=two words"),
        ("{{(index .Mounts 0).Source}}", "/a"),
        ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
        // Branches
        ("{{if .Empty}}a{{else if .ID}}b{{else}}c{{end}}", "b"),
        ("{{if .Empty}}a{{else if .Nil}}b{{else}}c{{end}}", "c"),
        ("{{with .State}}{{.Running}} {{$.ID}}{{end}}{{with .Nil}}x{{else}} no {{.ID}}{{end}}", "true abc no abc"),
        ("{{with .Nil}}x{{else with .ID}}{{.}}{{end}}", "abc"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{end}}", ""),
        ("{{if and .State.Health (eq .State.Health.Status \"healthy\")}}y{{else}}n{{end}}", "n"),
        ("{{or .Nil .ID .State.Health.Status}} {{and .ID .Pid}} {{1 | or 0}}", "abc 12 1"),
        // Loops
        ("{{range .Mounts}}{{.Source}},{{else}}none{{end}}", "/a,/b,"),
        ("{{range .Empty}}x{{else}}none{{end}} {{range .Nil}}x{{else}}none{{end}}", "none none"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}", "com.b=c foo=bar "),
        ("{{range $i, $m := .Mounts}}{{if $i}}, {{end}}{{$m.Source}}{{end}}", "/a, /b"),
        ("{{range $p, $c := .Ports}}{{$p}}{{range $c}} {{.HostPort}}{{else}} -{{end}};{{end}}", "80/tcp 8080;9/udp -;"),
        ("{{range .Pid}}{{if gt . 2}}{{break}}{{end}}{{if eq . 1}}{{continue}}{{end}}{{.}}{{end}}", "02"),
        ("{{range split \"a,b\" \",\"}}<{{.}}>{{end}}", "<a><b>"),
        // Variables
        ("{{$x := 1}}{{range .Env}}{{$x = .}}{{end}}{{$x}}", "B=two words"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ("{{$m := index .Mounts 1}}{{$m.Source}}", "/b"),
        ("{{$i := 0}}{{range $i = .Env}}{{end}}{{$i}}", "B=two words"),
        // Pipelines and functions
        ("{{.ID | upper | printf \"%s-%s\" \"x\"}}", "x-ABC"),
        (
            "{{json .Config}} {{.Env | json}} {{json .Nil}}",
            r#"{"Labels":{"com.b":"c","foo":"bar"}} ["A=1","B=two words"] null"#,
        ),
        ("{{join .Env \", \"}} {{index (split .ID \"b\") 1}} {{len .Mounts}}", "A=1, B=two words c 2"),
        ("{{if eq (len .Mounts) 2}}two{{end}} {{not .Nil}} {{eq .ID \"x\" \"abc\"}}", "two true true"),
        ("{{println .ID .Pid}}{{printf \"%-5s|%05d|%q\" .ID .Pid .ID}}", "abc 12\nabc  |00012|\"abc\""),
        ("{{printf \"%v\" .Config.Labels.nope}}", "<nil>"),
        // White space and comments
        ("a {{- .ID -}} b {{/* {{.x}} */ -}} c\\t{{\"\\t\"}}{{-3}}", "aabcb c\\t\t-3"),
        ("{{range .Mounts -}}\n  {{.Source}}\n{{- end}}", "/a/b"),
        ("{{ .ID }}{{\n.Pid\n}}}}", "abc12}}"),
    ] {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn explains_what_cannot_be_rendered() {
    for (template, expected) in [
        (
            "x {{.Nope}}",
            "1:5: at <.Nope>: there is no field \"Nope\"; the fields are Config, Empty, Env, ID, Mounts, Nil, Pid, \
             Ports, Ratio, State, Zero",
        ),
        (
            "{{range .Mounts}}{{$.Nope.X}}{{end}}",
            "1:20: at <$.Nope.X>: there is no field \"Nope\"; the fields are Config",
        ),
        (
            "{{.State.Health.Status}}",
            "1:3: at <.State.Health.Status>: there is no value to take the field \"Status\" from",
        ),
        ("{{.ID.x}}", "1:3: at <.ID.x>: can't evaluate field \"x\" in a string"),
        ("{{range .ID}}{{end}}", "1:9: at <.ID>: range can't iterate over a string"),
        ("{{.ID 3}}", "1:3: at <.ID>: can't give argument to non-function"),
        ("{{.ID | .Pid}}", "1:9: at <.Pid>: can't give argument to non-function"),
        ("{{index .Mounts 9}}", "1:3: at <index>: index out of range: 9"),
        (
            "{{lower .Pid}}",
            "1:3: at <lower>: wrong arguments: the usage is \"lower string\", and this was given: a number",
        ),
        ("{{and}}", "1:3: at <and>: it wants one argument at least"),
    ] {
        let error = render(template).unwrap_err();
        assert!(error.starts_with(&format!("template parsing error: {expected}")), "{template}: {error}");
    }
}
