//! The worker itself.

use std::collections::BTreeMap;

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use xylem_types::node::Node;

/// What the worker runs; `docker` is what Oakestra calls containers.
pub const VIRTUALIZATION: &str = "docker";

const MEGABYTE: f64 = 1_048_576.0;

/// How the worker is known to others.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The worker's own lasting id.
    pub id: String,
    pub name: String,
    /// Where peers and users reach it; empty when that is not known yet.
    pub address: String,
    pub tunnel_port: u16,
}

/// Measures the machine.
#[derive(Debug)]
pub struct Machine {
    system: System,
}

impl Machine {
    /// # Errors
    /// When the machine does not let itself be measured.
    pub fn new() -> Result<Self, sysinfo::Error> {
        let system = System::new_with_specifics(
            RefreshKind::nothing()
                .with_cpu(CpuRefreshKind::nothing().with_usage())
                .with_memory(MemoryRefreshKind::nothing().with_ram()),
        )?;
        Ok(Self { system })
    }

    /// Everything, for the registration.
    pub fn describe(&mut self, identity: &Identity) -> Node {
        let known = [
            ("kernel_version", System::kernel_version().ok()),
            ("os_version", System::long_os_version().ok()),
            ("architecture", Some(architecture().to_owned())),
            ("uptime", System::uptime().ok().map(|seconds| seconds.to_string())),
        ];
        let known = known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Node {
            host: identity.name.clone(),
            ip: identity.address.clone(),
            port: identity.tunnel_port.to_string(),
            system_info: known.collect::<BTreeMap<_, _>>(),
            architecture: architecture().to_owned(),
            virtualization: vec![VIRTUALIZATION.to_owned()],
            net_manager_port: identity.tunnel_port,
            ..self.measure(identity)
        }
    }

    /// What changes all the time. CPU use is that since the last call.
    pub fn measure(&mut self, identity: &Identity) -> Node {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        let total = self.memory_bytes() as f64;
        let available = self.system.available_memory() as f64;
        Node {
            id: identity.id.clone(),
            cpu_percent: self.system.global_cpu_usage().into(),
            vcpus: u32::try_from(self.system.cpus().len()).unwrap_or(u32::MAX),
            memory: available / MEGABYTE,
            memory_percent: (total - available) / total.max(1.0) * 100.0,
            ..Node::default()
        }
    }

    /// Of the whole machine.
    pub fn memory_bytes(&self) -> u64 {
        self.system.total_memory()
    }
}

/// As images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_describes_itself_whole_once_and_then_says_only_what_changes() {
        let identity = Identity {
            id: "worker-1".into(),
            name: "host".into(),
            address: "192.0.2.7".into(),
            tunnel_port: 50103,
        };
        let mut machine = Machine::new().unwrap();
        let all = machine.describe(&identity);
        assert_eq!(
            (all.host.as_str(), all.ip.as_str(), all.port.as_str()),
            ("host", "192.0.2.7", "50103")
        );
        assert_eq!(all.virtualization, ["docker"]);
        assert!(all.vcpus > 0 && all.memory > 0.0 && !all.architecture.is_empty());

        let some = machine.measure(&identity);
        assert_eq!((some.host.as_str(), some.net_manager_port), ("", 0));
        assert!((0.0..=100.0).contains(&some.memory_percent), "{}", some.memory_percent);
    }
}
