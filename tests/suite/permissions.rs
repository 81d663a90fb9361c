//! With --allow-other, who may do what in the mount is what the source says: modes, groups, ACLs. Without it nobody else
//! gets in, whatever the modes say.

use super::scene::{Scene, is_root};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

/// Users with their groups, as arguments of setpriv(1): none of them has a name here.
const USERS: [&str; 4] = [
    "--reuid 23001 --regid 23001 --clear-groups",
    "--reuid 23002 --regid 23002 --groups 23100",
    "--reuid 23003 --regid 23100 --clear-groups",
    "--reuid 65534 --regid 65534 --clear-groups",
];

/// Everything that one may try, told by what came of it.
const TRIES: &str = r#"
for f in $(find . -mindepth 1 2>/dev/null | LC_ALL=C sort) d-none/in d-x/in d-r/in d-acl/in; do
  printf '%s ' "$f"
  cat "$f" 2>/dev/null | tr -d '\n'; printf ' '
  ls "$f" >/dev/null 2>&1; printf '%s ' $?
  [ -r "$f" ]; printf '%s' $?; [ -x "$f" ]; printf '%s' $?; [ -e "$f" ]; printf '%s ' $?
  getfattr -h -d -m - "$f" 2>&1 | tr '\n' ' '
  getfacl -n -p "$f" 2>/dev/null | tr '\n' ' '
  echo
done
"#;

fn make(dir: &Path) {
    let file = |name: &str, uid: u32, gid: u32, mode: u32| {
        let path = dir.join(name);
        fs::write(&path, format!("content of {name}\n")).unwrap();
        chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for mode in [0o000, 0o400, 0o440, 0o444, 0o040, 0o004, 0o600, 0o755, 0o4711] {
        file(&format!("m{mode:04o}"), 23001, 23100, mode);
    }
    for (name, mode) in [("d-none", 0o700), ("d-x", 0o711), ("d-r", 0o744), ("d-acl", 0o700)] {
        fs::create_dir(dir.join(name)).unwrap();
        file(&format!("{name}/in"), 0, 0, 0o644);
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for name in ["acl-user", "acl-group", "acl-masked", "acl-denied", "acl-of-group"] {
        file(name, 0, 23100, 0o640);
    }
    file("xattrs", 0, 0, 0o644);
}

const RULES: &str = "cd source && setfacl -m u:23001:r acl-user && setfacl -m g:23100:rw acl-group && \
    setfacl -m u:23002:rw,m::- acl-masked && setfacl -m u:23003:-,g::r acl-denied && \
    setfacl -m g::-,u:65534:r,m::rw acl-of-group && setfacl -m u:23002:rx d-acl && setfacl -d -m u:1:r d-acl && \
    setfattr -n user.u -v for-all xattrs && setfattr -n trusted.t -v for-root xattrs && \
    setfattr -n security.s -v label xattrs";

#[test]
fn what_others_may_do_in_the_mount_is_what_the_source_lets_them() {
    if !is_root("becoming other users") {
        return;
    }
    let scene = Scene::new("users");
    make(&scene.source());
    scene.shell(RULES).ok();
    scene.backup(&[]);
    fs::write(scene.path("tries"), TRIES).unwrap();
    let tried = |dir: &Path, user: &str| {
        let mut command = scene.shell_command(&format!("cd \"$AT\" && setpriv {user} bash \"$TRIES\""));
        command.env("AT", dir).env("TRIES", scene.path("tries")).env("LC_ALL", "C");
        scene.run_command(command)
    };
    let mount = scene.mount(&["--allow-other"]);
    let shown = scene.source_in(&mount.dir);
    let mut all = Vec::new();
    for user in USERS {
        let there = tried(&scene.source(), user).ok().text();
        let here = tried(&shown, user).ok().text();
        for (a, b) in there.lines().zip(here.lines()) {
            assert_eq!(a, b, "for {user}");
        }
        assert_eq!(there, here);
        assert!(there.contains("content of") && there.lines().count() > 20, "{there}");
        all.push(there);
    }
    all.dedup();
    assert_eq!(all.len(), USERS.len(), "each of them may something else");
    mount.unmount();

    let mount = scene.mount(&[]);
    for user in USERS {
        let line = format!("setpriv {user} ls '{}'", mount.dir.display());
        scene.shell(&line).fails().says("Permission denied");
    }
    // Whose mount it is sees all, as the key is theirs.
    let read = scene.shell(&format!("cat '{}/m0000'", shown.display())).ok().text();
    assert_eq!(read, "content of m0000\n");
}

#[test]
fn snapshots_of_other_hosts_are_closed_to_others() {
    if !is_root("becoming other users") {
        return;
    }
    let scene = Scene::new("hosts");
    fs::write(scene.source().join("f"), b"f").unwrap();
    scene.backup(&["--time", "2024-03-01 12:00:00"]);
    scene.backup(&["--time", "2024-03-02 12:00:00", "--host", "elsewhere"]);
    let mount = scene.mount(&["--allow-other"]);
    let read = |snapshot: &str| {
        let path = mount.dir.join(snapshot).join(scene.source().strip_prefix("/").unwrap()).join("f");
        scene.shell(&format!("setpriv {} cat '{}'", USERS[3], path.display()))
    };
    assert_eq!(read("2024-03-01T12-00-00Z").ok().out, b"f");
    read("2024-03-02T12-00-00Z").fails().says("Permission denied");
    // Also once the shared inode is known by its open name.
    assert_eq!(read("2024-03-01T12-00-00Z").ok().out, b"f");
    read("2024-03-02T12-00-00Z").fails();
}
