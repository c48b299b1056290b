use super::*;

fn name() -> RegionName {
    "one".parse().unwrap()
}

fn keys(settings: &RegionSettings) -> Vec<&'static str> {
    settings.faults().into_iter().map(|fault| fault.key).collect()
}

#[test]
fn a_table_with_an_unknown_key_or_an_impossible_value_is_refused() {
    for (why, toml) in [
        ("unknown key", "name = 'a'\nurl = 's3://bucket'\nendpont = 'https://x'"),
        ("no url", "name = 'a'"),
        ("bad name", "name = 'A B'\nurl = 's3://bucket'"),
        ("bad url", "name = 'a'\nurl = 'bucket'"),
        ("not yet", "name = 'a'\nurl = 'gs://bucket'"),
        ("bad profile", "name = 'a'\nurl = 's3://bucket'\nprofile = 'azure'"),
        ("bad endpoint", "name = 'a'\nurl = 's3://bucket'\nendpoint = 'host'"),
        ("no unit", "name = 'a'\nurl = 's3://bucket'\nmax_bandwidth = '12'"),
        ("patience without a unit", "name = 'a'\nurl = 's3://bucket'\npatience = '12'"),
    ] {
        assert!(toml::from_str::<RegionSettings>(toml).is_err(), "{why}");
    }
}

#[test]
fn a_table_with_name_and_url_is_enough() {
    let settings: RegionSettings = toml::from_str("name = 'fra'\nurl = 's3://acme-fra/pg'").unwrap();
    assert_eq!(settings, RegionSettings::at("fra".parse().unwrap(), "s3://acme-fra/pg".parse().unwrap()));
    assert_eq!(settings.effective_profile(), ProfileName::aws());
    assert_eq!(settings.faults(), []);
}

#[test]
fn every_key_of_a_table_is_read() {
    let settings: RegionSettings = toml::from_str(
        "name = 'a'\nurl = 's3://bucket'\nprofile = 'minio'\nendpoint = 'https://host:9000'\ns3_region = 'x'\n\
         ca_file = '/ca'\naws_profile = 'p'\nrole_arn = 'arn:aws:iam::1:role/r'\nbucket_owner = '123456789012'\n\
         allow_plain_http = true\nmax_concurrency = 3\nmax_bandwidth = '5MiB'\npatience = '90s'",
    )
    .unwrap();
    assert_eq!(settings.endpoint.as_ref().map(Endpoint::as_str), Some("https://host:9000"));
    assert_eq!(settings.profile.as_ref().map(ProfileName::as_str), Some("minio"));
    assert_eq!((settings.max_concurrency, settings.max_bandwidth), (3, Some(ByteCount::from_mib(5))));
    assert_eq!(settings.patience, Duration::from_secs(90));
    assert_eq!(settings.faults(), []);
}

#[test]
fn an_address_with_a_parameter_that_is_not_understood_is_refused() {
    for address in [
        "s3://bucket?endpont=https://x",
        "s3://bucket?profile=azure",
        "s3://bucket?endpoint",
        "s3://bucket?endpoint=",
        "s3://bucket?endpoint=https://key:secret@host",
        "s3://bucket?allow_plain_http=yes",
        "s3://bucket?patience=20",
        "s3://bucket?name=A",
        "bucket?profile=aws",
    ] {
        assert!(RegionSettings::from_url(name(), address).is_err(), "{address}");
    }
}

#[test]
fn an_address_alone_describes_a_region() {
    let address = "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&profile=minio&region=us-east-1&ca=/my%20ca.pem\
                   &name=virginia&allow_plain_http=true&aws_profile=x&bucket_owner=123456789012";
    let settings = RegionSettings::from_url(name(), address).unwrap();
    assert_eq!(settings.name.as_str(), "virginia");
    assert_eq!(settings.url.to_string(), "s3://bucket/prefix");
    assert_eq!(settings.endpoint.as_ref().map(Endpoint::as_str), Some("http://127.0.0.1:9000"));
    assert_eq!(settings.ca_file, Some("/my ca.pem".into()));
    assert_eq!(settings.s3_region.as_deref(), Some("us-east-1"));
    assert!(settings.allow_plain_http);
    let directory = RegionSettings::from_url(name(), "file:///var/backups").unwrap();
    assert_eq!(directory, RegionSettings::at(name(), "file:///var/backups".parse().unwrap()));
}

#[test]
fn settings_that_cannot_work_together_are_all_named_at_once() {
    for (address, expected) in [
        ("file:///a", vec![]),
        ("file:///a?profile=aws&region=x&credentials_file=/k", vec!["profile", "s3_region", "credentials_file"]),
        ("s3://bucket?profile=minio", vec!["endpoint"]),
        ("s3://bucket?endpoint=http://127.0.0.1:9000", vec![]),
        ("s3://bucket?endpoint=http://127.0.0.1:9000&ca=/ca.pem", vec!["ca_file"]),
        ("s3://bucket?endpoint=http://10.0.0.1:9000", vec!["endpoint"]),
        ("s3://bucket?endpoint=http://10.0.0.1:9000&allow_plain_http=true", vec![]),
        ("s3://bucket?endpoint=https://10.0.0.1&profile=aws", vec!["endpoint"]),
        ("s3://bucket?endpoint=https://b2.example.com&profile=b2", vec!["s3_region"]),
        ("s3://bucket?aws_profile=a&credentials_file=/k&bucket_owner=12", vec!["aws_profile", "bucket_owner"]),
    ] {
        assert_eq!(keys(&RegionSettings::from_url(name(), address).unwrap()), expected, "{address}");
    }
}

#[test]
fn limits_outside_their_range_are_named() {
    for (concurrency, bandwidth, expected) in [
        (0, None, vec!["max_concurrency"]),
        (65, Some(ByteCount::from_bytes(1)), vec!["max_concurrency", "max_bandwidth"]),
        (64, Some(ByteCount::from_bytes(65536)), vec![]),
    ] {
        let mut settings = RegionSettings::at(name(), "file:///a".parse().unwrap());
        (settings.max_concurrency, settings.max_bandwidth) = (concurrency, bandwidth);
        assert_eq!(keys(&settings), expected);
    }
}

#[test]
fn patience_comes_from_the_address_and_has_bounds() {
    for (address, seconds, expected) in [
        ("file:///a", 300, vec![]),
        ("file:///a?patience=20s", 20, vec![]),
        ("file:///a?patience=500ms", 0, vec!["patience"]),
        ("file:///a?patience=2h", 7200, vec!["patience"]),
    ] {
        let settings = RegionSettings::from_url(name(), address).unwrap();
        assert_eq!((settings.patience.as_secs(), keys(&settings)), (seconds, expected), "{address}");
        assert_eq!(crate::StackOptions::of(&settings).retry.deadline, settings.patience);
    }
}

#[test]
fn a_region_survives_its_own_address() {
    let name: RegionName = "frankfurt".parse().unwrap();
    for address in [
        "file:///srv/backups?name=frankfurt",
        "file:///srv/100%25%20of%20%40%3Fwhom?name=frankfurt",
        "s3://bucket/pg/main?name=frankfurt&endpoint=https://minio.example.com:9000&profile=minio&ca=/etc/my%20ca%26b.pem",
    ] {
        let region = RegionSettings::from_url(name.clone(), address).unwrap();
        assert_eq!(RegionSettings::from_url("other".parse().unwrap(), &region.to_address()).unwrap(), region);
    }
}
