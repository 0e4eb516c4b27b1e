//! The same contract over an object store that companies run: Ceph, as one monitor, one object store in memory, and its S3 gateway.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::stores::{BUCKET, Stores, again, lasting, start_postgres};

/// Runs a cluster below `$1` until the standard input ends; its monitor is at port `$2`, its gateway at `$3`.
const CLUSTER: &str = r#"
cd "$1" || exit 1
mkdir mon osd rgw run
id=$(cat /proc/sys/kernel/random/uuid)
cat > ceph.conf <<END
[global]
fsid = $id
mon host = [v1:127.0.0.1:$2]
ms bind msgr2 = false
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
mon allow pool size one = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd crush chooseleaf type = 0
osd crush update on start = false
osd objectstore = memstore
memstore device bytes = 4294967296
run dir = $1/run
admin socket = $1/run/\$name.asok
log file = $1/run/\$name.log
[mon.a]
mon data = $1/mon
[osd.0]
osd data = $1/osd
[client.rgw]
rgw data = $1/rgw
rgw frontends = beast endpoint=127.0.0.1:$3
END
running=""
trap 'kill $running; wait; cd /; rm -rf "$1"' EXIT
monmaptool --create --addv a "[v1:127.0.0.1:$2]" --fsid "$id" map || exit 1
ceph-mon -c ceph.conf --mkfs -i a --monmap map --fsid "$id" || exit 1
ceph-mon -c ceph.conf -f -i a & running="$running $!"
own=$(cat /proc/sys/kernel/random/uuid)
ask="ceph -c ceph.conf --connect-timeout 60"
$ask osd new "$own" || exit 1
ceph-osd -c ceph.conf -i 0 --mkfs --osd-uuid "$own" --fsid "$id" || exit 1
$ask osd crush add osd.0 1.0 root=default || exit 1
ceph-osd -c ceph.conf -f -i 0 & running="$running $!"
radosgw -c ceph.conf -f -n client.rgw & running="$running $!"
radosgw-admin -c ceph.conf user create --uid=tests --display-name=tests --access-key=tests --secret-key=hunter2 || exit 1
touch ready
read -r _
"#;

/// Makes the bucket of `$1`, and everybody's.
const MAKE_BUCKET: &str = r#"
import json, sys, boto3
keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "hunter2", "region_name": "us-east-1"}
s3 = boto3.client("s3", endpoint_url=sys.argv[1], **keys)
s3.create_bucket(Bucket=sys.argv[2])
here = "arn:aws:s3:::" + sys.argv[2]
all = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": [here, here + "/*"]}
s3.put_bucket_policy(Bucket=sys.argv[2], Policy=json.dumps({"Version": "2012-10-17", "Statement": [all]}))
"#;

/// A port that was free a moment ago.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a cluster with the bucket; the address of its gateway.
fn start_ceph() -> String {
    let folder = tempfile::Builder::new().prefix("modelyard-ceph-").tempdir().unwrap().keep();
    let (log, gateway) = (folder.with_extension("log"), port());
    let told = std::fs::File::create(&log).unwrap();
    let mut script = Command::new("sh");
    script.args(["-c", CLUSTER, "sh"]).arg(&folder).arg(port().to_string()).arg(gateway.to_string());
    script.stdout(told.try_clone().unwrap()).stderr(told);
    lasting(&mut script);
    let endpoint = format!("http://127.0.0.1:{gateway}");
    wait_until_ready(&folder, &log, &endpoint);
    let python = std::env::var("MODELYARD_TEST_PYTHON").expect("MODELYARD_TEST_PYTHON names a Python with the peers");
    let made = Command::new(python).args(["-c", MAKE_BUCKET, &endpoint, BUCKET]).stdin(Stdio::null()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::remove_file(log).unwrap();
    endpoint
}

fn wait_until_ready(folder: &Path, log: &Path, endpoint: &str) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !folder.join("ready").exists() || ureq::get(endpoint).call().is_err() {
        let told = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(folder.exists(), "Ceph does not start: {}", told());
        assert!(Instant::now() < deadline, "Ceph is not ready: {}", told());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "needs Ceph, the Python peers and PostgreSQL"]
fn the_contract_holds_over_ceph() {
    let stores = Stores { socket: start_postgres(5432, None), endpoint: start_ceph(), is_open: true };
    again(&["--include-ignored", "bucket_and", "crashes::a_registry_that_is_killed"], Some(&stores));
}
