//! Help, completions, man pages, exit codes.

use super::text;

/// All commands of the tool, as its own help lists them, each as its words.
fn commands() -> Vec<Vec<String>> {
    let mut open = vec![Vec::new()];
    let mut all = Vec::new();
    while let Some(words) = open.pop() {
        let args: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let (code, help) = text(&[], &args);
        assert_eq!(code, 0, "{help}");
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let names = listed.take_while(|line| !line.is_empty()).filter_map(|line| {
            let name = line.strip_prefix("  ")?.split_whitespace().next()?;
            (line.chars().nth(2) != Some(' ') && name != "help").then(|| name.to_owned())
        });
        for name in names {
            open.push([words.clone(), vec![name]].concat());
        }
        all.push(words);
    }
    all
}

/// Every command says how it ends, and what can be printed for a script can be as JSON.
#[test]
fn every_command_tells_its_exit_codes() {
    let all = commands();
    assert!(all.len() > 30, "{all:?}");
    for words in &all {
        let args: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let (_, help) = text(&[], &args);
        // Words of help are broken into lines.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_group = help.contains("Commands:");
        assert!(is_group || help.to_lowercase().contains("exit code"), "{words:?}: {help}");
    }
    for args in [
        &["status"][..],
        &["queues"],
        &["queues", "dead", "show"],
        &["queues", "dead", "requeue"],
        &["workers"],
        &["doctor"],
        &["catalog"],
        &["batch", "cancel"],
        &["batch", "rerun"],
        &["batch", "requests"],
        &["exit-codes"],
    ] {
        let (_, help) = text(&[], &[args, &["--help"]].concat());
        assert!(help.contains("--json"), "{args:?}");
    }
}

#[test]
fn exit_codes_are_told() {
    let (code, codes) = text(&[], &["exit-codes"]);
    assert_eq!(code, 0);
    for number in ["0", "1", "3", "64", "66", "130"] {
        assert!(codes.lines().any(|line| line.trim_start().starts_with(number)), "{codes}");
    }
    assert!(text(&[], &["help", "exit-codes"]).1.contains("66 what was asked for is not there"));
}

#[test]
fn completions_are_made_for_each_shell() {
    for (shell, part) in [
        ("bash", "complete -F _p2p"),
        ("zsh", "#compdef p2p"),
        ("fish", "complete -c p2p"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let (code, script) = text(&[], &["completions", shell]);
        assert!(code == 0 && script.contains(part), "{shell}: {code}");
        assert!(script.contains("requeue"), "{shell} knows the last word of a command");
    }
    let (code, error) = text(&[], &["completions", "tcsh"]);
    assert!(code == 64 && error.contains("bash"), "{error}");
}

#[test]
fn a_man_page_is_written_for_each_command() {
    let directory = std::env::temp_dir().join(format!("p2p_man_{}", std::process::id()));
    let out = directory.join("man1");
    let (code, error) = text(&[], &["man", "--out", out.to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
    for words in commands() {
        let name = [&["p2p".to_owned()], &words[..]].concat().join("-");
        let page = std::fs::read_to_string(out.join(format!("{name}.1")));
        let page = page.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(page.contains(".SH NAME") && page.contains(".TH"), "{name}");
    }
    let page = std::fs::read_to_string(out.join("p2p-status.1")).unwrap();
    assert!(page.contains("Exit codes"), "{page}");
    std::fs::remove_dir_all(&directory).unwrap();
    let (code, error) = text(&[], &["man", "--out", "/dev/null/man"]);
    assert!(code == 1 && error.contains("/dev/null/man can't be written"), "{error}");
}

#[test]
fn typing_errors_are_answered_with_what_was_meant() {
    for (args, meant) in [
        (&["statsu"][..], "status"),
        (&["batch", "cancle"], "cancel"),
        (&["workers", "--jsno"], "--json"),
    ] {
        let (code, error) = text(&[], args);
        assert!(code == 64 && error.contains(meant), "{args:?}: {error}");
    }
}
