//! Configurations of servers, and what their copies get.

use std::collections::BTreeSet;

use super::*;
use crate::backup::config_files::{KeptConfig, KeptFile, KeptValue};

mod in_force;

/// Files of a copy.
#[derive(Default)]
struct Files {
    files: BTreeMap<&'static str, &'static str>,
    left_out: Vec<String>,
    is_cut: bool,
}

impl Files {
    fn of(files: impl IntoIterator<Item = (&'static str, &'static str)>) -> Self {
        Self { files: files.into_iter().collect(), left_out: Vec::new(), is_cut: false }
    }
}

impl CopiedFiles for Files {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.files.get(path).map(|text| text.as_bytes().to_vec())
    }

    fn names(&self, directory: &str) -> Option<Vec<String>> {
        let below = self.files.keys().filter_map(|path| path.strip_prefix(directory)?.strip_prefix('/'));
        let names: Vec<String> = below.map(str::to_owned).collect();
        (!names.is_empty()).then_some(names)
    }

    fn left_out(&self) -> &[String] {
        &self.left_out
    }

    fn knows_all_left_out(&self) -> bool {
        !self.is_cut
    }
}

fn server(settings: &[(&str, &str)], kept: &[(&str, ConfigKind, &str)]) -> ServerFacts {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let file = |(path, kind, text): &(&str, ConfigKind, &str)| KeptFile {
        path: (*path).to_owned(),
        kind: *kind,
        content: text.as_bytes().to_vec(),
    };
    let config = KeptConfig { files: kept.iter().map(file).collect(), ..KeptConfig::default() };
    ServerFacts::sample(settings, config)
}

fn text<'a>(copy: &'a CopiedConfig, name: &str) -> &'a str {
    std::str::from_utf8(copy.files.get(name).unwrap_or_else(|| panic!("no {name} in {copy:?}"))).unwrap()
}

const INSIDE: [(&str, &str); 4] = [
    ("data_directory", "/srv/pg"),
    ("config_file", "/srv/pg/postgresql.conf"),
    ("hba_file", "/srv/pg/pg_hba.conf"),
    ("ident_file", "/srv/pg/pg_ident.conf"),
];
const PLAIN: [(&str, &str); 3] =
    [("postgresql.conf", "work_mem = '1MB'\n"), ("pg_hba.conf", "local all all peer\n"), ("pg_ident.conf", "")];

fn plain(more: &[(&'static str, &'static str)]) -> Files {
    Files::of(PLAIN.iter().chain(more).copied())
}

#[test]
fn configuration_that_lies_whole_in_the_data_directory_is_left_alone() {
    let more = [
        ("conf.d/a.conf", "port = 1"),
        ("postgresql.conf", "include_dir 'conf.d'\ninclude_if_exists 'none.conf'\n"),
        ("admins", "alice"),
        ("pg_hba.conf", "local all @admins peer"),
    ];
    assert_eq!(copied_config(&server(&INSIDE, &[]), &plain(&more)), CopiedConfig::default());
    let mut untold = copied_config(&server(&[], &[]), &plain(&more));
    let note = untold.notes.pop().unwrap();
    assert!(note.starts_with("pg_hba.conf, pg_ident.conf: ") && note.contains("pg_read_all_settings"), "{note}");
    assert_eq!(untold, CopiedConfig::default());
}

#[test]
fn absolute_names_of_the_original_become_the_copys_own() {
    let more = [
        ("conf.d/a.conf", "data_directory = '/srv/pg'\nwork_mem = 1MB"),
        ("postgresql.conf", "include_dir '/srv/pg/conf.d'\nhba_file = '/srv/pg/pg_hba.conf'\nport = 1"),
    ];
    let copy = copied_config(&server(&INSIDE, &[]), &plain(&more));
    assert_eq!(
        text(&copy, "postgresql.conf"),
        "# lifeboat: was: include_dir '/srv/pg/conf.d'\ninclude_dir 'conf.d'\n\
         # lifeboat: a place of the original: hba_file = '/srv/pg/pg_hba.conf'\nport = 1"
    );
    let included = "# lifeboat: a place of the original: data_directory = '/srv/pg'\nwork_mem = 1MB";
    assert_eq!(text(&copy, "conf.d/a.conf"), included);
    assert_eq!(copy.files.len(), 2);
}

#[test]
fn the_file_of_alter_system_is_followed_like_any_other() {
    let auto = "include '/etc/pg/more.conf'\ninclude_dir '/etc/pg/conf.d'\n";
    let kept = [
        ("/etc/pg/more.conf", ConfigKind::Settings, "work_mem = '2MB'"),
        ("/etc/pg/conf.d/x.conf", ConfigKind::Settings, "work_mem = '3MB'"),
    ];
    let mut server = server(&INSIDE, &kept);
    server.config.directories = BTreeSet::from(["/etc/pg/conf.d".to_owned()]);
    let copy = copied_config(&server, &plain(&[("postgresql.auto.conf", auto)]));
    assert!(text(&copy, "postgresql.auto.conf").ends_with("include_dir 'lifeboat_conf/etc/pg/conf.d'\n"));
    assert_eq!(text(&copy, "lifeboat_conf/etc/pg/more.conf"), "work_mem = '2MB'");
    assert_eq!(text(&copy, "lifeboat_conf/etc/pg/conf.d/x.conf"), "work_mem = '3MB'");
}

#[test]
fn what_the_file_of_alter_system_refers_to_is_missed_like_any_other() {
    let files = plain(&[("postgresql.auto.conf", "include '/etc/pg/more.conf'\n")]);
    let missing = missing_config(&server(&INSIDE, &[]), &files);
    assert!(missing.keys().any(|path| path == "/etc/pg/more.conf"), "{missing:?}");
}

#[test]
fn a_main_file_outside_may_include_its_namesake_in_the_data_directory() {
    let settings =
        [INSIDE[0], ("config_file", "/etc/pg/postgresql.conf"), ("hba_file", "/etc/pg/pg_hba.conf"), INSIDE[3]];
    let kept = [
        ("/etc/pg/postgresql.conf", ConfigKind::Settings, "include '/srv/pg/postgresql.conf'\nwork_mem = '8MB'\n"),
        ("/etc/pg/pg_hba.conf", ConfigKind::Access, "include /srv/pg/pg_hba.conf\n"),
    ];
    let files = plain(&[("postgresql.conf", "include 'more.conf'\n"), ("more.conf", "max_connections = 50\n")]);
    let copy = copied_config(&server(&settings, &kept), &files);
    assert!(
        text(&copy, "postgresql.conf").contains("\ninclude 'lifeboat_conf/data_directory/postgresql.conf'\nwork_mem")
    );
    let inner = "lifeboat_conf/data_directory/postgresql.conf";
    assert!(text(&copy, inner).contains("\ninclude '../../more.conf'"), "{copy:?}");
    assert!(text(&copy, "pg_hba.conf").contains("lifeboat_conf/data_directory/pg_hba.conf"), "{copy:?}");
    assert_eq!(text(&copy, "lifeboat_conf/data_directory/pg_hba.conf"), files.files["pg_hba.conf"]);
}

#[test]
fn what_a_server_would_follow_comes_into_no_copy_as_configuration_either() {
    let files = plain(&[("tablespace_map", "16384 /srv/live\n")]);
    let settings = [INSIDE[0], ("config_file", "/etc/pg/postgresql.conf"), INSIDE[2], INSIDE[3]];
    let text_of = "include '/srv/pg/tablespace_map'\ninclude 'pgsql_tmp.conf'\n";
    let kept = [
        ("/etc/pg/postgresql.conf", ConfigKind::Settings, text_of),
        ("/etc/pg/pgsql_tmp.conf", ConfigKind::Settings, "work_mem = '8MB'\n"),
    ];
    let copy = copied_config(&server(&settings, &kept), &files);
    let written = text(&copy, "postgresql.conf");
    assert!(written.lines().filter(|line| line.starts_with("include")).count() == 0, "{written}");
    assert!(!copy.files.keys().any(|name| name.contains("tablespace_map") || name.contains("pgsql_tmp")), "{copy:?}");
}

#[test]
fn a_file_is_found_however_its_path_was_set() {
    let settings = [("data_directory", "/srv/pg"), ("hba_file", "/etc/pg/../hba//main.conf")];
    let kept = [("/etc/pg/../hba//main.conf", ConfigKind::Access, "local all all scram-sha-256")];
    let copy = copied_config(&server(&settings, &kept), &plain(&[]));
    assert_eq!(text(&copy, "pg_hba.conf"), "local all all scram-sha-256");
}

#[test]
fn an_include_without_a_name_does_not_stop_the_copy() {
    for line in ["include ''", "include_if_exists ' '", "include_dir ''"] {
        let copy = copied_config(&server(&INSIDE, &[]), &plain(&[("postgresql.conf", line)]));
        assert!(text(&copy, "postgresql.conf").starts_with("# lifeboat: "), "{copy:?}");
    }
}

#[test]
fn what_was_kept_outside_comes_into_the_copy() {
    let outside = [
        ("data_directory", "/srv/pg"),
        ("config_file", "/etc/pg/postgresql.conf"),
        ("hba_file", "/etc/pg/pg_hba.conf"),
        ("ident_file", "/etc/pg/pg_ident.conf"),
    ];
    let kept = [
        ("/etc/pg/postgresql.conf", ConfigKind::Settings, "include 'more/b.conf'\ninclude_dir '/etc/pg/conf.d'\n"),
        ("/etc/pg/more/b.conf", ConfigKind::Settings, "include '/etc/pg/deep.conf'"),
        ("/etc/pg/deep.conf", ConfigKind::Settings, "port = 1"),
        ("/etc/pg/conf.d/x.conf", ConfigKind::Settings, "port = 2"),
        ("/etc/pg/pg_hba.conf", ConfigKind::Access, "local all @admins peer"),
        ("/etc/pg/admins", ConfigKind::Names, "alice"),
        ("/etc/pg/pg_ident.conf", ConfigKind::Ident, "map a b"),
    ];
    let mut server = server(&outside, &kept);
    server.config.directories = BTreeSet::from(["/etc/pg/conf.d".to_owned()]);
    // A stale file of `initdb` lies in the data directory: nobody used it.
    let files = Files::of([("pg_hba.conf", "local all all trust")]);
    let copy = copied_config(&server, &files);
    assert_eq!(
        text(&copy, "postgresql.conf"),
        "# lifeboat: was: include 'more/b.conf'\ninclude 'lifeboat_conf/etc/pg/more/b.conf'\n\
         # lifeboat: was: include_dir '/etc/pg/conf.d'\ninclude_dir 'lifeboat_conf/etc/pg/conf.d'\n"
    );
    assert!(text(&copy, "lifeboat_conf/etc/pg/more/b.conf").ends_with("\ninclude '../deep.conf'"));
    assert_eq!(text(&copy, "lifeboat_conf/etc/pg/conf.d/x.conf"), "port = 2");
    assert_eq!(text(&copy, "pg_hba.conf"), "local all @lifeboat_conf/etc/pg/admins peer");
    assert_eq!(text(&copy, "lifeboat_conf/etc/pg/admins"), "alice");
    assert_eq!(text(&copy, "pg_ident.conf"), "map a b");
    assert!(copy.notes.iter().any(|note| note.contains("/etc/pg/pg_hba.conf")), "{:?}", copy.notes);
}

#[test]
fn an_include_that_nobody_has_is_commented_out_and_what_it_set_stands_in_its_place() {
    let more =
        [("postgresql.conf", "include_dir '/etc/conf.d'\ninclude '/etc/gone.conf'\ninclude_if_exists '/etc/no'\n")];
    let mut server = server(&INSIDE, &[]);
    let value = |name: &str, value: &str| KeptValue {
        path: "/etc/conf.d/a.conf".to_owned(),
        name: name.to_owned(),
        value: value.to_owned(),
    };
    server.config.values = vec![value("work_mem", "17408"), value("hba_file", "/etc/hba"), value("a.b", "it's")];
    let copy = copied_config(&server, &plain(&more));
    assert_eq!(
        text(&copy, "postgresql.conf"),
        "# lifeboat: not in the backup: include_dir '/etc/conf.d'\nwork_mem = '17408'\na.b = 'it''s'\n\
         # lifeboat: not in the backup: include '/etc/gone.conf'\n\
         # lifeboat: not in the backup: include_if_exists '/etc/no'\n"
    );
    let notes = copy.notes.join("\n");
    assert!(notes.contains("/etc/conf.d") && notes.contains("/etc/gone.conf") && !notes.contains("/etc/no"), "{notes}");
}

#[test]
fn access_rules_are_all_or_nothing() {
    for (why, settings, files) in [
        (
            "a part is missing",
            INSIDE.as_slice(),
            plain(&[("pg_hba.conf", "local all @gone reject\nlocal all all trust")]),
        ),
        (
            "they lay outside, and a stale file inside",
            &[("data_directory", "/srv/pg"), ("hba_file", "/etc/pg_hba.conf")],
            plain(&[("pg_hba.conf", "local all all trust")]),
        ),
        ("nobody knows where they lay", &[], Files::of([("postgresql.conf", ""), ("pg_ident.conf", "")])),
    ] {
        let copy = copied_config(&server(settings, &[]), &files);
        let rules: Vec<&str> = text(&copy, "pg_hba.conf").lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(rules, ["local   all       all   peer"], "{why}");
        assert!(
            copy.notes.iter().any(|note| note.starts_with("pg_hba.conf: not in the backup")),
            "{why}: {:?}",
            copy.notes
        );
        assert_eq!(copy.files.contains_key("pg_hba.conf.original"), why == "a part is missing", "{why}");
    }
}

#[test]
fn without_any_text_the_settings_that_are_known_are_written() {
    let mut server = server(&[("config_file", "/etc/postgresql.conf"), ("max_connections", "33")], &[]);
    server.config.values = vec![KeptValue {
        path: "/etc/postgresql.conf".to_owned(),
        name: "work_mem".to_owned(),
        value: "17408".to_owned(),
    }];
    let copy = copied_config(&server, &Files::default());
    let settings: Vec<&str> = text(&copy, "postgresql.conf").lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(settings, ["max_connections = '33'", "work_mem = '17408'"]);
}

const OFF: &str = "ssl = off    # a file that TLS needs is not in the backup\n";

#[test]
fn a_value_of_a_setting_is_quoted_whatever_is_in_it() {
    let tls = [("ssl", "on"), ("ssl_cert_file", "/etc/ssl/it's.crt"), ("ssl_key_file", "server.key")];
    let kept = [("/etc/ssl/it's.crt", ConfigKind::Certificate, "PEM")];
    let copy = copied_config(&server(&[&INSIDE[..], &tls].concat(), &kept), &plain(&[("server.key", "KEY")]));
    assert_eq!(copy.settings, ["ssl_cert_file = 'lifeboat_conf/etc/ssl/it''s.crt'    # the copy's own file\n"]);
}

#[test]
fn tls_is_off_in_a_copy_that_lacks_a_file_for_it() {
    let tls = |key: &'static str| {
        let more =
            [("ssl", "on"), ("ssl_cert_file", "/etc/ssl/server.crt"), ("ssl_key_file", key), ("ssl_ca_file", "")];
        [&INSIDE[..], &more].concat()
    };
    let kept = [("/etc/ssl/server.crt", ConfigKind::Certificate, "PEM")];
    let without = copied_config(&server(&tls("/etc/ssl/server.key"), &kept), &plain(&[]));
    assert_eq!(
        without.settings,
        ["ssl_cert_file = 'lifeboat_conf/etc/ssl/server.crt'    # the copy's own file\n", OFF]
    );
    assert!(without.notes.iter().any(|note| note.contains("/etc/ssl/server.key")), "{:?}", without.notes);
    let with = copied_config(&server(&tls("server.key"), &kept), &plain(&[("server.key", "KEY")]));
    let name = "lifeboat_conf/etc/ssl/server.crt";
    assert_eq!(with.settings, [format!("ssl_cert_file = '{name}'    # the copy's own file\n")]);
    assert_eq!(text(&with, name), "PEM");
    let off = copied_config(&server(&[&INSIDE[..], &[("ssl_key_file", "/no")]].concat(), &[]), &plain(&[]));
    assert_eq!(off, CopiedConfig::default());
}

/// `pg_hba.conf` and `postgresql.conf` include a directory each, with one file less than the server had.
fn partial(directory: &str) -> [(&'static str, String); 2] {
    [
        ("pg_hba.conf", format!("include_dir '{directory}/hba.d'\nlocal all all trust").replace('\'', "\"")),
        ("postgresql.conf", format!("include_dir '{directory}/conf.d'\nport = 1")),
    ]
}

#[test]
fn a_directory_that_is_there_only_in_parts_counts_for_no_whole_one() {
    let not_kept =
        |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "it is too long".to_owned())).collect();
    for (why, directory, kept, copied, not_kept, left_out) in [
        (
            "a file of it was too long",
            "/etc/pg",
            vec!["/etc/pg/hba.d/50.conf", "/etc/pg/conf.d/50.conf"],
            vec![],
            not_kept(&["/etc/pg/hba.d/10.conf", "/etc/pg/conf.d/10.conf"]),
            vec![],
        ),
        (
            "a file of it is a link that the role may not read",
            "/srv/pg",
            vec![],
            vec![("hba.d/50.conf", "local all all md5"), ("conf.d/50.conf", "work_mem = 1MB")],
            not_kept(&["/srv/pg/hba.d/10.conf", "/srv/pg/conf.d/10.conf"]),
            vec![],
        ),
        (
            "a file of it is a link, and the role may not look there",
            "/srv/pg",
            vec![],
            vec![("hba.d/50.conf", "local all all md5"), ("conf.d/50.conf", "work_mem = 1MB")],
            not_kept(&["/srv/pg/hba.d", "/srv/pg/conf.d"]),
            vec!["hba.d/10.conf", "/srv/pg/conf.d/10.conf"],
        ),
    ] {
        let kind = |path: &&str| if path.contains("hba") { ConfigKind::Access } else { ConfigKind::Settings };
        let kept: Vec<_> = kept.iter().map(|path| (*path, kind(path), "# nothing")).collect();
        let mut server = server(&INSIDE, &kept);
        server.config.directories = ["hba.d", "conf.d"].map(|name| format!("{directory}/{name}")).into();
        server.config.not_kept = not_kept;
        server.config.values = vec![KeptValue {
            path: format!("{directory}/conf.d/10.conf"),
            name: "work_mem".to_owned(),
            value: "17408".to_owned(),
        }];
        let main: Vec<(&'static str, &'static str)> =
            partial(directory).into_iter().map(|(name, text)| (name, &*text.leak())).collect();
        let mut files = Files::of([PLAIN.to_vec(), copied, main].concat());
        files.left_out = left_out.into_iter().map(str::to_owned).collect();
        let copy = copied_config(&server, &files);
        assert!(text(&copy, "pg_hba.conf").contains("local   all       all   peer"), "{why}: {copy:?}");
        // Settings have no such rule: what is there counts.
        let settings = text(&copy, "postgresql.conf");
        assert!(settings.contains("\nwork_mem = '17408'\nport = 1"), "{why}: {settings}");
        assert!(settings.lines().any(|line| line.starts_with("include_dir '")), "{why}: {settings}");
        assert!(
            copy.notes.iter().any(|note| note.contains("conf.d is in the backup only in parts")),
            "{why}: {copy:?}"
        );
        let missing = missing_config(&server, &files);
        let lacks = format!("lacks {directory}/hba.d/10.conf: ");
        assert!(missing[&format!("{directory}/hba.d")].contains(&lacks), "{why}: {missing:?}");
    }
}

#[test]
fn a_link_in_a_directory_comes_into_the_copy_if_it_is_kept() {
    let more = [("pg_hba.conf", "include_dir hba.d\nlocal all all trust"), ("hba.d/50.conf", "local all all md5")];
    let kept = [("/srv/pg/hba.d/10.conf", ConfigKind::Access, "local all all reject")];
    let mut server = server(&INSIDE, &kept);
    server.config.directories = BTreeSet::from(["/srv/pg/hba.d".to_owned()]);
    let mut files = plain(&more);
    files.left_out = vec!["hba.d/10.conf".to_owned()];
    let copy = copied_config(&server, &files);
    assert_eq!(text(&copy, "hba.d/10.conf"), "local all all reject");
    assert!(!copy.files.contains_key("pg_hba.conf"), "{copy:?}");
}

#[test]
fn an_include_of_an_empty_directory_that_nobody_makes_is_commented_out() {
    let more = [
        ("postgresql.conf", "include_dir '/etc/pg/conf.d'\nport = 1"),
        ("pg_hba.conf", "include_dir /etc/pg/conf.d\nlocal all all md5"),
    ];
    let mut server = server(&INSIDE, &[]);
    server.config.directories = BTreeSet::from(["/etc/pg/conf.d".to_owned()]);
    let copy = copied_config(&server, &plain(&more));
    assert_eq!(text(&copy, "postgresql.conf"), "# lifeboat: no file was in it: include_dir '/etc/pg/conf.d'\nport = 1");
    let rules = "# lifeboat: no file was in it: include_dir /etc/pg/conf.d\nlocal all all md5";
    assert_eq!(text(&copy, "pg_hba.conf"), rules);
    assert_eq!(copy.notes, Vec::<String>::new());
}

#[test]
fn only_the_word_that_refers_to_a_file_is_changed() {
    let names = [
        ("/etc/sales", ConfigKind::Names, "a"),
        ("/etc/b c", ConfigKind::Names, "b"),
        ("/etc/a", ConfigKind::Names, "c"),
    ];
    for (line, expected) in [
        ("host sales @sales 0.0.0.0/0 reject", "host sales @lifeboat_conf/etc/sales 0.0.0.0/0 reject"),
        ("local @a,@a @a peer", "local @lifeboat_conf/etc/a,@lifeboat_conf/etc/a @lifeboat_conf/etc/a peer"),
        ("local all @a peer # @a", "local all @lifeboat_conf/etc/a peer # @a"),
        ("local all @\"b c\" peer", "local all @\"lifeboat_conf/etc/b c\" peer"),
        ("local \"\u{e9}\" @a peer", "local \"\u{e9}\" @lifeboat_conf/etc/a peer"),
    ] {
        let mut kept = names.to_vec();
        kept.push(("/etc/pg_hba.conf", ConfigKind::Access, line));
        let mut server = server(&[("data_directory", "/srv/pg"), ("hba_file", "/etc/pg_hba.conf")], &kept);
        let copy = copied_config(&server, &plain(&[]));
        assert_eq!(text(&copy, "pg_hba.conf"), expected);
        // Bytes that are no UTF-8 stay what they are.
        let rules = server.config.files.iter_mut().find(|file| file.path == "/etc/pg_hba.conf").unwrap();
        rules.content.extend(b" \xe9");
        let copy = copied_config(&server, &plain(&[]));
        assert_eq!(copy.files["pg_hba.conf"], [expected.as_bytes(), b" \xe9"].concat());
    }
}

#[test]
fn access_rules_that_may_be_missing_are_missed_unless_they_were_not_there() {
    let rules = [("pg_hba.conf", "include_if_exists /etc/pg/deny.conf\nhost all all 0.0.0.0/0 scram-sha-256\n")];
    let mut server = server(&INSIDE, &[]);
    let copy = copied_config(&server, &plain(&rules));
    assert!(!text(&copy, "pg_hba.conf").contains("0.0.0.0"), "rules that refuse somebody may be gone");
    assert!(copy.notes.iter().any(|note| note.contains("/etc/pg/deny.conf")), "{:?}", copy.notes);
    server.config.not_there.insert("/etc/pg/deny.conf".to_owned());
    let copy = copied_config(&server, &plain(&rules));
    assert!(text(&copy, "pg_hba.conf").contains("0.0.0.0"), "{:?}", copy.notes);
    // Settings that may be missing refuse nobody.
    let settings = [("postgresql.conf", "include_if_exists '/etc/pg/more.conf'\n")];
    let copy = copied_config(&server, &plain(&settings));
    assert!(text(&copy, "postgresql.conf").contains("include_if_exists"));
}

#[test]
fn no_copied_directory_of_access_rules_is_whole_if_not_all_that_was_left_out_is_named() {
    let mut files = plain(&[("pg_hba.conf", "include_dir hba.d\n"), ("hba.d/20.conf", "host all all all trust\n")]);
    assert_eq!(copied_config(&server(&INSIDE, &[]), &files).files.get("pg_hba.conf"), None);
    files.is_cut = true;
    let copy = copied_config(&server(&INSIDE, &[]), &files);
    assert!(!text(&copy, "pg_hba.conf").contains("hba.d"), "{copy:?}");
    // The server itself has told what is in it.
    let mut told = server(&INSIDE, &[]);
    told.config.directories.insert("/srv/pg/hba.d".to_owned());
    assert_eq!(copied_config(&told, &files).files.get("pg_hba.conf"), None);
}

#[test]
fn what_a_restore_before_has_left_in_the_copy_is_read_by_no_include() {
    let settings = [INSIDE[0], INSIDE[1], ("hba_file", "/etc/pg/pg_hba.conf"), INSIDE[3]];
    let kept = [
        ("/etc/pg/pg_hba.conf", ConfigKind::Access, "include_dir hba.d\n"),
        ("/etc/pg/hba.d/base.conf", ConfigKind::Access, "local all all peer\n"),
    ];
    let mut server = server(&settings, &kept);
    server.config.directories.insert("/etc/pg/hba.d".to_owned());
    // Deleted on the server since; its copy came into the backup with the data directory.
    let old = ("lifeboat_conf/etc/pg/hba.d/allow.conf", "host all all 0.0.0.0/0 trust\n");
    for (files, folder) in [
        (plain(&[]), "lifeboat_conf"),
        (plain(&[old]), "lifeboat_conf_2"),
        (plain(&[old, ("lifeboat_conf_2/etc/pg/hba.d/allow.conf", "")]), "lifeboat_conf_3"),
    ] {
        let copy = copied_config(&server, &files);
        assert!(text(&copy, "pg_hba.conf").contains(&format!("include_dir {folder}/etc/pg/hba.d")), "{copy:?}");
        assert_eq!(text(&copy, &format!("{folder}/etc/pg/hba.d/base.conf")), "local all all peer\n");
    }
}
