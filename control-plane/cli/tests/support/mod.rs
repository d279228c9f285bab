//! A real root on loopback, the real `xylem`, and a cluster that does in the session what a
//! cluster does, without workers.

mod cluster;
mod done;
mod root;

pub(crate) use cluster::Cluster;
pub(crate) use done::Done;
pub(crate) use root::Root;
