use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use lifeboat_config::Environment;
use lifeboat_repository::SigningKey;
use lifeboat_vocabulary::SystemClock;

use super::*;
use crate::freeze::Standstill;
use crate::regions::tests::two_regions;

#[tokio::test]
async fn nothing_is_deleted_on_a_host_that_may_have_forgotten_what_was_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("signing.key");
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&key).unwrap();
    let text = SigningKey::generate().unwrap().to_file_text(SystemClock.now());
    file.write_all(text.expose().as_bytes()).unwrap();
    let text = format!(
        "[[cluster]]\nname = 'main'\nconnection = 'host=/tmp'\n[[region]]\nname = 'r0'\nurl = 'file:///a'\n\
         [[region]]\nname = 'r1'\nurl = 'file:///b'\n[keys]\nsigning_key = 'file:{}'\nrecipients = \
         ['lifeboat-pk-1qvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqdqqgq9e0u']\n[state]\ndirectory = '{}'\n",
        key.display(),
        dir.path().display()
    );
    let loaded = Config::from_text(std::path::Path::new("l.toml"), &text, &Environment::default());
    let config = Arc::new(loaded.unwrap_or_else(|faults| panic!("{faults}")).config);
    let (clock, cluster): (Arc<dyn Clock>, ClusterName) = (Arc::new(SystemClock), "main".parse().unwrap());
    let freezer = Arc::new(Freezer::new(dir.path(), Arc::clone(&clock)));
    let parts = ExpireParts {
        cluster: cluster.clone(),
        config: watch::Sender::new(config).subscribe(),
        // Neither can be read.
        regions: Arc::new(two_regions()),
        freezer: Arc::clone(&freezer),
        board: Arc::new(AlarmBoard::open(dir.path(), Arc::clone(&clock)).0),
        news: Arc::default(),
        clock,
    };
    let mut expiry = Expiry::new(parts);
    let Round::Stopped(why) = expiry.round().await.unwrap() else { panic!("the regions were not asked") };
    assert!(why.contains("all regions have to be read first"), "{why}");
    freezer.recall(&cluster, Standstill::default()).unwrap();
    let round = expiry.round().await.unwrap();
    assert!(matches!(round, Round::Regions(_)), "a region that is away now holds nothing up: {round:?}");
}
