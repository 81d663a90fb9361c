//! "Previous Versions" of Windows: Samba's vfs_shadow_copy2(8) shows the folders of a mount as old versions of the
//! files of a share, as pastfs(7) tells how to.

use super::scene::{Scene, Started, is_root, soon};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// The lines that pastfs(7) shows, for the mount of a scene.
fn settings(scene: &Scene) -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/pastfs.7")).unwrap();
    let lines: Vec<&str> =
        page.lines().map(str::trim).filter(|l| l.starts_with("shadow:") || l.starts_with("vfs")).collect();
    assert!(lines.len() > 2, "{lines:?}");
    lines.join("\n").replace("/past", scene.mnt().to_str().unwrap())
}

/// smbd with folders and a port of its own; nothing of the system's Samba is touched.
struct Server<'a> {
    scene: &'a Scene,
    port: u16,
    smbd: Option<Started>,
}

impl<'a> Server<'a> {
    fn start(scene: &'a Scene) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let own = scene.path("samba");
        fs::create_dir(&own).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        let folders: String =
            ["private dir", "lock directory", "state directory", "cache directory", "pid directory"]
                .iter()
                .map(|f| format!("{f} = {}\n", own.display()))
                .collect();
        let text = format!(
            "[global]\nserver role = standalone server\nmap to guest = Bad User\ninterfaces = 127.0.0.1/8\n\
             bind interfaces only = yes\nsmb ports = {port}\ndisable netbios = yes\nload printers = no\n\
             disable spoolss = yes\nrpc start on demand helpers = no\nncalrpc dir = {own}/ncalrpc\nlog file = {own}/log\n\
             {folders}[docs]\npath = {}\nguest ok = yes\nread only = no\n{}\n",
            scene.source().display(),
            settings(scene),
            own = own.display(),
        );
        fs::write(own.join("smb.conf"), text).unwrap();
        let mut command = Command::new("smbd");
        command.args(["-F", "--no-process-group", "--debug-stdout", "-s"]).arg(own.join("smb.conf"));
        let mut smbd = scene.start(command);
        soon("smbd answers", || {
            assert!(!smbd.is_over(), "smbd has ended");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { scene, port, smbd: Some(smbd) }
    }

    fn client(&self, commands: &str) -> String {
        let ran = self.scene.shell(&format!(
            "smbclient -s samba/smb.conf -p {} -N //127.0.0.1/docs -c '{commands}'",
            self.port
        ));
        ran.ok().text()
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if let Some(smbd) = self.smbd.take() {
            smbd.signal(libc::SIGTERM);
            let _ = smbd.wait();
        }
    }
}

#[test]
fn samba_shows_snapshots_as_previous_versions() {
    if !is_root("smbd") {
        return;
    }
    if Command::new("smbd").arg("--version").output().is_err() {
        eprintln!(
            "NOT RUN: this needs smbd and smbclient (apt-get install samba smbclient samba-vfs-modules)"
        );
        return;
    }
    let scene = Scene::new("samba");
    let file = scene.source().join("f");
    for (text, time) in [("one", "2024-03-01T12:00:05Z"), ("two!", "2024-03-02T12:00:05Z")] {
        fs::write(&file, text).unwrap();
        scene.backup(&["--time", time]);
    }
    // A second one of that second: its name has more behind it, which Samba does not look at.
    fs::write(&file, "hidden").unwrap();
    scene.backup(&["--time", "2024-03-02T12:00:05.5Z"]);
    fs::write(&file, "today").unwrap();
    let mount = scene.mount(&["-o", "allow_other,names=@GMT-%Y.%m.%d-%H.%M.%S"]);
    let names = mount.dated();
    assert_eq!(names[..2], ["@GMT-2024.03.01-12.00.05", "@GMT-2024.03.02-12.00.05"]);
    assert!(names[2].starts_with("@GMT-2024.03.02-12.00.05-"), "{names:?}");

    let server = Server::start(&scene);
    let told = server.client("allinfo f");
    let all_but_twice = |start: &str| {
        let mut lines: Vec<&str> = told.lines().filter(|l| l.starts_with(start)).collect();
        lines.dedup();
        lines
    };
    assert_eq!(all_but_twice("@GMT"), ["@GMT-2024.03.02-12.00.05", "@GMT-2024.03.01-12.00.05"], "{told}");
    assert_eq!(all_but_twice("size"), ["size: 4", "size: 3"], "{told}");
    server.client("get @GMT-2024.03.01-12.00.05/f first; get @GMT-2024.03.02-12.00.05/f second; get f now");
    for (name, text) in [("first", "one"), ("second", "two!"), ("now", "today")] {
        assert_eq!(fs::read_to_string(scene.path(name)).unwrap(), text, "{name}");
    }
    // A snapshot that comes while the share is in use is a version as well.
    scene.backup(&["--time", "2024-03-03T12:00:05Z"]);
    soon("the new version is listed", || server.client("allinfo f").contains("@GMT-2024.03.03-12.00.05"));
    drop(server);
    mount.unmount();
}
