//! The manual page of a program, made from its command line: what clap knows, in the macros of man(7). Pure.

use clap::{Arg, ArgAction, Command};

use crate::exit_code::Ending;

/// What the command line does not know about its program.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The section of the manual.
    pub section: u8,
    /// Files that it reads or writes, each with what it is.
    pub files: &'a [(&'a str, &'a str)],
    /// Variables of the environment, each with what it does.
    pub variables: &'a [(&'a str, &'a str)],
    /// Pages to read next, such as `lifeboat.toml(5)`.
    pub see_also: &'a [&'a str],
}

/// The page, as text for `man`. The command is taken as its program would parse it.
#[must_use]
pub fn page(mut command: Command, about: About<'_>) -> String {
    command.build();
    let name = command.get_name().to_owned();
    let version = command.get_version().unwrap_or_default();
    let short = command.get_about().map(ToString::to_string).unwrap_or_default();
    // The description of a crate begins with the name of its program.
    let short = short.strip_prefix(&format!("{name}: ")).unwrap_or(&short);
    let mut page = format!(".TH {} {} \"\" \"Lifeboat {version}\"\n", name.to_uppercase(), about.section);
    page.push_str(&format!(".SH NAME\n{} \\- {}\n", text(&name), text(short.trim_end_matches('.'))));
    page.push_str(&format!(
        ".SH SYNOPSIS\n.B {}\n[\\fIOPTION\\fR ...] \\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]\n",
        text(&name)
    ));
    if let Some(long) = command.get_long_about() {
        page.push_str(&format!(".SH DESCRIPTION\n{}\n", text(&long.to_string())));
    }
    page.push_str(".SH OPTIONS\nEvery command takes these.\n");
    command.get_arguments().filter(|arg| is_shown(arg)).for_each(|arg| page.push_str(&entry(arg)));
    page.push_str(".SH COMMANDS\n");
    add_commands(&mut page, &command, "");
    page.push_str(".SH EXIT STATUS\n");
    for (ending, meaning) in Ending::MEANINGS {
        page.push_str(&format!(".TP\n.B {}\n{}\n", ending as u8, text(meaning)));
    }
    for (title, items) in [("ENVIRONMENT", about.variables), ("FILES", about.files)] {
        page.push_str(&format!(".SH {title}\n"));
        items.iter().for_each(|(item, what)| page.push_str(&format!(".TP\n.I {}\n{}\n", text(item), text(what))));
    }
    page.push_str(&format!(
        ".SH SEE ALSO\n{}\n",
        about.see_also.iter().map(|page| text(page)).collect::<Vec<_>>().join(",\n")
    ));
    page
}

/// All commands below `command`, each with its own arguments; `before` is what stands before their names.
fn add_commands(page: &mut String, command: &Command, before: &str) {
    let visible = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for below in command.get_subcommands().filter(visible) {
        let name = format!("{before}{}", below.get_name());
        if below.get_subcommands().any(|deeper| visible(&deeper)) {
            add_commands(page, below, &format!("{name} "));
            continue;
        }
        let mut heading = name;
        for arg in below.get_positionals() {
            heading.push(' ');
            heading.push_str(&placeholder(arg));
        }
        let about = below.get_long_about().or(below.get_about()).map(ToString::to_string).unwrap_or_default();
        page.push_str(&format!(".SS {}\n{}\n", text(&heading), text(&sentence(&about))));
        let own = |arg: &&Arg| is_shown(arg) && !arg.is_global_set();
        below.get_arguments().filter(own).for_each(|arg| page.push_str(&entry(arg)));
    }
}

fn is_shown(arg: &Arg) -> bool {
    !arg.is_hide_set()
        && !matches!(
            arg.get_action(),
            ArgAction::Help | ArgAction::HelpLong | ArgAction::HelpShort | ArgAction::Version
        )
}

/// `[BACKUP]`, `DIR`.
fn placeholder(arg: &Arg) -> String {
    let names = arg.get_value_names().map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    let names = names.unwrap_or_else(|| arg.get_id().as_str().to_uppercase());
    if arg.is_required_set() || !arg.is_positional() { names } else { format!("[{names}]") }
}

/// One argument: how it is written, what it does, what it may be, what it is without.
fn entry(arg: &Arg) -> String {
    let takes_value = arg.get_action().takes_values();
    let mut written: Vec<String> = Vec::new();
    written.extend(arg.get_short().map(|short| format!("-{short}")));
    written.extend(arg.get_long().map(|long| format!("--{long}")));
    let mut written = format!("\\fB{}\\fR", text(&written.join(", ")));
    if arg.is_positional() {
        written = format!("\\fI{}\\fR", text(&placeholder(arg)));
    } else if takes_value {
        written.push_str(&format!(" \\fI{}\\fR", text(&placeholder(arg))));
    }
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut entry = format!(".TP\n{written}\n{}\n", text(&sentence(&help)));
    if takes_value {
        let values: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        if !values.is_empty() && !arg.is_hide_possible_values_set() {
            entry.push_str(&format!("One of: {}.\n", text(&values.join(", "))));
        }
        let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if !default.is_empty() && !arg.is_hide_default_value_set() {
            entry.push_str(&format!("Default: {}.\n", text(&default.join(" "))));
        }
    }
    entry
}

/// clap takes the full stop at the end of a help text away.
fn sentence(help: &str) -> String {
    if help.is_empty() || help.ends_with(['.', ']', ':']) { help.to_owned() } else { format!("{help}.") }
}

/// Text that stays what it is: no escapes, no requests at the beginning of a line, real minus signs, no empty lines.
#[must_use]
pub fn text(raw: &str) -> String {
    let mut lines = Vec::new();
    for line in raw.lines() {
        let line = line.trim().replace('\\', "\\e").replace('-', "\\-");
        match line.chars().next() {
            None => lines.push(".PP".to_owned()),
            Some('.' | '\'') => lines.push(format!("\\&{line}")),
            Some(_) => lines.push(line),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'_> = About {
        section: 1,
        files: &[("/etc/x", "the file")],
        variables: &[("X", "the variable")],
        see_also: &["y(8)", "z(5)"],
    };

    #[test]
    fn the_page_holds_every_visible_command_and_option_and_no_hidden_one() {
        let command = Command::new("boat")
            .version("1.2")
            .about("boat: floats.")
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .global(true)
                    .default_value("/etc/boat")
                    .help("The file"),
            )
            .subcommand(
                Command::new("hold")
                    .subcommand(
                        Command::new("add").about("Add one").arg(Arg::new("who").value_name("WHO").required(true)),
                    )
                    .subcommand(Command::new("list").about(".starts with a point")),
            )
            .subcommand(Command::new("secret").hide(true).about("Not for you"));
        let page = page(command, ABOUT);
        for part in [
            ".TH BOAT 1 \"\" \"Lifeboat 1.2\"\n",
            "boat \\- floats\n",
            "\\fB\\-\\-config\\fR \\fIFILE\\fR\nThe file.\nDefault: /etc/boat.\n",
            ".SS hold add WHO\nAdd one.\n.TP\n\\fIWHO\\fR\n",
            ".SS hold list\n\\&.starts with a point.\n",
            ".B 130\n",
            ".I /etc/x\nthe file\n",
            "y(8),\nz(5)\n",
        ] {
            assert!(page.contains(part), "{part:?} is not in\n{page}");
        }
        assert!(!page.contains("secret") && !page.contains("help"), "{page}");
        assert_eq!(page.matches("The file.").count(), 1, "what every command takes is described once");
    }

    #[test]
    fn nothing_in_a_text_is_taken_for_a_request_or_an_escape() {
        assert_eq!(text("a\\b --c\n.SH x\n'y\n\nz"), "a\\eb \\-\\-c\n\\&.SH x\n\\&'y\n.PP\nz");
    }
}
