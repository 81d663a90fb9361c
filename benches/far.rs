//! A far S3 server for `remote.sh`: Ceph on this machine (as the tests start it) behind a proxy with a round trip of 20 ms. Says on its
//! output how to reach it, and then, for each line of its input, what was asked since the line before; ends with its input.
//!
//!   cargo bench --bench far -- [ROUND_TRIP_MS [MB_A_SECOND]]

#[path = "../tests/suite/servers/mod.rs"]
mod servers;

use servers::proxy::Proxy;
use std::io::BufRead;
use std::time::Duration;

fn main() {
    // Cargo adds `--bench`.
    let numbers: Vec<u64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let s3 = servers::s3();
    let proxy = Proxy::http(s3.address());
    println!(
        "ENDPOINT={} BUCKET={} AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={} AWS_REGION={}",
        proxy.endpoint(),
        s3.new_bucket("bench"),
        s3.access_key,
        s3.secret_key,
        s3.region
    );
    proxy.set(|plan| {
        plan.round_trip = Duration::from_millis(numbers.first().copied().unwrap_or(20));
        plan.bandwidth = numbers.get(1).map(|mb| mb * 1_000_000);
    });
    for line in std::io::stdin().lock().lines() {
        if line.is_err() {
            return;
        }
        let asked = proxy.forget_asked();
        let methods: Vec<String> =
            asked.by_method.iter().map(|(method, n)| format!("{method}:{n}")).collect();
        let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        println!("{} {} {} {}", asked.requests(), mb(asked.sent), mb(asked.received), methods.join(","));
    }
}
