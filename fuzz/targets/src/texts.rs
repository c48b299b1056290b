//! Texts to begin with, as operators, PostgreSQL and S3 servers write them.

/// Target, name, text.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    TEXTS.into_iter().chain(S3)
}

const TEXTS: [(&str, &str, &str); 35] = [
    ("layout", "descriptor", "lifeboat.json"),
    ("layout", "note", "log/00000000000000000042.note"),
    ("layout", "slots", "keys/02020202020202020202020202020202/0.json"),
    ("layout", "pack", "data/20261120T020003Z-5f1c09ab/p000000-04040404040404040404040404040404.lbp"),
    ("layout", "index", "data/20261120T020003Z-5f1c09ab/index-0000.lbx"),
    ("layout", "packs", "data/20261120T020003Z-5f1c09ab/packs.sha256"),
    ("layout", "piece", "wal/0000000a/0000000001000000-0000000002000000.lbw"),
    ("layout", "slice", "slices/0000000a/0000000001ffffff-0000000002000001.lbs"),
    ("layout", "history", "wal/0000000a/history.lbb"),
    ("layout", "lease", "state/lease-lifeboat.example_db1.json"),
    ("layout", "head", "state/head-lifeboat.example_db1.note"),
    ("layout", "url", "s3://bucket/prefix/more"),
    ("layout", "directory", "file:///srv/backup%20s"),
    ("keys", "identity", "# a comment\nlifeboat-sk-1gpq5ys6yg4rywjzfff95cn2wfag9z5jn2324v46ct9d9khzate0sdwf96z\n"),
    ("keys", "recipient", "lifeboat-pk-10xnrrmk7r0uunrcjqvkdatwsu7s8jwv0c7rt3rxggmkgntu955dqry56pf"),
    ("keys", "verify", "lifeboat-verify-1z0vepznsjfve9m25vqrayl6smf5t5ushaa32c0x20pzjnlcsguwq4cwgrk"),
    ("keys", "sign", "lifeboat-sign-1urs79clyuhnw068fat47em0walc0ruhn7n6ldalcl8a0hl8almls2lgpe6\n"),
    (
        "keys",
        "locked",
        "lifeboat-locked-1qyqqgqqqqgqqqqqyqqqqqqqpqgpsgpgxquyqjzstpsxsurad53qlrpu8gh4uc9d2ut8fuu9r297v44slgm8qc36kpyaephfvcxwr0y5vhpq0fmthzpqsutrp4knqck30tm\n",
    ),
    ("config", "example", include_str!("../../../config/lifeboat.example.toml")),
    (
        "config",
        "short",
        "[cluster]\nname = \"main\"\nconnection = \"host=/run/postgresql\"\n[[region]]\nname = \"eu\"\nurl = \"s3://b/p\"\n",
    ),
    (
        "connection",
        "words",
        "host=/run/postgresql,db port=5432,5433 dbname='my db' user=u password='p\\'w' sslmode=verify-full",
    ),
    (
        "connection",
        "uri",
        "postgresql://u:p%40w@[::1]:5433,db:5432/my%20db?target_session_attrs=primary&connect_timeout=5",
    ),
    (
        "backup_label",
        "standby",
        "START WAL LOCATION: 16/B3000028 (file 0000000A00000016000000B3)\nCHECKPOINT LOCATION: 16/B3000060\nBACKUP METHOD: streamed\nBACKUP FROM: standby\nSTART TIME: 2026-11-20 21:00:00 UTC\nLABEL: weekly: full\nSTART TIMELINE: 10\n",
    ),
    (
        "history",
        "two",
        "1\t0/3000000\tno recovery target specified\n\n# a comment\n2\t0/5000148\tbefore 2026-11-20 21:00:00+00\n",
    ),
    (
        "words",
        "vocabulary",
        "16/B374D848\n20261120T020003Z-5f1c09ab\neu-1\n2026-11-20 03:41:07.5+01\n2026-11-20T02:41:07Z\n128MiB\n16MB\n0000000A0000000100000010\nlifeboat.example/db1\npruner\nhttps://host:9000\n",
    ),
    (
        "words",
        "settings",
        "90s\n7 d\n0 2 * * 1-5\n*/15 0-6 1,15 * *\nMon-Fri 22:00-06:00\n08:00-09:30\nfile:/etc/key\nenv:KEY\ncredential:key\n",
    ),
    (
        "words",
        "regions",
        "s3://bucket/prefix?endpoint=https://host:9000&profile=minio&region=us-east-1&ca=/etc/ca.pem&name=us\nfile:///srv/backups\n",
    ),
    (
        "copied_config",
        "inside",
        "=set data_directory /srv/pg\n=set config_file /srv/pg/postgresql.conf\n=set hba_file /srv/pg/pg_hba.conf\n=set ident_file /srv/pg/pg_ident.conf\n=copy postgresql.conf\nwork_mem = '1MB'\ninclude_dir 'conf.d'\ninclude_if_exists 'more.conf'\n=copy conf.d/a.conf\nport = 5433\n=copy pg_hba.conf\nlocal all @admins peer\n=copy admins\nmia\n=copy pg_ident.conf\n",
    ),
    (
        "copied_config",
        "outside",
        "=set data_directory /srv/pg\n=set config_file /etc/pg/postgresql.conf\n=set hba_file /etc/pg/pg_hba.conf\n=set ident_file /etc/pg/pg_ident.conf\n=settings /etc/pg/postgresql.conf\ndata_directory = '/srv/pg'\ninclude_dir '/etc/pg/conf.d'\ninclude '../common.conf'\n=settings /etc/pg/conf.d/a.conf\nhba_file = '/etc/pg/pg_hba.conf'\n=settings /etc/common.conf\nmax_connections = 7\n=dir /etc/pg/conf.d\n=access /etc/pg/pg_hba.conf\nhost all all 10.0.0.0/8 scram-sha-256\ninclude \"other hba.conf\"\n=access /etc/pg/other hba.conf\nlocal all all peer\n=ident /etc/pg/pg_ident.conf\nmap mia postgres\n=copy postgresql.auto.conf\nwork_mem = '2MB'\n",
    ),
    (
        "copied_config",
        "lacking",
        "=set data_directory /srv/pg\n=set max_connections 300\n=set ssl on\n=set ssl_cert_file server.crt\n=set ssl_key_file /etc/ssl/server.key\n=copy postgresql.conf\ninclude 'gone.conf'\ninclude_dir 'conf.d'\n=unkept /srv/pg/gone.conf\n=out conf.d/b.conf\n=copy conf.d/a.conf\nport=1\n=value /srv/pg/gone.conf shared_buffers 16384\n=copy pg_hba.conf\ninclude_if_exists deny.conf\n=absent /srv/pg/deny.conf\n=copy server.crt\n-----BEGIN CERTIFICATE-----\n",
    ),
    ("tar", "empty", "\0"),
    ("protocol", "ready", "Z\0\0\0\u{5}IR\0\0\0\u{8}\0\0\0\0"),
    ("protocol", "error", "E\0\0\0\u{18}SERROR\0C42601\0Mno way\0\0"),
    ("control_file", "short", "\0control"),
    ("data_pages", "short", "page"),
];

const S3: [(&str, &str, &str); 8] = [
    (
        "s3_answer",
        "get",
        "\u{0}200\netag: \"1\"\nlast-modified: Fri, 20 Nov 2026 02:41:07 GMT\ncontent-length: 5\n\nhello",
    ),
    (
        "s3_answer",
        "part",
        "\u{1}206\netag: \"1\"\nlast-modified: Fri, 20 Nov 2026 02:41:07 GMT\ncontent-length: 5\ncontent-range: bytes 0-4/5\n\nhello",
    ),
    (
        "s3_answer",
        "list",
        "\u{2}200\ndate: Fri, 20 Nov 2026 02:41:07 GMT\ncontent-type: application/xml\n\n<?xml version=\"1.0\"?><ListBucketResult><Prefix>main/log/</Prefix><IsTruncated>false</IsTruncated><Contents><Key>main/log/00000000000000000042.note</Key><Size>5</Size><ETag>\"1\"</ETag><LastModified>2026-11-20T02:41:07.000Z</LastModified></Contents></ListBucketResult>",
    ),
    ("s3_answer", "head", "\u{3}200\netag: \"1\"\nlast-modified: Fri, 20 Nov 2026 02:41:07 GMT\ncontent-length: 5\n\n"),
    ("s3_answer", "delete", "\u{4}204\n\n"),
    (
        "s3_answer",
        "lock",
        "\u{5}200\netag: \"1\"\nlast-modified: Fri, 20 Nov 2026 02:41:07 GMT\nx-amz-object-lock-mode: GOVERNANCE\nx-amz-object-lock-retain-until-date: 2026-12-20T02:41:07Z\n\n",
    ),
    (
        "s3_answer",
        "put",
        "\u{6}200\netag: \"1\"\n\n\n----\n200\ncontent-type: application/xml\n\n<?xml version=\"1.0\"?><ListBucketResult><Prefix>main/log/00000000000000000042.note</Prefix><IsTruncated>false</IsTruncated><Contents><Key>main/log/00000000000000000042.note</Key><Size>5</Size><ETag>\"1\"</ETag></Contents></ListBucketResult>",
    ),
    (
        "s3_answer",
        "refused",
        "\u{7}412\ncontent-type: application/xml\n\n<?xml version=\"1.0\"?><Error><Code>PreconditionFailed</Code><Message>no</Message></Error>",
    ),
];
