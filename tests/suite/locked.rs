//! A bucket with object lock: who has stolen the credentials of the store can delete and overwrite, and its owner takes it back,
//! as pastfs-security(7) says.

use super::remote_faults::environment;
use super::scene::{Scene, fill, same_trees};
use super::servers::{S3, s3};
use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// Times of versions are told in seconds.
const MOMENT: Duration = Duration::from_millis(1500);

/// A version of an object, or a mark that it was deleted.
struct Version {
    key: String,
    id: String,
    modified: String,
    is_mark: bool,
}

/// All versions of all objects of a bucket; these tests have less than a page of them.
fn versions(s3: &S3, bucket: &str) -> Vec<Version> {
    let (status, xml) = s3.ask("GET", &format!("{bucket}?versions="), None);
    assert!(status == 200 && !xml.contains("<IsTruncated>true"), "{status} {xml}");
    let mut found = Vec::new();
    for (tag, is_mark) in [("Version", false), ("DeleteMarker", true)] {
        for part in xml.split(&format!("<{tag}>")).skip(1) {
            let text = |name: &str| -> String {
                let (_, rest) = part.split_once(&format!("<{name}>")).expect("told of each version");
                rest.split_once('<').unwrap().0.to_owned()
            };
            let (key, id, modified) = (text("Key"), text("VersionId"), text("LastModified"));
            found.push(Version { key, id, modified, is_mark });
        }
    }
    found
}

#[test]
fn what_a_thief_of_credentials_deletes_and_overwrites_in_a_locked_bucket_is_taken_back() {
    let s3 = s3();
    let bucket = s3.new_locked_bucket("locked");
    let mut scene = Scene::bare("locked");
    scene.more = environment("backup", &s3.endpoint, &bucket, (&s3.access_key, &s3.secret_key));
    scene.run(["init", "-q"]).ok();
    for day in 0..3 {
        fill(&scene.source(), 30, 20_000, day);
        let told = scene.run(["backup", "--json", scene.source().to_str().unwrap()]).ok();
        assert!(told.err.is_empty(), "a day like any other: {}", told.err);
    }
    let oldest = scene.snapshots()[0]["id"].as_str().unwrap().to_owned();
    scene.run(["forget", "-q", &oldest]).ok();
    scene.run(["prune", "-q", "--grace", "0", "--max-unused", "0%"]).ok();
    scene.run(["check", "-q", "--read-data"]).ok();

    sleep(MOMENT);
    assert_eq!(s3.ask("PUT", &format!("{bucket}/now"), Some("now")).0, 200);
    let before = versions(s3, &bucket);
    let now = before.iter().find(|v| v.key == "now").unwrap().modified.clone();
    sleep(MOMENT);
    // Nobody can delete a version, the bucket's own user neither; anybody with the keys can put marks and rubbish on top.
    let pack = before.iter().find(|v| v.key.contains("/packs/")).unwrap();
    let (status, body) = s3.ask("DELETE", &format!("{bucket}/{}?versionId={}", pack.key, pack.id), None);
    assert_eq!(status, 403, "{body}");
    for (n, v) in before.iter().filter(|v| !v.is_mark).enumerate() {
        let object = format!("{bucket}/{}", v.key);
        match n % 2 {
            0 => assert_eq!(s3.ask("DELETE", &object, None).0, 204),
            _ => assert_eq!(s3.ask("PUT", &object, Some("rubbish")).0, 200),
        }
    }
    let mut elsewhere = scene.command(["check", "-q", "--read-data"]);
    elsewhere.env("PASTFS_CACHE", scene.path("cache of another"));
    scene.run_command(elsewhere).fails();

    // The bucket as it was at that time, in a folder.
    let mut then: BTreeMap<String, Version> = BTreeMap::new();
    for v in versions(s3, &bucket).into_iter().filter(|v| v.modified <= now) {
        if then.get(&v.key).is_none_or(|other| other.modified <= v.modified) {
            then.insert(v.key.clone(), v);
        }
    }
    let folder = scene.path("as it was");
    for v in then.values().filter(|v| !v.is_mark && v.key != "now") {
        let to = folder.join(v.key.strip_prefix("backup/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        s3.download(&format!("{bucket}/{}?versionId={}", v.key, v.id), &to);
    }
    scene.more.push(("PASTFS_REPOSITORY", folder.into_os_string()));
    scene.more.push(("PASTFS_CACHE", scene.path("a new cache").into_os_string()));
    scene.run(["check", "-q", "--read-data"]).ok();
    assert_eq!(scene.snapshots().len(), 2);
    let target = scene.restore(&format!("latest:{}", scene.source().display()));
    same_trees(&scene.source(), &target);
}
