//! Start, registration, and what is refused.

use std::{path::Path, process::Stdio};

use xylem_types::net_api::Refusal;

use crate::{
    Cluster, FakeRoot, FakeWorker, eventually,
    process::{free_port, http_client},
    wait::eventually_so,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_starts_without_a_root_and_ends_when_asked() {
    let mut cluster = Cluster::start("http://127.0.0.1:9".into()).await;
    let status = cluster.status().await;
    assert_eq!(status.cluster_name, "edge");
    assert_eq!(status.cluster_id, "");
    assert!(!status.connected_to_root);
    FakeWorker::join(&cluster, "alone").await;
    let ended = cluster.terminate().await;
    assert!(ended.success(), "{ended}: {}", cluster.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_s_id_is_shown_and_kept() {
    let root = FakeRoot::start().await;
    let mut cluster = Cluster::start(root.url()).await;
    root.connected(1).await;
    assert!(cluster.status().await.connected_to_root);
    cluster.kill();
    drop(root);
    cluster.start_again().await;
    let status = cluster.status().await;
    assert_eq!(status.cluster_id, "cluster-1");
    assert!(!status.connected_to_root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_worker_is_refused_with_the_reason() {
    let cluster = Cluster::start("http://127.0.0.1:9".into()).await;
    let client = http_client();
    for (body, reason) in [
        ("{}", "neither id nor host"),
        (r#"{"id":"a/b"}"#, "cannot name a worker"),
        (r#"{"id":5}"#, "id"),
        ("{", "EOF"),
    ] {
        let response = client
            .post(cluster.url("/api/node/register"))
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 400, "{body}");
        let refusal: Refusal = response.json().await.unwrap();
        assert!(refusal.message.contains(reason), "{body}: {}", refusal.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_harms_nobody() {
    let cluster = Cluster::start("http://127.0.0.1:9".into()).await;
    let worker = FakeWorker::join(&cluster, "w").await;
    worker.say("nodes/w/job", &"no report").await;
    worker.say("nodes/w/net/service/deployed", &[1, 2, 3]).await;
    let metrics = eventually_so("both are counted", async || {
        let metrics = cluster.metrics().await;
        metrics.contains("xylem_cluster_mqtt_not_understood_total 2").then_some(metrics)
    })
    .await;
    assert!(metrics.contains("xylem_cluster_workers_active 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_folder_or_port_says_what_is_in_the_way() {
    let cluster = Cluster::start("http://127.0.0.1:9".into()).await;
    let refused = |folder: &Path, http_port, mqtt_port| {
        let mut command = cluster.command_at(folder, http_port, mqtt_port);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let same_folder = refused(cluster.folder(), free_port(), free_port());
    assert!(same_folder.contains("is in use by another process"), "{same_folder}");
    let same_port = refused(folder.path(), cluster.http_port, free_port());
    assert!(same_port.contains("is the port taken?"), "{same_port}");
    let same_broker = refused(folder.path(), free_port(), cluster.mqtt_port);
    assert!(same_broker.contains("the broker cannot listen"), "{same_broker}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_broker_will_do() {
    let root = FakeRoot::start().await;
    let port = free_port();
    start_broker(port);
    let cluster = Cluster::with_broker(root.url(), port).await;
    let mut worker = FakeWorker::join(&cluster, "w").await;
    worker.get_subnet().await;
    root.deploy(crate::web(0, 1));
    eventually("the worker runs it", || worker.generation(0)).await;
}

/// A broker of this process, which ends with it.
fn start_broker(port: u16) {
    let server = rumqttd::ServerSettings {
        name: "elsewhere".into(),
        listen: ([127, 0, 0, 1], port).into(),
        tls: None,
        next_connection_delay_ms: 0,
        connections: rumqttd::ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: 1 << 22,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: false,
        },
    };
    let router = rumqttd::RouterConfig {
        max_connections: 100,
        max_outgoing_packet_count: 200,
        max_segment_size: 1 << 20,
        max_segment_count: 4,
        ..rumqttd::RouterConfig::default()
    };
    let v4 = Some([("elsewhere".to_owned(), server)].into());
    let config = rumqttd::Config { router, v4, ..rumqttd::Config::default() };
    std::thread::spawn(move || rumqttd::Broker::new(config).start().unwrap());
}
