//! Xylem with many established flows in the flow tables of both nodes, beside none.
//!
//! The crowd is made of one real connection between the nodes: its entries are written again and
//! again under other ports, straight into the pinned maps. Nobody sends in them, and the net
//! managers look after them as after any other.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, IterableMap, Map, MapData};
use net_common::{Flow, FlowKey};
use net_maps::layout_dir;
use xylem_tests::load::ECHO_PORT;

use crate::{
    cpu,
    interrupt::Interrupt,
    measure,
    metric::{Load, Metric, Place, Side},
    scene::Scene,
};

const MAP: &str = "flows";

/// Two entries a flow.
const ENTRIES: u32 = 2;

/// Flows of the crowd have ports from here on, where no client's and no server's are.
const FIRST_CLIENT_PORT: u16 = 1024;
const FIRST_SERVER_PORT: u16 = 20_000;
const CLIENT_PORTS: u32 = 60_000;

/// What is measured: throughput of bytes and of packets, and what writes to the table.
const LOADS: [Load; 3] = [Load::FourStreams, Load::SmallDatagrams, Load::Connections];

/// How many of the crowd are looked for to see that it is still there.
const LOOKED_FOR: u32 = 1_000;

/// The flow tables of all nodes, and what to fill them with.
pub(crate) struct Crowd {
    tables: Vec<Table>,
    flows: u32,
}

struct Table {
    map: HashMap<MapData, FlowKey, Flow>,
    /// One flow's entries on this node.
    templates: Vec<(FlowKey, Flow)>,
    client_port: u16,
}

/// One value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    pub(crate) full: bool,
    pub(crate) place: Place,
    pub(crate) metric: Metric,
    pub(crate) value: f64,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) flows: u32,
    pub(crate) samples: Vec<Sample>,
    /// Of the flow table of one node, the largest, with all flows in it.
    pub(crate) bytes: u64,
}

impl Crowd {
    pub(crate) const FLOWS_MAX: u32 = 10_000_000;

    /// Entries that flow tables must have room for: what is measured adds to the crowd.
    pub(crate) fn capacity(flows: u32) -> u32 {
        ENTRIES * flows + (1 << 18)
    }

    /// # Errors
    /// A table cannot be opened, or the connection is not in it.
    fn new(roots: &[&Path], connection: &TcpStream, flows: u32) -> Result<Self> {
        let client_port = connection.local_addr().context("no local port")?.port();
        let tables = roots.iter().map(|root| Table::open(root, client_port, flows));
        Ok(Self { tables: tables.collect::<Result<_>>()?, flows })
    }

    fn fill(&mut self) -> Result<()> {
        self.for_each(|table, index| {
            for (key, flow) in table.templates.clone() {
                let key = table.member(&key, index);
                table.map.insert(key, flow, 0).context("cannot write to the flow table")?;
            }
            Ok(())
        })
    }

    fn clear(&mut self) -> Result<()> {
        self.for_each(|table, index| {
            for (key, _) in table.templates.clone() {
                // What is gone already need not be removed.
                table.map.remove(&table.member(&key, index)).ok();
            }
            Ok(())
        })
    }

    /// Calls `work` for every flow on every node, the nodes at the same time.
    fn for_each(&mut self, work: impl Fn(&mut Table, u32) -> Result<()> + Sync) -> Result<()> {
        let flows = self.flows;
        let work = &work;
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for table in &mut self.tables {
                let every = move || (0..flows).try_for_each(|index| work(&mut *table, index));
                threads.push(scope.spawn(every));
            }
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("it reports errors and does not panic"))
        })
    }

    /// Who measures with it must know that nobody removed it meanwhile.
    fn check_there(&self) -> Result<()> {
        let step = (self.flows / LOOKED_FOR).max(1);
        for table in &self.tables {
            for index in (0..self.flows).step_by(step as usize) {
                for (key, _) in &table.templates {
                    let found = table.map.get(&table.member(key, index), 0);
                    found.context("a flow was removed from the table meanwhile")?;
                }
            }
        }
        Ok(())
    }

    /// Memory of the largest of the tables as it is now.
    fn bytes(&self) -> Result<u64> {
        let bytes = self.tables.iter().map(Table::bytes).collect::<Result<Vec<_>>>()?;
        Ok(bytes.into_iter().max().unwrap_or(0))
    }
}

impl Table {
    fn open(root: &Path, client_port: u16, flows: u32) -> Result<Self> {
        let path = layout_dir(root).join(MAP);
        let map = MapData::from_pin(&path).and_then(Map::from_map_data);
        let map: HashMap<_, FlowKey, Flow> = map
            .and_then(HashMap::try_from)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let capacity = map.map().info().context("no facts of the flow table")?.max_entries();
        let wanted = Crowd::capacity(flows);
        ensure!(capacity >= wanted, "{} has room for {capacity}, not {wanted}", path.display());

        let ports = [client_port.to_be(), ECHO_PORT.to_be()];
        let is_ours = |(key, _): &(FlowKey, Flow)| {
            ports.contains(&key.local_port) && ports.contains(&key.remote_port)
        };
        let templates: Vec<_> = map.iter().flatten().filter(is_ours).collect();
        if templates.len() != ENTRIES as usize {
            bail!("a connection has {} entries in {}", templates.len(), path.display());
        }
        Ok(Self { map, templates, client_port })
    }

    /// The key of a flow of the crowd, by its index.
    fn member(&self, template: &FlowKey, index: u32) -> FlowKey {
        // Below 65,536: the index is below `FLOWS_MAX`.
        let client = FIRST_CLIENT_PORT + (index % CLIENT_PORTS) as u16;
        let server = FIRST_SERVER_PORT + (index / CLIENT_PORTS) as u16;
        let port = |port: u16| {
            if port == self.client_port.to_be() { client.to_be() } else { server.to_be() }
        };
        FlowKey {
            local_port: port(template.local_port),
            remote_port: port(template.remote_port),
            ..*template
        }
    }

    /// See "memlock" in bpf(2)'s fdinfo: what the kernel has allocated for the map.
    fn bytes(&self) -> Result<u64> {
        let fd = self.map.map().fd().as_fd().as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        let bytes = line.context("the kernel does not tell a map's memory")?.trim();
        bytes.parse().with_context(|| format!("a map's memory: {bytes}"))
    }
}

/// Measures with `flows` flows and with none, in turn in each round.
///
/// # Errors
/// If a load fails, the crowd does not stay, or it was interrupted.
pub(crate) fn beside_none(
    scene: &Scene,
    flows: u32,
    rounds: u32,
    duration: Duration,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let path = scene.path(Side::Xylem, Place::Cross);
    let mut connection = path.client.run(|| TcpStream::connect((path.server, ECHO_PORT)))?;
    // Both sides have sent, so that it is established for everybody.
    connection.write_all(&[7])?;
    connection.read_exact(&mut [0])?;
    let roots = scene.bpffs_roots(Side::Xylem);
    let mut crowd = Crowd::new(&roots, &connection, flows)?;

    let mut outcome = Outcome { flows, ..Outcome::default() };
    for round in 0..rounds {
        let idle_load = cpu::idle_load(duration)?;
        // In turn the first, so that neither always comes after the other.
        for full in [round % 2 == 0, round % 2 != 0] {
            interrupt.check()?;
            eprintln!("round {round}: with {} flows", if full { flows } else { 0 });
            if full {
                crowd.fill()?;
                outcome.bytes = outcome.bytes.max(crowd.bytes()?);
            }
            for place in Place::ALL {
                for load in LOADS {
                    interrupt.check()?;
                    let path = scene.path(Side::Xylem, place);
                    let values = measure::run(load, &path, duration, idle_load)?;
                    let sample = |(metric, value)| Sample { round, full, place, metric, value };
                    outcome.samples.extend(values.into_iter().map(sample));
                }
            }
            if full {
                crowd.check_there()?;
                crowd.clear()?;
            }
        }
    }
    Ok(outcome)
}
