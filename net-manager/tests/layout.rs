//! What is pinned below the bpffs root is of this build's layout and shape, or it is refused with
//! the way out, and nothing of it is touched.

mod support;

use std::fs;

use aya::maps::{MapData, MapInfo};
use net_common::LAYOUT_VERSION;
use support::{Host, on_a_new_host};

async fn refusal(host: &Host) -> String {
    let stop = tokio_util::sync::CancellationToken::new();
    let refused = net_manager::daemon::start::run(host.config(), stop).await;
    refused.unwrap_err().to_string()
}

#[test]
fn another_layout_is_refused_with_the_way_out_and_left_alone() {
    on_a_new_host(|host| async move {
        host.start().await.stop().await;
        let links = host.links();
        for version in [1, LAYOUT_VERSION - 1, LAYOUT_VERSION + 1] {
            let other = host.bpffs().join(format!("v{version}"));
            fs::create_dir_all(&other).unwrap();
            let refusal = refusal(&host).await;
            let root = host.bpffs().display().to_string();
            for part in [format!("[{version}]"), format!("purge --bpffs-root {root}")] {
                assert!(refusal.contains(&part), "no {part} in {refusal}");
            }
            assert!(other.exists() && host.links() == links, "it is left as it is");
            fs::remove_dir(other).unwrap();
        }
        host.start().await.stop().await;

        // The way out is one.
        fs::create_dir(host.bpffs().join("v1")).unwrap();
        net_manager::daemon::purge::purge(&host.bpffs()).await.unwrap();
        host.start().await.stop().await;
    });
}

#[test]
fn a_pinned_map_of_another_shape_is_refused_by_name() {
    on_a_new_host(|host| async move {
        host.start().await.stop().await;
        let dir = net_maps::layout_dir(&host.bpffs());
        for (name, stranger, what) in [
            ("peers", "endpoints", "key size"),
            ("instances", "config", "value size"),
            ("flows", "opening", "kind"),
        ] {
            let (path, kept) = (dir.join(name), dir.join(format!("{name}_kept")));
            let before = MapInfo::from_pin(&path).unwrap().id();
            fs::rename(&path, &kept).unwrap();
            MapData::from_pin(dir.join(stranger)).unwrap().pin(&path).unwrap();
            let refusal = refusal(&host).await;
            for part in [path.to_str().unwrap(), what, "purge"] {
                assert!(refusal.contains(part), "no {part} in {refusal}");
            }
            fs::remove_file(&path).unwrap();
            fs::rename(&kept, &path).unwrap();
            assert_eq!(MapInfo::from_pin(&path).unwrap().id(), before);
        }
        host.start().await.stop().await;
    });
}
