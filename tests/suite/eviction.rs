//! A mount holds as many inodes as it may, not as many as were ever seen, and nobody notices.

use super::scene::{Mount, Scene, fill};
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};

/// What the mounts of these tests may hold.
const LIMIT: u64 = 400;
/// Parts of the tree: 17 folders and 80 files each.
const PARTS: u64 = 40;
/// Files of one folder: more than may be held in all.
const LARGE: u64 = 2000;

fn inodes(mount: &Mount<'_>) -> u64 {
    mount.statistics()["inodes"].as_u64().unwrap()
}

/// Resident memory of a process in KiB.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Whether the kernel can be asked to let go of inodes that nobody uses: older ones are only told of names, and
/// keep folders.
fn kernel_prunes() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(18))
}

#[test]
fn walks_over_more_than_may_be_held_stay_bounded_and_read_right() {
    let scene = Scene::new("bounded");
    let source = scene.source();
    for n in 0..PARTS {
        fill(&source.join(format!("part {n:02}")), 80, 300, n);
    }
    fs::create_dir(source.join("large")).unwrap();
    for n in 0..LARGE {
        fs::write(source.join(format!("large/{n}")), n.to_string()).unwrap();
    }
    scene.backup(&[]);
    let limit = LIMIT.to_string();
    let mount = scene.mount(&["--max-inodes", &limit]);
    let shown = scene.source_in(&mount.dir);

    // Somebody stands deep inside, and somebody has a file open that is long forgotten otherwise.
    let mut open = File::open(shown.join("part 22/7/7")).unwrap();
    let stands = shown.join("part 17/3");
    let mut inside = Command::new("bash")
        .args(["-c", "read; pwd -P; cat 3; ls | wc -l; cd ..; pwd -P; stat -c %n 5/5"])
        .current_dir(&stands)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();

    let mut most = 0;
    let mut memory = Vec::new();
    for _ in 0..3 {
        for part in 0..PARTS {
            let part = shown.join(format!("part {part:02}"));
            scene.shell(&format!("find '{}' -printf '%s\\n' | sort -u | wc -l", part.display())).ok();
            most = most.max(inodes(&mount));
        }
        scene.shell(&format!("ls -l '{}/large' | wc -l", shown.display())).ok();
        memory.push(resident(mount.pid()));
        scene
            .shell(&format!("cmp '{0}/part 39/9/73' '{1}/part 39/9/73'", source.display(), shown.display()))
            .ok();
    }
    // Forgets come a little later than what made them; a large folder comes in one go.
    assert!(most < 3 * LIMIT + LARGE, "{most} inodes at a limit of {LIMIT}");
    if kernel_prunes() {
        // There are 700 folders, and more than the limit is only on its way.
        assert!(inodes(&mount) < LIMIT * 3 / 2, "{} inodes: folders stay as well", inodes(&mount));
    }
    assert!(memory[2] < memory[1] + 8192, "memory grows with each walk: {memory:?} KiB");

    let mut bytes = Vec::new();
    open.rewind().unwrap();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == fs::read(source.join("part 22/7/7")).unwrap());
    inside.stdin.take().unwrap();
    let told = inside.wait_with_output().unwrap();
    assert!(told.status.success(), "{told:?}");
    let content = fs::read(source.join("part 17/3/3")).unwrap();
    let real = |p: &Path| fs::canonicalize(p).unwrap().display().to_string();
    let mut expected = format!("{}\n", real(&stands)).into_bytes();
    expected.extend_from_slice(&content);
    let names = fs::read_dir(&stands).unwrap().count();
    expected.extend_from_slice(format!("{names}\n{}\n5/5\n", real(stands.parent().unwrap())).as_bytes());
    assert!(told.stdout == expected, "{}", String::from_utf8_lossy(&told.stdout));
    scene.shell(&format!("diff -r '{}' '{}'", source.display(), shown.display())).ok();
}
