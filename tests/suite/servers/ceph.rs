//! Ceph: a monitor, three object storage daemons that keep each object twice, and gateways that speak S3. One cluster for
//! the whole test run.

use super::tls::tls;
use super::{Process, curl, free_port, give_to_nobody, ground, is_listening, program, tool, until};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Packages that hold it. They start nothing by themselves: no daemon is set up.
const PACKAGES: &str = "ceph-mon ceph-osd radosgw ceph-common";
/// Object storage daemons.
pub const OSDS: usize = 3;
/// Bytes that each may hold; a sparse file.
const CAPACITY: u64 = 20 << 30;

/// The cluster and its first user and gateway, which are for all tests: only of its own gateways and of what it puts under a bucket or
/// a prefix of its own may a test think that nobody else is there. Of the daemons ([`S3::osd`]) one at a time may be down, for which a test
/// holds [`S3::alone_with_osds`].
pub struct S3 {
    /// `http://127.0.0.1:<port>`; buckets are paths below it.
    pub endpoint: String,
    /// The same by TLS.
    pub tls_endpoint: String,
    /// The certificate (PEM) of the authority that the TLS one is known by.
    pub ca: PathBuf,
    /// What signatures name; the server takes any.
    pub region: &'static str,
    /// The first user's name.
    pub user: &'static str,
    pub access_key: String,
    pub secret_key: String,
    /// A bucket for all tests that keep to a prefix of their own.
    pub bucket: String,
    dir: PathBuf,
    osds: [Process; OSDS],
    /// Not read: they run as long as the value.
    _monitor: Process,
    gateway: Gateway,
    osds_in_use: std::sync::Mutex<()>,
}

/// A server that speaks S3 for the cluster; it can be killed and started again.
pub struct Gateway {
    /// `http://127.0.0.1:<port>`.
    pub endpoint: String,
    port: u16,
    tls_port: u16,
    pub process: Process,
}

/// The cluster, started by whoever asks first: takes about 10 seconds on two cores that have nothing else to do.
#[track_caller]
pub fn s3() -> &'static S3 {
    static S3: OnceLock<Option<S3>> = OnceLock::new();
    // A cluster that did not start is not tried again by each test.
    let cluster = S3.get_or_init(|| std::panic::catch_unwind(S3::new).ok());
    cluster.as_ref().expect("the Ceph cluster of the tests did not start: the test that asked first says why")
}

impl S3 {
    fn new() -> Self {
        let [mon, osd, radosgw] = ["ceph-mon", "ceph-osd", "radosgw"].map(|p| program(p, PACKAGES));
        let [ceph, authtool, monmaptool, admin] =
            ["ceph", "ceph-authtool", "monmaptool", "radosgw-admin"].map(|p| program(p, PACKAGES));
        let dir = ground().folder("ceph");
        let (id, port) = (uuid(), free_port());
        for folder in ["mon", "log", "rgw", "osd.0", "osd.1", "osd.2"] {
            let folder = dir.join(folder);
            fs::create_dir(&folder).unwrap();
            give_to_nobody(&folder);
        }
        let conf = dir.join("ceph.conf");
        fs::write(&conf, settings(&dir, &id, port)).unwrap();
        write_keys(&dir, &authtool);

        let map = dir.join("monmap");
        let address = format!("[v2:127.0.0.1:{port}]");
        let words = ["--create", "--fsid", &id, "--addv", "a", &address, map.to_str().unwrap()];
        tool(&monmaptool, words, "");
        let monitor = with(&conf, &["-i", "a"]);
        let mut first = monitor.clone();
        first.extend(["--mkfs".into(), "--monmap".into(), map.into_os_string()]);
        tool(&mon, first, "");
        let monitor = daemon(&mon, monitor, &dir, "mon");
        monitor.start_until(|| is_listening(port));

        let uuids: [String; OSDS] = std::array::from_fn(|_| uuid());
        std::thread::scope(|scope| {
            for (n, uuid) in uuids.iter().enumerate() {
                let (osd, conf) = (&osd, &conf);
                let words = with(conf, &["-i", &n.to_string(), "--mkfs", "--osd-uuid", uuid]);
                scope.spawn(move || tool(osd, words, ""));
            }
            // Each is told of itself by the number of its line.
            let lines: String = uuids.iter().fold(String::new(), |mut lines, uuid| {
                let _ = writeln!(lines, "osd new {uuid}");
                lines
            });
            tool(&ceph, with(&conf, &[]), &lines);
        });
        let osds = std::array::from_fn(|n| {
            let process = daemon(&osd, with(&conf, &["-i", &n.to_string()]), &dir, &format!("osd.{n}"));
            process.start();
            process
        });
        let gateway = Gateway::new(&radosgw, &dir);
        let (access_key, secret_key) = ("a-key-of-tests".to_owned(), "a-secret-of-tests".to_owned());
        let user = "tests";
        add_user(&admin, &conf, user, &access_key, &secret_key);
        let s3 = Self {
            endpoint: gateway.endpoint.clone(),
            tls_endpoint: format!("https://127.0.0.1:{}", gateway.tls_port),
            ca: tls().ca.clone(),
            region: "us-east-1",
            user,
            access_key,
            secret_key,
            bucket: "tests".into(),
            dir,
            osds,
            _monitor: monitor,
            gateway,
            osds_in_use: std::sync::Mutex::default(),
        };
        s3.make_bucket(&s3.bucket);
        s3
    }

    /// A request with a signature by the first user, by curl(1): status and body. `path` may hold a query.
    pub fn ask(&self, method: &str, path: &str, body: Option<&str>) -> (u16, String) {
        self.ask_at(&self.endpoint, (&self.access_key, &self.secret_key), method, path, body)
    }

    /// As [`S3::ask`], of another gateway or a proxy before it, by any user.
    pub fn ask_at(
        &self,
        endpoint: &str,
        (access_key, secret_key): (&str, &str),
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> (u16, String) {
        let (user, url) = (format!("{access_key}:{secret_key}"), format!("{endpoint}/{path}"));
        // curl 7.88 signs nothing that S3 takes without this.
        let unsigned = "x-amz-content-sha256: UNSIGNED-PAYLOAD";
        let mut args =
            vec!["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, "-H", unsigned, "-X", method];
        args.extend(body.map(|body| ["--data-binary", body]).into_iter().flatten());
        args.push(&url);
        curl(args)
    }

    /// Fetches an object into a file.
    #[track_caller]
    pub fn download(&self, path: &str, to: &Path) {
        let user = format!("{}:{}", self.access_key, self.secret_key);
        let (url, to) = (format!("{}/{path}", self.endpoint), to.to_str().unwrap());
        let unsigned = "x-amz-content-sha256: UNSIGNED-PAYLOAD";
        let words = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, "-H", unsigned, "-o", to, &url];
        assert_eq!(curl(words).0, 200, "fetching {path}");
    }

    fn make_bucket(&self, name: &str) {
        let (status, body) = self.ask("PUT", name, None);
        assert_eq!(status, 200, "making the bucket {name}: {body}");
    }

    /// A new bucket, for a test that must see nothing of others or sets its policy. Its name begins so.
    #[track_caller]
    pub fn new_bucket(&self, name: &str) -> String {
        let name = format!("{name}-{}", pastfs::id::hex(&pastfs::clock::random_array::<4>()));
        self.make_bucket(&name);
        name
    }

    /// The same with object lock: each version of an object is kept for a day at least, whoever wants to delete it.
    #[track_caller]
    pub fn new_locked_bucket(&self, name: &str) -> String {
        let name = format!("{name}-{}", pastfs::id::hex(&pastfs::clock::random_array::<4>()));
        let user = format!("{}:{}", self.access_key, self.secret_key);
        let url = format!("{}/{name}", self.endpoint);
        let headers = ["x-amz-content-sha256: UNSIGNED-PAYLOAD", "x-amz-bucket-object-lock-enabled: true"];
        let mut words = vec!["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user, "-X", "PUT", &url];
        headers.iter().for_each(|header| words.extend(["-H", header]));
        let (status, body) = curl(words);
        assert_eq!(status, 200, "making the bucket {name}: {body}");
        let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                    <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        let (status, body) = self.ask("PUT", &format!("{name}?object-lock="), Some(rule));
        assert_eq!(status, 200, "locking the bucket {name}: {body}");
        name
    }

    /// Another user, of that name, who owns nothing: access key and secret key.
    #[track_caller]
    pub fn add_user(&self, name: &str) -> (String, String) {
        let (access, secret) = (format!("key-of-{name}"), format!("secret-of-{name}"));
        let admin = program("radosgw-admin", PACKAGES);
        add_user(&admin, &self.dir.join("ceph.conf"), name, &access, &secret);
        (access, secret)
    }

    /// A gateway of the test's own, to be killed: takes a second or two.
    #[track_caller]
    pub fn own_gateway(&self) -> Gateway {
        Gateway::new(&program("radosgw", PACKAGES), &self.dir)
    }

    /// Where the common gateway listens, for a proxy.
    pub fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Object storage daemon `n` of [`OSDS`], to be killed and, by [`S3::start_osd`], started again.
    pub fn osd(&self, n: usize) -> &Process {
        &self.osds[n]
    }

    /// Whoever holds this is the only one to stop daemons: with two of three down, some objects can be had nowhere.
    pub fn alone_with_osds(&self) -> std::sync::MutexGuard<'_, ()> {
        self.osds_in_use.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Starts one again, and waits until all are up and every object lies twice.
    #[track_caller]
    pub fn start_osd(&self, n: usize) {
        self.osds[n].start();
        let clean = || {
            let told = self.status();
            told["osdmap"]["num_up_osds"] == OSDS && all_clean(&told)
        };
        until("Ceph is whole again", clean, || self.status().to_string());
    }

    /// `ceph status` as JSON.
    pub fn status(&self) -> serde_json::Value {
        let words = with(&self.dir.join("ceph.conf"), &["status", "-f", "json"]);
        serde_json::from_str(&tool(&program("ceph", PACKAGES), words, "")).expect("JSON")
    }
}

/// Without a manager daemon nobody counts placement groups in `status`: then the map alone is asked.
fn all_clean(status: &serde_json::Value) -> bool {
    let states = status["pgmap"]["pgs_by_state"].as_array();
    states.is_none_or(|states| states.iter().all(|s| s["state_name"] == "active+clean"))
}

impl Gateway {
    fn new(radosgw: &Path, dir: &Path) -> Self {
        let (port, tls_port) = (free_port(), free_port());
        let certificate = tls().both.display();
        let frontends = format!(
            "beast endpoint=127.0.0.1:{port} ssl_endpoint=127.0.0.1:{tls_port} ssl_certificate={certificate}"
        );
        let words = with(&dir.join("ceph.conf"), &["-n", "client.rgw", "--rgw-frontends", &frontends]);
        let process = daemon(radosgw, words, dir, &format!("rgw.{port}"));
        let gateway = Self { endpoint: format!("http://127.0.0.1:{port}"), port, tls_port, process };
        gateway.start();
        gateway
    }

    /// Starts it, the first time or after it was killed, and waits until it answers.
    #[track_caller]
    pub fn start(&self) {
        self.process.start_until(|| curl([&self.endpoint]).0 == 200);
    }

    /// Where it listens, for a proxy.
    pub fn address(&self) -> SocketAddr {
        super::local(self.port)
    }
}

fn uuid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}

/// Arguments of all of Ceph's programs.
fn with(conf: &Path, more: &[&str]) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["-c".into(), conf.as_os_str().to_owned()];
    args.extend(more.iter().map(Into::into));
    args
}

fn daemon(program: &Path, mut args: Vec<OsString>, dir: &Path, name: &str) -> Process {
    args.insert(0, "-f".into());
    Process::new(program, args, dir.join("log").join(format!("{name}.printed")))
}

#[track_caller]
fn add_user(admin: &Path, conf: &Path, name: &str, access: &str, secret: &str) {
    let (uid, display) = (format!("--uid={name}"), format!("--display-name={name}"));
    let (access, secret) = (format!("--access-key={access}"), format!("--secret={secret}"));
    tool(admin, with(conf, &["user", "create", &uid, &display, &access, &secret]), "");
}

/// A key for each daemon: without cephx the gateway hangs.
fn write_keys(dir: &Path, authtool: &Path) {
    let every = "allow *";
    let mut names = vec![
        ("mon.".to_owned(), vec![("mon", every)]),
        ("client.admin".to_owned(), vec![("mon", every), ("osd", every), ("mgr", every)]),
        ("client.rgw".to_owned(), vec![("mon", "allow rw"), ("osd", "allow rwx"), ("mgr", "allow rw")]),
    ];
    let of_osd = [("mon", "allow profile osd"), ("osd", every), ("mgr", "allow profile osd")];
    names.extend((0..OSDS).map(|n| (format!("osd.{n}"), of_osd.to_vec())));
    let mut text = String::new();
    for (name, rights) in names {
        let key = tool(authtool, ["--gen-print-key"], "");
        let _ = writeln!(text, "[{name}]\nkey = {}", key.trim());
        for (what, right) in rights {
            let _ = writeln!(text, "caps {what} = \"{right}\"");
        }
    }
    let file = dir.join("keyring");
    fs::write(&file, text).unwrap();
    give_to_nobody(&file);
}

/// What makes it small and quick: few placement groups, little waiting for company before the monitor decides something
/// (half a minute to the first bucket becomes ten seconds), and none of the gateway's housekeeping.
fn settings(dir: &Path, id: &str, port: u16) -> String {
    let dir = dir.display();
    format!(
        "[global]
fsid = {id}
mon_host = v2:127.0.0.1:{port}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
keyring = {dir}/keyring
auth_allow_insecure_global_id_reclaim = true
osd_pool_default_size = 2
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
mon_osd_reporter_subtree_level = osd
mon_osd_min_down_reporters = 1
mon_osd_down_out_interval = 0
osd_crush_chooseleaf_type = 0
osd_objectstore = bluestore
bluestore_block_size = {CAPACITY}
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
osd_memory_target = 939524096
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
admin_socket =
pid_file =
run_dir = {dir}/log
log_file = {dir}/log/$name.log
crash_dir = {dir}/log
mon_data = {dir}/mon
osd_data = {dir}/osd.$id
mon_data_avail_crit = 1
mon_data_avail_warn = 1
[client.rgw]
rgw_data = {dir}/rgw
rgw_thread_pool_size = 64
rgw_enable_gc_threads = false
rgw_enable_lc_threads = false
rgw_enable_quota_threads = false
rgw_dynamic_resharding = false
rgw_run_sync_thread = false
"
    )
}
