//! Which access rules a copy gets where the server did not tell which ones it used.

use super::*;

#[test]
fn rules_that_were_not_in_force_do_not_take_force_in_a_copy() {
    let trust = ("pg_hba.conf", "local all all trust\n");
    let inside = ("rules/pg_hba.conf", "local all all peer\n");
    let (low, high) =
        (("conf.d/10.conf", "hba_file = 'rules/low.conf'\n"), ("conf.d/20.conf", "hba_file = 'rules/high.conf'\n"));
    let rules = [("rules/low.conf", "# low\n"), ("rules/high.conf", "# high\n")];
    for (settings, of_alter_system, expected) in [
        ("hba_file = '/etc/pg/access.conf'\n", "", minimal_pg_hba_conf()),
        ("", "hba_file = '/etc/pg/access.conf'\n", minimal_pg_hba_conf()),
        ("hba_file = 'rules/pg_hba.conf'\n", "", inside.1),
        ("hba_file = '/etc/a.conf'\n", "hba_file = 'rules/pg_hba.conf'\n", inside.1),
        // What is included is read where it is included, a directory by its names.
        ("include_dir 'conf.d'\n", "", "# high\n"),
        ("include_dir 'conf.d'\nhba_file = 'rules/low.conf'\n", "", "# low\n"),
        ("hba_file = 'rules/low.conf'\ninclude 'conf.d/20.conf'\n", "", "# high\n"),
    ] {
        let files = plain(
            &[
                [trust, inside, low, high].as_slice(),
                &rules,
                &[("postgresql.conf", settings), ("postgresql.auto.conf", of_alter_system)],
            ]
            .concat(),
        );
        let copy = copied_config(&server(&[], &[]), &files);
        assert_eq!(text(&copy, "pg_hba.conf"), expected, "{settings}{of_alter_system}");
        assert!(copy.notes.iter().any(|note| note.starts_with("pg_hba.conf: ")), "{:?}", copy.notes);
    }
}

#[test]
fn an_absolute_name_that_may_be_the_copys_own_file_takes_nothing_away() {
    let settings = "hba_file = '/srv/pg/pg_hba.conf'\nident_file = '/srv/pg/pg_ident.conf'\n";
    let files = plain(&[("postgresql.conf", settings)]);
    let copy = copied_config(&server(&[], &[]), &files);
    assert!(!copy.files.contains_key("pg_hba.conf") && !copy.files.contains_key("pg_ident.conf"), "{copy:?}");
    assert!(copy.notes.iter().any(|note| note.contains("pg_read_all_settings")), "{:?}", copy.notes);
    assert_eq!(missing_config(&server(&[], &[]), &files), BTreeMap::new());
}

#[test]
fn a_directory_whose_files_no_copy_can_have_is_not_included() {
    let kept = [
        ("/etc/pg/conf.d/a.conf", ConfigKind::Settings, "work_mem = '2MB'"),
        ("/etc/pg/odd.d/\u{0}.conf", ConfigKind::Settings, "work_mem = '3MB'"),
        ("/etc/pg/rules.d/\u{0}.conf", ConfigKind::Access, "local all all reject"),
    ];
    let mut server = server(&INSIDE, &kept);
    let directories = ["/etc/pg/conf.d", "/etc/pg/odd.d", "/etc/pg/rules.d"];
    server.config.directories = directories.into_iter().map(str::to_owned).collect();
    let settings = "include_dir '/etc/pg/conf.d'\ninclude_dir '/etc/pg/odd.d'\n";
    let rules = "local all all peer\ninclude_dir /etc/pg/rules.d\n";
    let copy = copied_config(&server, &plain(&[("postgresql.conf", settings), ("pg_hba.conf", rules)]));
    let settings = text(&copy, "postgresql.conf");
    assert!(settings.contains("include_dir 'lifeboat_conf/etc/pg/conf.d'"), "{settings}");
    assert!(settings.contains("# lifeboat: not in the backup: include_dir '/etc/pg/odd.d'"), "{settings}");
    assert_eq!(text(&copy, "pg_hba.conf"), minimal_pg_hba_conf(), "a rule in it could refuse somebody");
}
